"""Conversion, pinning and folding keep every answer, whatever is unusual about a network."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from art_oat import OATModel, OperatingPoint, UnsupportedModuleError, fold, load_model, save_model, to_conditional
from tests.edge_case_networks import ODD, Derived, Fickle, Head, Mixed, NonAffine, TiedNorms
from tests.networks import WIDTHS, conv, images, shaken
from tests.pairs import parametrize_in_pairs
from tests.zoo import Own, examine, masked

ROUNDING = 1e-12
"""In float64, relative to the largest answer: the order of some hundred additions."""


@pytest.mark.parametrize("statistics", ["dual", "shared"])
@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_every_form_of_an_odd_network_answers_alike(make, statistics):
    outcome = examine(Own(make, {"statistics": statistics}))
    assert outcome.worst < ROUNDING
    assert (outcome.slimmed is None) == (make is Derived)  # whose weights are computed from others


@pytest.mark.parametrize("make", [Mixed, Fickle])
def test_norms_to_keep_stay_as_they_are(make):
    outcome = examine(Own(make, {"keep": ["norm2", "head"] if make is Mixed else ["norm2"]}))
    assert outcome.worst < ROUNDING
    assert outcome.nb_norms == 1


@pytest.mark.parametrize("statistics", ["dual", "shared"])
def test_a_norm_without_weights_gets_those_that_hold_film(statistics):
    torch.manual_seed(0)
    model = to_conditional(NonAffine().double(), film="published", statistics=statistics).eval()
    x = torch.rand(4, 1, 6, 6, dtype=torch.float64)
    folded = fold(model, 0.3)
    torch.testing.assert_close(folded(x), model(x, lam=0.3))
    torch.testing.assert_close(model.pinned(0.3)(x), model(x, lam=0.3))
    assert folded.norm1.affine
    assert folded.norm1.weight.shape == (6,)


def test_a_norm_without_weights_and_film_folds_into_one_without_weights():
    assert examine(Own(NonAffine, {"film_on": ["norm2"]})).worst < ROUNDING


def test_norms_with_weights_in_common_keep_them_in_common_on_either_side():
    network = to_conditional(TiedNorms()).network
    for side in ("clean", "adversarial"):
        assert getattr(network.norm1, side).weight is getattr(network.norm2, side).weight
    assert network.norm1.clean.weight is not network.norm1.adversarial.weight
    assert network.norm1.clean.running_mean is not network.norm2.clean.running_mean
    assert network.norm1.film is network.norm2.film


def test_a_norm_that_shares_a_weight_with_another_kind_of_layer_is_refused_by_path():
    network = Head()
    network.head.bias, network.norm2.bias = nn.Parameter(torch.zeros(6)), network.norm1.bias
    network.scaled = nn.Linear(6, 6)
    network.scaled.bias = network.norm1.bias
    with pytest.raises(UnsupportedModuleError, match=r"got norm1\.bias and norm2\.bias and scaled\.bias"):
        to_conditional(network)


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
    x = torch.rand(4, 1, 6, 6, dtype=torch.float64)
    expected = network(x.to(torch.bfloat16))
    assert torch.equal(model(x), expected)
    assert model.network.norm1.film.output.weight.dtype == torch.float32
    # bfloat16 keeps 8 bits, and the merged affine rounds once where batch norm rounds elsewhere
    torch.testing.assert_close(model.pinned(0.0)(x), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("statistics", ["dual", "shared"])
def test_channels_last_goes_through_every_form(statistics):
    model = to_conditional(Head().to(memory_format=torch.channels_last), statistics=statistics).eval()
    x = torch.rand(4, 1, 6, 6).to(memory_format=torch.channels_last)
    layouts: list[bool] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for network in (model.network, model.pinned(0.3).network, fold(model, 0.3)):
        network.conv2.register_forward_pre_hook(note)
        assert network.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    model.train()(x, torch.tensor([0.3, 0.0, 1.0, 0.0]))
    model.eval().pinned(0.3)(x)
    fold(model, 0.3)(x)
    assert len(layouts) == 3
    assert all(layouts)


def test_hooks_of_a_norm_see_what_the_layer_takes_and_gives():
    network, seen = Head().double().eval(), []
    network.norm1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.norm1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.rand(4, 1, 6, 6, dtype=torch.float64)
    network(x)
    expected = list(seen)
    model = to_conditional(network)
    for form in (model, model.pinned(0.3), fold(model, 0.3)):
        seen.clear()
        form(x)
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
    model(torch.rand(4, 1, 6, 6))
    assert network.mean is None
    assert model.network.mean is not None


def test_backward_hooks_of_a_norm_see_its_gradients():
    network, seen = Head().eval(), []
    network.norm1.register_full_backward_hook(lambda module, to_inputs, to_outputs: seen.append(to_outputs[0]))
    model, x = to_conditional(network), torch.rand(4, 1, 6, 6, requires_grad=True)
    seen.clear()
    network(x).sum().backward()
    model.pinned(0.0)(x).sum().backward()
    torch.testing.assert_close(seen[1], seen[0])


def test_a_hooked_network_is_left_alone():
    network = Head()
    network.norm1.register_forward_hook(lambda module, inputs, output: None)
    before = copy.copy(network.norm1._forward_hooks)
    to_conditional(network)
    assert network.norm1._forward_hooks == before


@pytest.mark.parametrize(
    ("film_on", "expected"),
    [
        (None, {"norm1", "norm2"}),
        (["norm2"], {"norm2"}),
        ([], set()),
        (lambda path, norm: path.endswith("1"), {"norm1"}),
    ],
)
def test_film_is_on_the_chosen_norms_only_and_all_are_dual(film_on, expected):
    network = to_conditional(Head(), film_on=film_on).network
    assert {name for name in ("norm1", "norm2") if getattr(network, name).film is not None} == expected
    assert network.norm1.clean.weight is not network.norm1.adversarial.weight


def test_the_choice_of_norms_is_kept_as_paths_which_make_the_same_model():
    model = to_conditional(Head(), film_on=lambda path, norm: path == "norm2", keep=lambda path, norm: path == "norm1")
    assert model.conversion["film_on"] == ["norm2"]
    assert model.conversion["keep"] == ["norm1"]
    again = to_conditional(Head(), **model.conversion)
    assert again.state_dict().keys() == model.state_dict().keys()


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


@pytest.mark.parametrize("film_on", [["norm1"], ["norm2"]])
def test_tied_norms_of_which_only_some_would_get_a_film_are_refused(film_on):
    with pytest.raises(UnsupportedModuleError, match=r"all of them or none with a FiLM, got norm1\.weight and norm2"):
        to_conditional(TiedNorms(), film_on=film_on)


def test_norms_that_are_tied_through_others_share_one_film():
    network = Chained().double()
    assert examine(Own(Chained)).worst < ROUNDING
    converted = to_conditional(network).network
    assert converted.norm1.film is converted.norm2.film is converted.norm3.film


class Chained(Head):
    """The weight of the first norm is the second's, and the bias of the second the third's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3, self.norm3 = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.norm2.bias = self.norm3.bias
        self.norm2.weight = self.norm1.weight

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm3(self.conv3(super().features(x))))


