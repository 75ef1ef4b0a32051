"""Conversion, pinning and folding keep every answer, whatever is unusual about a network."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from art_oat import OperatingPoint, fold, load_model, save_model, to_conditional
from art_oat.surgery import UnsupportedModuleError
from tests.compat.zoo import Own, examine, masked
from tests.edge_case_networks import ODD, Derived, Fickle, Head, Mixed, NonAffine
from tests.networks import WIDTHS, conv, images, shaken
from tests.pairs import parametrize_in_pairs

ROUNDING = 1e-12
"""In float64, relative to the largest answer: the order of some hundred additions."""


class Activated(nn.BatchNorm2d):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__(6)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(super().forward(x))


def head_with(features: Callable[[nn.Module, Tensor], Tensor] = Head.features, **parts: nn.Module) -> Head:
    """Return a Head that computes its features otherwise, or of other parts."""
    network = type("Varied", (Head,), {"features": features})()
    for name, part in parts.items():
        setattr(network, name, part)
    return network


def one_activated_norm_in_two_places() -> nn.Module:
    norm = Activated(nn.PReLU())
    return head_with(norm1=norm, norm2=norm)


@pytest.mark.parametrize("statistics", ["dual", "shared"])
@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_every_form_of_an_odd_network_answers_alike(make, statistics):
    outcome = examine(Own(make, {"statistics": statistics}))
    assert outcome.worst < ROUNDING
    assert (outcome.slimmed is None) == (make is Derived)  # whose weights are computed from others


@pytest.mark.parametrize(
    ("make", "options", "nb_norms"),
    [
        (Mixed, {"keep": ["norm2", "head"]}, 1),
        (Fickle, {"keep": ["norm2"]}, 1),
        (NonAffine, {"film_on": ["norm2"]}, 2),  # a norm without weights and FiLM folds into one without weights
        (one_activated_norm_in_two_places, {}, 1),
    ],
)
def test_norms_to_keep_stay_as_they_are_and_others_answer_alike(make, options, nb_norms):
    outcome = examine(Own(make, options))
    assert outcome.worst < ROUNDING
    assert outcome.nb_norms == nb_norms


@pytest.mark.parametrize("statistics", ["dual", "shared"])
def test_a_norm_without_weights_gets_those_that_hold_film(statistics):
    model = to_conditional(NonAffine().double(), film="published", statistics=statistics).eval()
    folded = fold(model, 0.3)
    for form in (folded, model.pinned(0.3)):
        torch.testing.assert_close(form(images()), model(images(), lam=0.3))
    assert folded.norm1.affine
    assert folded.norm1.weight.shape == (6,)


def test_whole_numbers_stay_what_they_are_where_a_network_looks_them_up():
    network = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2)).double().eval()
    tokens = torch.randint(7, (5, 3))
    model = to_conditional(network)
    assert torch.equal(model(tokens), network(tokens))
    torch.testing.assert_close(model.pinned(0.3)(tokens), network(tokens))


def test_a_network_of_two_dtypes_takes_inputs_of_the_first():
    network = Head().to(torch.bfloat16)
    network.norm1.float(), network.norm2.float()
    model = to_conditional(network.eval())
    expected = network(images(4).to(torch.bfloat16))
    assert torch.equal(model(images(4)), expected)
    assert model.network.norm1.film.output.weight.dtype == torch.float32
    # bfloat16 keeps 8 bits, and the merged affine rounds once where batch norm rounds elsewhere
    torch.testing.assert_close(model.pinned(0.0)(images(4)), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("statistics", ["dual", "shared"])
def test_channels_last_goes_through_every_form(statistics):
    model = to_conditional(Head().to(memory_format=torch.channels_last), statistics=statistics).eval()
    x = images(4, torch.float32).to(memory_format=torch.channels_last)
    layouts: list[bool] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for network in (model.network, model.pinned(0.3).network, fold(model, 0.3)):
        network.conv2.register_forward_pre_hook(note)
        assert network.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    model.train()(x, torch.tensor([0.3, 0.0, 1.0, 0.0]))
    model.eval().pinned(0.3)(x)
    fold(model, 0.3)(x)
    assert layouts == [True] * 3


def test_hooks_of_a_norm_see_what_the_layer_takes_and_gives_and_stay_with_the_network():
    network, seen = Head().double().eval(), []
    network.norm1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.norm1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    hooks = dict(network.norm1._forward_hooks)
    network(images())
    expected = list(seen)
    model = to_conditional(network)
    assert network.norm1._forward_hooks == hooks
    for form in (model, model.pinned(0.3), fold(model, 0.3)):
        seen.clear()
        form(images())
        torch.testing.assert_close(seen, expected)


def test_a_hook_that_belongs_to_the_network_belongs_to_each_copy():
    class Remembers(Head):
        def __init__(self) -> None:
            super().__init__()
            self.mean = None
            self.norm1.register_forward_hook(self.remember)

        def remember(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.mean = output.detach().mean()

    network = Remembers()
    model = to_conditional(network)
    model(images(4))
    assert network.mean is None
    assert model.network.mean is not None


def test_backward_hooks_of_a_norm_see_its_gradients():
    network, seen = Head().eval(), []
    network.norm1.register_full_backward_hook(lambda module, to_inputs, to_outputs: seen.append(to_outputs[0]))
    model, x = to_conditional(network), images(4, torch.float32).requires_grad_()
    seen.clear()
    network(x).sum().backward()
    model.pinned(0.0)(x).sum().backward()
    torch.testing.assert_close(seen[1], seen[0])


@parametrize_in_pairs(statistics=["dual", "shared"], widths=[(1.0,), (0.5, 1.0)], make=ODD)
def test_an_odd_network_comes_back_from_disk(make, widths, statistics, tmp_path):
    subject = Own(make)
    widths = (1.0,) if make is Derived else widths
    model = to_conditional(subject.build().eval(), statistics=statistics, widths=widths, input_shape=(1, 6, 6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(model, tmp_path)
    again = load_model(tmp_path, subject.build())
    assert again.state_dict().keys() == model.state_dict().keys()
    for width in widths:
        answers = [tree_leaves(form(subject.images(0), 0.3, width)) for form in (again, model)]
        torch.testing.assert_close(*answers)


# --- what a smaller width must keep, too ------------------------------------------------------------------------------


def looks_up(network: Head, x: Tensor) -> Tensor:
    return Head.features(network, x.to(network.conv1.weight.dtype))


def selects(network: Head, x: Tensor) -> Tensor:
    """A ReLU that treats NaN as zero."""
    x = network.norm1(network.conv1(x))
    return torch.relu(network.norm2(network.conv2(torch.where(x > 0, x, 0.0))))


def works_in_place(network: Head, x: Tensor) -> Tensor:
    x = network.norm1(network.conv1(x)).relu_()
    x += network.conv2(x)
    return network.norm2(x).mul_(2).relu_()


def moves_channels_into_space(network: Head, x: Tensor) -> Tensor:
    x = torch.relu(network.norm1(network.conv1(x)))
    return torch.relu(network.norm2(F.pixel_shuffle(network.conv2(x), 2)))


FEATURES = {
    looks_up: {},
    selects: {},
    works_in_place: {},
    moves_channels_into_space: {"conv2": conv(6, 16), "norm2": nn.BatchNorm2d(4), "head": nn.Linear(4, 5)},
}
ACTIVATIONS = (
    nn.Sigmoid(), nn.Softplus(), nn.GELU(), nn.Hardsigmoid(), nn.Softshrink(), nn.Threshold(0.1, 0.2), nn.PReLU(),
    nn.PReLU(6), nn.MaxPool2d(2), nn.LPPool2d(2, 2), nn.Upsample(scale_factor=2), nn.Dropout2d(0.5),
)  # fmt: skip


@pytest.mark.parametrize(
    "network",
    [
        *(pytest.param(head_with(features, **parts), id=features.__name__) for features, parts in FEATURES.items()),
        *(pytest.param(head_with(norm1=nn.Sequential(nn.BatchNorm2d(6), it)), id=repr(it)) for it in ACTIVATIONS),
    ],
)
def test_what_keeps_first_channels_first_and_works_on_each_alone_is_slimmed(network):
    """Also where it does not give zero for zero: a dropped channel is one that no layer looks at."""
    model = shaken(network, widths=WIDTHS)
    for lam, width in itertools.product((0.0, 0.7), WIDTHS):
        point = OperatingPoint(lam, width)
        expected = tree_leaves(model(images(), *point))
        for form in (model.pinned(point), fold(model, point), masked(model, point)):
            torch.testing.assert_close(tree_leaves(form(images())), expected)
    assert model.pinned(OperatingPoint(0.3, 0.5)).network.conv1.out_channels == 3


def test_hooks_see_the_weight_that_a_layer_answers_with():
    network, seen = Head().double().eval(), []
    network.conv2.register_forward_hook(lambda layer, inputs, output: seen.append(layer.weight.dtype))
    model, point = to_conditional(network, widths=WIDTHS), OperatingPoint(0.3, 0.5)
    for form in (lambda x: model(x, *point), model.pinned(point), fold(model, point)):
        seen.clear()
        form(images())
        assert seen == [torch.float64]


def test_a_network_that_runs_in_float32_alone_is_slimmed():
    model = to_conditional(head_with(lambda self, x: Head.features(self, x.float())), widths=WIDTHS).eval()
    for width in WIDTHS:
        point = OperatingPoint(0.3, width)
        torch.testing.assert_close(model.pinned(point)(images()), model(images(), *point), rtol=1e-4, atol=1e-5)


class Silenced(Head):
    """Divides by its number of channels, where a weight of zero hides it at first."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 6)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor) -> object:
        maps = self.features(x).mean(dim=(2, 3))
        return self.head(maps + self.gate(maps) / maps.shape[1])


def test_a_fault_that_zero_weights_hide_is_found():
    with pytest.raises(UnsupportedModuleError, match=r"head \(Linear\): at width 0\.5 "):
        to_conditional(Silenced(), widths=WIDTHS)


class ActivatedLinear(nn.Linear):
    """A head with an activation inside."""

    def __init__(self) -> None:
        super().__init__(6, 5)
        self.activation = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(super().forward(x))


def test_a_head_per_width_has_what_it_holds_for_itself():
    model = shaken(head_with(head=ActivatedLinear()), widths=WIDTHS, heads="per-width")
    for width in WIDTHS:
        point = OperatingPoint(0.3, width)
        for form in (model.pinned(point), fold(model, point)):
            torch.testing.assert_close(form(images()), model(images(), *point))
    activations = {id(model.network.head.at(width).activation.weight) for width in WIDTHS}
    assert len(activations) == len(WIDTHS)
