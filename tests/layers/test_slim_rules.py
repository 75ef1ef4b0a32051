import pytest
import torch
from torch import Tensor, nn

from art_oat import OperatingPoint, fold
from art_oat.layers import ChannelwiseRule, slim_rule
from art_oat.layers.slim_rules import Channels, chooses_width, is_cuttable, rule_of
from art_oat.layers.slimmable import sliced
from art_oat.rebuild import clone_tensor
from tests.networks import Residual, images, shaken

C = Channels


@pytest.mark.parametrize("layer", [nn.Embedding(3, 4), nn.LayerNorm(3), nn.ReLU(), nn.Bilinear(2, 2, 3)])
def test_what_has_no_channels_to_cut_is_not_cut(layer):
    assert not is_cuttable(layer)
    assert not chooses_width(layer)
    with pytest.raises(TypeError, match=f"a layer of type {type(layer).__name__} cannot be cut"):
        rule_of(layer)


@pytest.mark.parametrize(
    ("layer", "size", "axis", "group", "is_chosen"),
    [
        (nn.Conv2d(4, 6, 3), C(4, 6), -3, 1, True),
        (nn.ConvTranspose1d(4, 6, 3), C(4, 6), -2, 1, True),
        (nn.Linear(4, 6), C(4, 6), -1, 1, True),
        (nn.Conv2d(4, 6, 3, groups=2), C(4, 6), -3, 2, False),
        (nn.BatchNorm2d(4), C(4, 4), 1, 1, False),
        (nn.GroupNorm(2, 6), C(6, 6), 1, 3, False),
        (nn.PReLU(4), C(4, 4), 1, 1, False),
    ],
    ids=repr,
)
def test_a_layer_has_a_size_an_axis_of_channels_and_groups_and_chooses_what_it_gives_or_not(
    layer, size, axis, group, is_chosen
):
    rule = rule_of(layer)
    assert (rule.size, rule.axis, rule.group) == (size, axis, group)
    assert rule.has_channels
    assert chooses_width(layer) is is_chosen


def test_one_slope_for_all_channels_stays_one():
    layer = sliced(nn.PReLU(), C(3, 3), clone_tensor)
    assert layer.num_parameters == 1
    assert layer.weight.shape == (1,)
    assert not rule_of(layer).has_channels


def test_a_subclass_is_cut_as_its_class_is_and_keeps_what_it_does():
    class Doubling(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    full, x = Doubling(4, 6, 1).double(), torch.randn(2, 2, 3, 3, dtype=torch.float64)
    layer = sliced(full, C(2, 3), clone_tensor)
    assert type(layer) is Doubling
    torch.testing.assert_close(layer(x), 2 * nn.functional.conv2d(x, full.weight[:3, :2], full.bias[:3]))


class Scale(nn.Module):
    """A type of one's own: a factor per channel."""

    def __init__(self, nb_channels: int) -> None:
        super().__init__()
        self.nb_channels, self.weight = nb_channels, nn.Parameter(torch.ones(nb_channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(-1, 1, 1)


@slim_rule(Scale)
class ScaleRule(ChannelwiseRule):
    size_name, tensors = "nb_channels", ("weight",)


class Scaled(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.body[2] = Scale(6)


def test_a_layer_of_ones_own_is_slimmed_by_the_rule_of_its_type():
    model, x = shaken(Scaled(), widths=(0.5, 1.0)), images()
    folded = fold(model, OperatingPoint(0.3, 0.5))
    assert (folded.body[2].nb_channels, folded.body[2].weight.shape) == (3, (3,))
    torch.testing.assert_close(folded(x), model(x, 0.3, 0.5))