def test_a_norm_that_does_more_than_its_class_says_is_refused():
    replaced, derived, nested = Head(), Head(), Head()
    replaced.norm1.forward = lambda x: x
    derived.norm1 = _with_weight_of_its_own()
    nested.norm1 = Nested(6)
    for network, message in [
        (replaced, "forward was replaced on the instance"),
        (derived, "its weights are computed from others"),
        (nested, "it holds another norm"),
    ]:
        with pytest.raises(UnsupportedModuleError, match=message):
            to_conditional(network)


def _with_weight_of_its_own() -> nn.Module:
    norm = nn.BatchNorm2d(6)
    weight = norm.weight.detach().clone()
    del norm.weight
    norm.weight = weight  # a plain tensor, as the old-style reparametrizations leave it
    return norm


class Nested(nn.BatchNorm2d):
    def __init__(self, nb_channels: int) -> None:
        super().__init__(nb_channels)
        self.inner = nn.BatchNorm2d(nb_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(super().forward(x))


class SharesActivation(Head):
    """Two norms that hold one activation with a weight."""

    def __init__(self) -> None:
        super().__init__()
        activation = nn.PReLU()
        self.norm1, self.norm2 = WithActivation(activation), WithActivation(activation)


class WithActivation(nn.BatchNorm2d):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__(6)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(super().forward(x))


def test_norms_that_hold_one_trainable_activation_are_refused_by_path():
    with pytest.raises(UnsupportedModuleError, match=r"norm1\.activation\.weight and norm2\.activation\.weight"):
        to_conditional(SharesActivation())


def test_one_norm_with_an_activation_may_be_used_in_two_places():
    class Twice(Head):
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = self.norm2 = WithActivation(nn.PReLU())

    assert examine(Own(Twice)).worst < ROUNDING


# --- what a smaller width must keep, too ------------------------------------------------------------------------------


def assert_slimmed(network: nn.Module, **options: object) -> OATModel:
    """Every form of it answers at every width as the full one does with the dropped channels masked."""
    model = shaken(network, widths=WIDTHS, **options)
    for lam, width in itertools.product((0.0, 0.7), WIDTHS):
        point = OperatingPoint(lam, width)
        expected = tree_leaves(model(images(), *point))
        for form in (model.pinned(point), fold(model, point), masked(model, point)):
            torch.testing.assert_close(tree_leaves(form(images())), expected)
    assert model.pinned(OperatingPoint(0.3, 0.5)).network.conv1.out_channels == 3
    return model


class LooksUp(Head):
    """Reads the dtype of a weight in its forward."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x.to(self.conv1.weight.dtype))


def test_a_network_may_look_at_the_weights_of_its_layers():
    assert_slimmed(LooksUp())


def test_hooks_see_the_weight_that_a_layer_answers_with():
    network, seen = Head().double().eval(), []
    network.conv2.register_forward_hook(lambda layer, inputs, output: seen.append(layer.weight.dtype))
    model, point = to_conditional(network, widths=WIDTHS), OperatingPoint(0.3, 0.5)
    for form in (lambda x: model(x, *point), model.pinned(point), fold(model, point)):
        seen.clear()
        form(images())
        assert seen == [torch.float64]


@pytest.mark.parametrize(
    "activation",
    [
        nn.Sigmoid(), nn.Softplus(), nn.GELU(), nn.Hardsigmoid(), nn.Softshrink(), nn.Threshold(0.1, 0.2), nn.PReLU(),
        nn.PReLU(6), nn.MaxPool2d(2), nn.LPPool2d(2, 2), nn.Upsample(scale_factor=2), nn.Dropout2d(0.5),
    ],
    ids=repr,
)  # fmt: skip
def test_what_works_on_each_channel_alone_is_slimmed(activation):
    """Also where it does not give zero for zero: a dropped channel is one that no layer looks at."""
    network = Head()
    network.norm1 = nn.Sequential(network.norm1, activation)
    assert_slimmed(network)


class Selects(Head):
    """A ReLU that treats NaN as zero."""

    def features(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x))
        return torch.relu(self.norm2(self.conv2(torch.where(x > 0, x, 0.0))))


class InPlace(Head):
    def features(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu_()
        x += self.conv2(x)
        return self.norm2(x).mul_(2).relu_()


class Shuffled(Head):
    """Moves channels into space, four by four."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2, self.norm2, self.head = conv(6, 16), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def features(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(nn.functional.pixel_shuffle(self.conv2(x), 2)))


@pytest.mark.parametrize("make", [Selects, InPlace, Shuffled], ids=lambda make: make.__name__)
def test_what_keeps_first_channels_first_is_slimmed(make):
    assert_slimmed(make())


class Single(Head):
    """Computes in float32, whatever precision its weights have elsewhere."""

    def forward(self, x: Tensor) -> object:
        return super().forward(x.float())


def test_a_network_that_runs_in_float32_alone_is_slimmed():
    model = to_conditional(Single(), widths=WIDTHS).eval()
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


class Activated(nn.Linear):
    """A head with an activation inside."""

    def __init__(self) -> None:
        super().__init__(6, 5)
        self.activation = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(super().forward(x))


def test_a_head_per_width_has_what_it_holds_for_itself():
    network = Head()
    network.head = Activated()
    model = shaken(network, widths=WIDTHS, heads="per-width")
    for width in WIDTHS:
        point = OperatingPoint(0.3, width)
        for form in (model.pinned(point), fold(model, point)):
            torch.testing.assert_close(form(images()), model(images(), *point))
    activations = {id(model.network.head.at(width).activation.weight) for width in WIDTHS}
    assert len(activations) == len(WIDTHS)
