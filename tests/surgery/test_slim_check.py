"""What does not equal the full network with its dropped channels masked is refused, by dotted path and reason."""

import copy
import itertools
import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from art_oat import OperatingPoint, fold, to_conditional
from art_oat.surgery import UnsupportedModuleError
from tests.compat.zoo import masked
from tests.edge_case_networks import REFUSED, Concatenates, Divides, Head, LayerNormed, Refused
from tests.networks import WIDTHS, conv, images, shaken


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.make.__name__)
def test_what_does_not_equal_the_masked_network_is_refused_by_dotted_path(refused: Refused):
    network = refused.make()
    state = copy.deepcopy(network.state_dict())
    to_conditional(network, keep=refused.keep)  # with one width it is fine
    with pytest.raises(UnsupportedModuleError, match=r"^cannot slim \d layer\(s\)\. ") as caught:
        to_conditional(network, widths=(0.5, 1), keep=refused.keep)
    (described,) = [part for part in str(caught.value).split(". ") if f"{refused.path}: at width 0.5" in part]
    assert re.search(refused.fault, described), described
    assert "full_width" in str(caught.value)
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)


WITH_WAY = [refused for refused in REFUSED if refused.full_width]


@pytest.mark.parametrize("refused", WITH_WAY, ids=lambda refused: refused.make.__name__)
def test_with_the_channels_before_a_fault_kept_the_rest_is_slimmed_exactly(refused: Refused):
    model = shaken(refused.make(), widths=WIDTHS, full_width=refused.full_width, keep=refused.keep)
    x = images()
    for lam, width in itertools.product((0.0, 0.7), WIDTHS):
        point = OperatingPoint(lam, width)
        expected = tree_leaves(model(x, *point))
        for form in (model.pinned(point), fold(model, point), masked(model, point)):
            torch.testing.assert_close(tree_leaves(form(x)), expected)
    full, small = (fold(model, OperatingPoint(0.3, width)) for width in (1.0, 0.5))
    assert nb_weights(small) < nb_weights(full)
    for path in refused.full_width:
        assert len(small.get_submodule(path).weight) == len(full.get_submodule(path).weight)


def nb_weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


class Faulty(nn.Module):
    """One fault of every kind, far from each other."""

    def __init__(self) -> None:
        super().__init__()
        self.concatenates, self.normalizes = Concatenates(), LayerNormed()
        self.softmax = nn.Sequential(conv(1, 6), nn.BatchNorm2d(6), nn.Softmax(dim=1), conv(6, 6))
        self.counts = Divides()

    def forward(self, x: Tensor) -> Tensor:
        scores = self.concatenates(x) + self.normalizes(x) + self.counts(x)
        return scores + self.softmax(x).mean(dim=(1, 2, 3))[:, None]


def test_every_fault_is_named_in_one_error():
    with pytest.raises(UnsupportedModuleError) as caught:
        to_conditional(Faulty(), widths=WIDTHS, keep=["normalizes.head.0"])
    message = str(caught.value)
    for path in (
        "concatenates.conv3 (Conv2d)",
        "normalizes.head.0 (LayerNorm)",
        "softmax.3 (Conv2d)",
        "counts.head (Linear)",
    ):
        assert f"{path}: at width" in message
    for path in ("concatenates.conv1", "concatenates.norm3", "softmax.0", "normalizes.conv2"):
        assert f"{path} (" not in message


def test_a_network_that_returns_something_per_channel_is_refused():
    class Lists(Head):
        def forward(self, x: Tensor) -> object:
            features = self.features(x)
            return [self.head(features.mean(dim=(2, 3))), *(torch.ones(1) for _ in range(features.shape[1]))]

    with pytest.raises(
        UnsupportedModuleError, match=r"the network itself \(Lists\): .*it does not return what it returns"
    ):
        to_conditional(Lists(), widths=WIDTHS)


def test_a_layer_that_is_called_on_different_numbers_of_channels_is_refused():
    class Twice(Head):
        def __init__(self) -> None:
            super().__init__()
            self.conv3 = conv(1, 6)

        def features(self, x: Tensor) -> Tensor:
            narrow, wide = torch.relu(self.norm1(self.conv1(x))), torch.relu(self.conv3(x))
            return torch.relu(self.norm2(self.conv2(narrow) + self.conv2(wide)))

    to_conditional(Twice(), widths=WIDTHS)
    with pytest.raises(UnsupportedModuleError, match=r"conv2 \(Conv2d\): .*it gets 3 channels in one call and 6 in an"):
        to_conditional(Twice(), widths=(0.5, 1), full_width=["conv3"])


def test_a_network_that_would_keep_everything_is_refused():
    with pytest.raises(UnsupportedModuleError, match="cannot slim Head: no layer of it gives fewer channels"):
        to_conditional(Head(), widths=WIDTHS, full_width=["conv1", "conv2"])
