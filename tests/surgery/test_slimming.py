"""At a smaller width a network is the full one with the dropped channels masked, or it is refused."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import Tensor, nn

from art_oat import OATModel, OperatingPoint, fold, to_conditional
from art_oat.layers import ConditionalLayer, Slimmable, Switch
from art_oat.layers.slimmable import channels_at
from art_oat.surgery import UnsupportedModuleError
from art_oat.surgery.slimming import slim
from tests.compat.zoo import masked
from tests.edge_case_networks import (
    Concatenates,
    Head,
    ReturnsTuple,
    TiedConvolutions,
    TiedNorms,
)
from tests.networks import (
    SLIMMABLE,
    WIDTHS,
    Bottleneck,
    Grouped,
    Hourglass,
    MobileSqueezeExcite,
    Residual,
    SharedNorm,
    conv,
    images,
    resnet,
    shaken,
    transformer,
)
from tests.pairs import parametrize_in_pairs

SMALLER = WIDTHS[:-1]
LAMS = torch.tensor([0.0, 0.1, 0.4, 0.0, 1.0, 0.2, 0.3, 0.15], dtype=torch.float64)


def networks(*makes):
    return pytest.mark.parametrize("make", makes or SLIMMABLE, ids=lambda make: make.__name__)


def oats(make, **options: object) -> OATModel:
    return shaken(make(), **{"widths": WIDTHS, **options})


def gradient_to_input(network, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    scores = network(x)
    weights = torch.linspace(-1, 2, scores.numel(), dtype=x.dtype).view_as(scores)
    return torch.autograd.grad((scores * weights).sum(), x)[0]


def built_at(make, model: OATModel, point: OperatingPoint) -> nn.Module:
    """The plain network that its class builds at a width, with the weights of the folded one."""
    network = make(point.width).double().eval()
    network.load_state_dict(fold(model, point).state_dict(), strict=True)
    return network


OPTIONS = [{}, {"statistics": "shared", "film": "published"}, {"heads": "per-width", "film": "published"}]


@parametrize_in_pairs(make=(*SLIMMABLE, Grouped), width=WIDTHS, lam=[0.0, 0.7], options=OPTIONS)
def test_every_form_equals_the_plain_network_built_at_the_width(make, lam, width, options):
    model, x, point = oats(make, **options), images(), OperatingPoint(lam, width)
    plain = built_at(make, model, point)
    for form in (fold(model, point), model.pinned(point), lambda x: model(x, lam, width)):
        torch.testing.assert_close(form(x), plain(x))
        torch.testing.assert_close(gradient_to_input(form, x), gradient_to_input(plain, x))


@networks()
@pytest.mark.parametrize("width", SMALLER)
def test_what_is_folded_has_the_weights_of_the_first_channels(make, width):
    network = make().double().eval()
    model = to_conditional(network, widths=WIDTHS)  # FiLM is the identity, and the norms of all widths are slices
    sizes = {name: tensor.shape for name, tensor in make(width).state_dict().items()}
    for name, tensor in fold(model, OperatingPoint(0.3, width)).state_dict().items():
        first = network.state_dict()[name][tuple(slice(length) for length in sizes[name])]
        torch.testing.assert_close(tensor, first, rtol=0, atol=0)


@networks()
@pytest.mark.parametrize("width", SMALLER)
def test_training_at_a_width_equals_training_the_narrow_network_alone(make, width):
    """One pass forward and back in training mode: scores, statistics, and the gradient of every shared weight."""
    network = make().double()
    wide = to_conditional(network, widths=WIDTHS).train()
    narrow_network = make(width).double()
    narrow_network.load_state_dict(fold(wide, OperatingPoint(0.0, width)).state_dict())
    narrow = to_conditional(narrow_network).train()
    scores = []
    for model in (wide, narrow):
        torch.manual_seed(0)  # dropout
        scores.append(model(images(), LAMS, width if model is wide else 1.0))
        (scores[-1] * torch.linspace(-1, 2, 40, dtype=torch.float64).view(8, 5)).sum().backward()
    torch.testing.assert_close(*scores)
    assert_trained_alike(wide, narrow, width)


def assert_trained_alike(wide: OATModel, narrow: OATModel, width: float) -> None:
    """The norms of the width are those of the narrow network, and first parts of gradients its gradients."""
    kinds = []
    for path, part in wide.network.named_modules():
        if not isinstance(part, Switch | Slimmable):
            continue
        kinds.append(Switch if isinstance(part, Switch) else Slimmable)
        alone = narrow.network.get_submodule(path)
        if isinstance(part, Switch):
            for side in ("clean", "adversarial"):
                own, expected = getattr(part.at(width), side), getattr(alone, side)
                torch.testing.assert_close(own.state_dict(), expected.state_dict())
                torch.testing.assert_close(own.weight.grad, expected.weight.grad)
                torch.testing.assert_close(own.bias.grad, expected.bias.grad)
            continue
        for name, parameter in alone.named_parameters():
            gradient = getattr(part, name).grad.clone()
            first = tuple(slice(length) for length in parameter.shape)
            torch.testing.assert_close(gradient[first], parameter.grad)
            gradient[first] = 0
            assert not gradient.any(), f"dropped channels of {path}.{name} have a gradient"
    assert set(kinds) == {Switch, Slimmable}


@networks(*SLIMMABLE, Grouped)
@pytest.mark.parametrize("width", SMALLER)
def test_a_width_equals_the_full_network_whose_layers_get_zeros_for_dropped_channels(make, width):
    model, x, point = oats(make), images(), OperatingPoint(0.7, width)
    reference = masked(model, point)
    torch.testing.assert_close(model.pinned(point)(x), reference(x))
    torch.testing.assert_close(gradient_to_input(model.pinned(point), x), gradient_to_input(reference, x))


@networks()
def test_at_full_width_a_slimmable_network_answers_as_one_that_is_not(make):
    network = make().double().eval()
    one, several = to_conditional(network), to_conditional(network, widths=WIDTHS)
    assert torch.equal(several(images(), lam=0.3), one(images(), lam=0.3))
    torch.testing.assert_close(fold(several, 0.3).state_dict(), fold(one, 0.3).state_dict(), rtol=0, atol=0)


@networks()
@pytest.mark.parametrize("width", WIDTHS)
def test_a_batch_that_mixes_lams_equals_the_batches_of_each_lam_at_every_width(make, width):
    model, x = oats(make), images()
    expected = torch.cat([model(x[i : i + 1], float(LAMS[i]), width) for i in range(8)])
    torch.testing.assert_close(model(x, LAMS, width), expected)
    live = model.live_network(width)
    live.set_lam(LAMS)
    torch.testing.assert_close(live(x), expected)


# --- what is shared between widths, and what is not -------------------------------------------------------------------


def of_width(model: OATModel, width: float) -> dict[str, Tensor]:
    """Weights and statistics that belong to one width alone."""
    index = model.widths.index(width)
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    return {name: tensor for name, tensor in named if f".by_width.{index}." in name and ".film." not in name}


@parametrize_in_pairs(make=SLIMMABLE, heads=["shared", "per-width"], trained=WIDTHS)
def test_statistics_norms_and_heads_of_one_width_never_move_when_another_trains(make, heads, trained):
    model = oats(make, heads=heads).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):  # the momentum of the first step moves weights in the second
        before = copy.deepcopy(model.state_dict())
        optimizer.zero_grad()
        model(images(), LAMS, trained).square().sum().backward()
        optimizer.step()
    for width in model.widths:
        own = of_width(model, width)
        assert own
        for name, tensor in own.items():
            is_fixed = torch.equal(tensor, before[name])
            assert is_fixed == (width != trained), name


@networks()
def test_every_width_has_norms_of_its_own_and_the_first_part_of_one_film_and_all_else_is_shared(make):
    def nb_other(model: OATModel) -> int:
        inside = [part for part in model.modules() if isinstance(part, ConditionalLayer)]
        norms = {id(tensor) for part in inside for tensor in part.parameters()}
        return sum(tensor.numel() for tensor in model.parameters() if id(tensor) not in norms)

    model = oats(make)
    norms = [part for part in model.network.modules() if isinstance(part, Switch)]
    assert norms
    for norm in norms:
        parts = [norm.at(width) for width in WIDTHS]
        for small, part in itertools.combinations(parts, 2):
            assert small.clean.running_mean is not part.clean.running_mean
            assert small.clean.weight is not part.clean.weight
            assert small.adversarial.weight is not part.adversarial.weight
        assert all(part.film.whole is parts[-1].film for part in parts[:-1])
    assert nb_other(model) == nb_other(to_conditional(make()))


@networks()
@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_heads_per_width_start_as_slices_and_are_weights_of_their_own(make, heads):
    network = make().double().eval()
    model = to_conditional(network, widths=WIDTHS, heads=heads)
    shared = to_conditional(network, widths=WIDTHS)
    for width in WIDTHS:
        assert torch.equal(model(images(), 0.3, width), shared(images(), 0.3, width))
    heads_of = [part for part in model.network.modules() if isinstance(part, Switch) and has_linear(part)]
    assert len(heads_of) == (heads == "per-width")
    for switch in heads_of:
        weights = [switch.at(width).weight for width in WIDTHS]
        assert len({weight.data_ptr() for weight in weights}) == len(WIDTHS)
        assert all(isinstance(weight, nn.Parameter) for weight in weights)


def has_linear(switch: Switch) -> bool:
    return isinstance(switch.by_width[0], nn.Linear)


def test_shared_layers_and_tied_weights_stay_so_at_every_width():
    shared, tied, norms = oats(SharedNorm), oats(TiedConvolutions), to_conditional(TiedNorms(), widths=WIDTHS).network
    assert shared.network.in_list[0] is shared.network.norm
    assert tied.network.conv2.weight is tied.network.conv3.weight
    for width in WIDTHS:
        point = OperatingPoint(0.3, width)
        for network in (fold(shared, point), shared.pinned(point).network):
            assert network.in_list[0] is network.norm
        folded = fold(tied, point)
        assert folded.conv2.weight is folded.conv3.weight
        first, second = norms.norm1.at(width), norms.norm2.at(width)
        for side in ("clean", "adversarial"):
            assert getattr(first, side).weight is getattr(second, side).weight
            assert getattr(first, side).running_mean is not getattr(second, side).running_mean
    assert norms.norm1.at(0.5).clean.weight is not norms.norm1.at(1.0).clean.weight


@pytest.mark.parametrize("width", WIDTHS)
def test_pinned_networks_follow_tied_weights(width):
    model = oats(TiedConvolutions)
    optimizer, pinned = torch.optim.SGD(model.parameters(), lr=0.1), model.pinned(OperatingPoint(0.3, width))
    model(images(), 0.3, width).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(pinned(images()), model(images(), 0.3, width))


@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_frozen_parameters_and_modes_stay_as_they_are_at_every_width(heads):
    network = Residual().requires_grad_(requires_grad=False)
    network.head.requires_grad_()
    network.body.eval()
    model = to_conditional(network, widths=WIDTHS, heads=heads)
    trainable = {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trainable if ".film." not in name} == {"head"}
    assert not any(part.training for part in model.network.body.modules())
    assert all(part.training for part in model.network.norm.modules())
    folded = fold(model, OperatingPoint(0.3, 0.5))
    assert not folded.body[0].weight.requires_grad
    assert folded.head.weight.requires_grad


def test_channels_last_carries_over_to_every_width():
    model = to_conditional(resnet().to(memory_format=torch.channels_last), widths=WIDTHS)
    folded = fold(model, OperatingPoint(0.3, 0.5))
    for network in (folded, model.network):
        weights = [weight for weight in network.parameters() if weight.dim() == 4]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_slimming_leaves_the_network_and_the_global_generator_alone():
    network = Bottleneck()
    state, random_state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    model = to_conditional(network, widths=WIDTHS)
    assert torch.equal(torch.get_rng_state(), random_state)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert network.training
    assert repr(network) == repr(Bottleneck())
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


# --- hooks ------------------------------------------------------------------------------------------------------------


def forms(model: OATModel, point: OperatingPoint):
    return (lambda x: model(x, *point)), model.pinned(point), fold(model, point)


def observe(network: nn.Module) -> list[Tensor]:
    """Let hooks of every layer change what it takes and gives, and note that."""
    seen: list[Tensor] = []

    def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        seen.append(inputs[0])
        return 2 * inputs[0]

    def leave(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append(output)
        return output - 1

    for leaf in (part for part in network.modules() if not list(part.children())):
        leaf.register_forward_pre_hook(enter)
        leaf.register_forward_hook(leave)
    return seen


@parametrize_in_pairs(make=[Residual, Bottleneck, Hourglass], heads=["shared", "per-width"], width=WIDTHS)
def test_hooks_of_every_layer_run_once_per_pass_see_what_it_takes_and_gives_and_may_change_it(make, heads, width):
    network, x, point = make().double().eval(), images(), OperatingPoint(0.3, width)
    seen = observe(network)
    model = to_conditional(network, widths=WIDTHS, heads=heads)
    plain = built_at(make, model, point)
    by_hand = observe(plain)
    expected = plain(x)
    assert len(by_hand) == 2 * sum(not list(part.children()) for part in network.modules())
    for form in forms(model, point):
        seen.clear()
        torch.testing.assert_close(form(x), expected)
        torch.testing.assert_close(seen, by_hand)


@pytest.mark.parametrize("width", WIDTHS)
def test_backward_hooks_of_layers_see_their_gradients_at_every_width(width):
    network, seen = Residual().eval(), []
    for layer in (network.body[3], network.norm, network.head):
        layer.register_full_backward_hook(lambda _, __, to_outputs: seen.append(to_outputs[0]))
    model, point = to_conditional(network, widths=WIDTHS), OperatingPoint(0.3, width)
    gradients = []
    for form in forms(model, point):
        seen.clear()
        form(images(dtype=torch.float32).requires_grad_()).square().sum().backward()
        gradients.append(list(seen))
    assert [gradient.shape[1] for gradient in gradients[0]] == [5, *[channels_at(width, 8)] * 2]
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


# --- layers that hold more than their weights -------------------------------------------------------------------------


class Activated(nn.Conv2d):
    """A convolution with dropout and an activation inside."""

    def __init__(self) -> None:
        super().__init__(6, 6, 3, padding=1)
        self.dropout, self.activation = nn.Dropout(0.5), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dropout(super().forward(x)))


class WithActivated(Head):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = Activated()


@pytest.mark.parametrize("width", WIDTHS)
def test_what_a_convolution_holds_is_copied_by_folding_followed_by_pinning_and_in_evaluation_mode_there_alone(width):
    model, point = oats(WithActivated).train(), OperatingPoint(0.3, width)
    pinned, folded = model.pinned(point), fold(model, point)
    assert all(part.training for part in model.modules())
    assert not any(part.training for network in (pinned, folded) for part in network.modules())
    assert not any(parameter.requires_grad for parameter in pinned.parameters())
    expected = folded(images())
    torch.testing.assert_close(pinned(images()), expected)
    with torch.no_grad():
        model.network.conv2.activation.weight.add_(1)
    torch.testing.assert_close(pinned(images()), model.eval()(images(), *point))
    assert not torch.allclose(pinned(images()), expected)
    assert torch.equal(folded(images()), expected)


# --- structure --------------------------------------------------------------------------------------------------------


class Groups(nn.Module):
    """A grouped convolution on ten channels, with what meets it by a sum and a product."""

    def __init__(self, nb_groups: int) -> None:
        super().__init__()
        self.stem, self.norm = conv(1, 10), nn.BatchNorm2d(10)
        self.shortcut = conv(1, 10, 1)
        self.gate = nn.Linear(1, 10)
        self.grouped = conv(10, 20, groups=nb_groups)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x)) + self.shortcut(x)
        y = y * self.gate(x.mean(dim=(2, 3)))[:, :, None, None]
        return self.head(self.grouped(torch.relu(y)).mean(dim=(2, 3)))


@pytest.mark.parametrize(("nb_groups", "size"), [(2, 5), (5, 2), (10, 1)])
@pytest.mark.parametrize("width", [0.1, 0.3, 0.5])
def test_whatever_reaches_a_grouped_convolution_is_cut_to_whole_groups(nb_groups, size, width):
    kept_groups = channels_at(width, nb_groups)
    folded = fold(to_conditional(Groups(nb_groups), widths=(width, 1)), OperatingPoint(0, width))
    for layer in (folded.stem, folded.shortcut):
        assert layer.out_channels == size * kept_groups
    assert folded.gate.out_features == folded.norm.num_features == size * kept_groups
    assert (folded.grouped.groups, folded.grouped.in_channels) == (kept_groups, size * kept_groups)
    assert folded.grouped.out_channels == folded.head.in_features == 20 // nb_groups * kept_groups


def test_groups_of_two_kinds_that_meet_are_cut_to_whole_ones_of_either():
    network = nn.Sequential(conv(1, 24), nn.BatchNorm2d(24), Both(), nn.Flatten(), nn.Linear(48, 5))
    folded = fold(to_conditional(network, widths=(0.2, 1)), OperatingPoint(0, 0.2))
    assert folded[0].out_channels == 12  # ceil(0.2 * 4) times lcm(4, 6)
    assert (folded[2].four.groups, folded[2].six.groups) == (3, 2)


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.four, self.six = conv(24, 24, groups=6), conv(24, 24, groups=4)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.pool(self.four(x)), self.pool(self.six(x))], dim=2)


def test_a_group_norm_that_is_kept_is_cut_to_whole_groups():
    network = Head()
    network.norm2 = nn.GroupNorm(2, 6)
    model = shaken(network, keep=["norm2"], widths=(0.3, 0.75, 1))
    for width, nb_channels in ((0.3, 3), (0.75, 6), (1.0, 6)):
        folded = fold(model, OperatingPoint(0.3, width))
        assert (folded.norm2.num_groups, folded.norm2.num_channels) == (nb_channels // 3, nb_channels)
        assert folded.conv2.out_channels == nb_channels
        torch.testing.assert_close(folded(images()), model(images(), 0.3, width))


def test_norms_to_keep_have_statistics_per_width_which_train():
    model = shaken(Head(), keep=["norm2"], widths=WIDTHS)
    means = [model.network.norm2.at(width).running_mean for width in WIDTHS]
    assert [len(mean) for mean in means] == [3, 5, 6]
    assert not torch.allclose(means[0], means[2][:3])
    for width in WIDTHS:
        point = OperatingPoint(0.3, width)
        torch.testing.assert_close(fold(model, point)(images()), model(images(), *point))
        torch.testing.assert_close(model.pinned(point)(images()), model(images(), *point))


def test_whatever_reaches_the_output_keeps_all_its_channels():
    folded = fold(to_conditional(ReturnsTuple(), widths=(0.5, 1)), OperatingPoint(0, 0.5))
    assert folded.conv1.out_channels == folded.conv2.in_channels == 3
    assert folded.conv2.out_channels == 6  # its maps are returned beside the scores
    assert folded.head.out_features == 5


def test_a_layer_that_is_used_twice_is_cut_once():
    class Recurrent(Head):
        def features(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm1(self.conv1(x)))
            return torch.relu(self.norm2(self.conv2(torch.relu(self.conv2(x)))))

    model = shaken(Recurrent(), widths=WIDTHS)
    for width in WIDTHS:
        torch.testing.assert_close(model.pinned(OperatingPoint(0.3, width))(images()), model(images(), 0.3, width))
        torch.testing.assert_close(masked(model, OperatingPoint(0.3, width))(images()), model(images(), 0.3, width))


class Spare(Head):
    """Holds layers that are not called."""

    def __init__(self) -> None:
        super().__init__()
        self.spare, self.spare_norm = conv(6, 6), nn.BatchNorm2d(6)


def test_a_layer_that_no_pass_reaches_is_refused_unless_it_is_to_stay_whole():
    with pytest.raises(UnsupportedModuleError, match=r"spare \(Conv2d\): it was not called"):
        to_conditional(Spare(), widths=WIDTHS)
    folded = fold(to_conditional(Spare(), widths=WIDTHS, full_width=["spare"]), OperatingPoint(0, 0.5))
    assert folded.spare.weight.shape == (6, 6, 3, 3)
    assert folded.spare_norm.num_features == 6


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"widths": (0.5,)}, ValueError, r"widths must hold distinct numbers in \(0, 1\], 1 among them, got \(0.5,\)"),
        ({"heads": "own"}, ValueError, r"heads must be one of \('shared', 'per-width'\), got 'own'"),
        ({"full_width": ["conv9"]}, ValueError, r"full_width must hold dotted paths of layers .*'conv9' \(near: \['co"),
        ({"full_width": ["norm1"]}, ValueError, "full_width must hold dotted paths of layers that set a number of"),
        ({"full_width": "conv1"}, TypeError, "full_width must hold dotted paths, or be a predicate on path and layer"),
        ({"input_shape": (3, 8, 8)}, ValueError, r"input_shape must be the shape of one sample .*got \(3, 8, 8\)"),
        ({"input_shape": (1, 8)}, ValueError, r"input_shape must be the shape of one sample .*got \(1, 8\)"),
        ({"input_shape": 8}, ValueError, "input_shape must hold whole numbers above 0, .* got 8"),
        ({"input_shape": (1, -8, 8)}, ValueError, r"input_shape must hold whole numbers above 0, .*, got \(1, -8, 8\)"),
        ({"input_shape": (1, 8.5, 8)}, ValueError, "input_shape must hold whole numbers above 0"),
        ({"input_shape": "1x8x8"}, ValueError, "input_shape must hold whole numbers above 0"),
    ],
)  # fmt: skip
def test_an_argument_that_says_nothing_about_slimming_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        to_conditional(Head(), **{"widths": WIDTHS, **options})


def test_a_network_of_which_no_common_image_size_is_taken_asks_for_the_input_shape():
    network = nn.Sequential(conv(1, 6), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 7 * 11, 5))
    with pytest.raises(ValueError, match="input_shape must be the shape of one sample that the network takes, got Non"):
        to_conditional(network, widths=WIDTHS)
    model = to_conditional(network, widths=WIDTHS, input_shape=(1, 7, 11))
    assert model(torch.zeros(2, 1, 7, 11), 0.3, 0.5).shape == (2, 5)


def test_scores_without_a_gradient_are_refused():
    class Decides(Head):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(ValueError, match="the network must return scores that have a gradient"):
        to_conditional(Decides(), widths=WIDTHS)


def test_with_one_width_nothing_is_looked_at_and_nothing_is_slimmable():
    network = Concatenates()
    model = to_conditional(network, widths=[1])
    assert not any(isinstance(part, Slimmable | Switch) for part in model.modules())
    network.register_forward_pre_hook(lambda *_: pytest.fail("it was run"))
    assert slim(network, (1.0,)).channels == {}


def test_the_choice_of_layers_is_kept_as_paths_which_make_the_same_model():
    model = to_conditional(
        Residual(),
        widths=(1, 0.5),
        heads="per-width",
        full_width=lambda path, _: path == "body.0",
        input_shape=[1, 6, 6],
    )
    conversion = model.conversion
    assert conversion["widths"] == (0.5, 1.0)
    assert conversion["heads"] == "per-width"
    assert conversion["full_width"] == ["body.0"]
    assert conversion["input_shape"] == [1, 6, 6]
    again = to_conditional(Residual(), **conversion)
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_network_of_any_precision_is_slimmed(dtype):
    model = to_conditional(MobileSqueezeExcite().to(dtype), widths=WIDTHS)
    assert {tensor.dtype for tensor in model.parameters()} == {dtype}
    assert fold(model, OperatingPoint(0, 0.5)).head.weight.dtype == dtype


# --- what an own network may do ---------------------------------------------------------------------------------------


class AsksForTypes(nn.Module):
    """Treats its layers by their types, and reads their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv(1, 6), nn.BatchNorm2d(6), conv(6, 6), nn.BatchNorm2d(6)])
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x.to(layer.weight.dtype) if isinstance(layer, nn.Conv2d) else x)
            x = torch.relu(x) if isinstance(layer, nn.Conv2d) and layer.stride == (1, 1) else x
        return self.head(x.mean(dim=(2, 3)))


class AttendsToChannels(Head):
    """Convolves along its channels, multiplies them with each other, and normalizes by their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.along = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def features(self, x: Tensor) -> Tensor:
        x = super().features(x)
        weights = torch.sigmoid(self.along(x.mean(dim=(2, 3)).unsqueeze(1))).squeeze(1)
        x = (x * weights[..., None, None]).flatten(2)
        attention = torch.softmax(x.transpose(1, 2) @ x, dim=2)
        return nn.functional.normalize(x @ attention, dim=1).unsqueeze(3)


class HoldsNorms(nn.Conv2d):
    """A convolution with a norm and an activation of its own inside."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, padding=1, bias=False)
        self.norm, self.activation = nn.BatchNorm2d(after), nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(super().forward(x)))


def holds_norms() -> nn.Sequential:
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(HoldsNorms(1, 6), HoldsNorms(6, 6), pool, nn.Flatten(), nn.Linear(6, 5))


class ScalesByOne(Head):
    """Holds a layer with one weight, whatever the number of channels (generalized-mean pooling)."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.power = nn.Parameter(torch.ones(1) * 3)

        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(min=1e-6).pow(self.power).mean(dim=(2, 3)).pow(1 / self.power)

    def __init__(self) -> None:
        super().__init__()
        self.pool = self.Pool()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)))


@pytest.mark.parametrize("make", [AsksForTypes, AttendsToChannels, holds_norms, ScalesByOne])
@pytest.mark.parametrize("width", WIDTHS)
def test_what_gives_the_same_when_masked_is_slimmed_however_it_is_written(make, width):
    network = make().double().eval()
    model = to_conditional(network, widths=WIDTHS).eval()
    torch.testing.assert_close(model(images(), 0.3, 1.0), network(images()))
    model = copy.deepcopy(shaken(make(), widths=WIDTHS))
    point = OperatingPoint(0.3, width)
    for form in (model.pinned(point), fold(model, point), pickle.loads(pickle.dumps(model)).pinned(point)):
        torch.testing.assert_close(form(images()), model(images(), *point))


def test_a_slimmable_layer_is_of_its_own_class_and_a_folded_one_of_nothing_else():
    model = to_conditional(AsksForTypes(), widths=WIDTHS)
    assert isinstance(model.network.layers[0], nn.Conv2d)
    assert type(fold(model, OperatingPoint(0, 0.5)).layers[0]) is nn.Conv2d


def test_a_head_that_owns_its_weight_cannot_be_had_per_width():
    class Owns(Head):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Bilinear(6, 6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.features(x).mean(dim=(2, 3))
            return self.head(x, x)

    with pytest.raises(ValueError, match="heads must be 'shared' where what the network returns comes from no"):
        to_conditional(Owns(), widths=WIDTHS, heads="per-width")


def test_what_cannot_be_slimmed_and_what_cannot_be_converted_are_named_together():
    fickle = nn.BatchNorm2d(4, track_running_stats=False)
    network = nn.Sequential(conv(1, 4), fickle, nn.ChannelShuffle(2), conv(4, 4), nn.BatchNorm2d(4))
    network = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    state = torch.random.get_rng_state()
    with pytest.raises(
        UnsupportedModuleError, match=r"0\.3 \(Conv2d\): at width 0\.5 .*0\.1 \(BatchNorm2d\): without running"
    ):
        to_conditional(network, widths=(0.5, 1), film_on=["0.4"])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_where_layer_norm_gets_all_channels_only_what_lies_inside_of_blocks_is_cut():
    network = transformer().double().eval()
    with pytest.raises(UnsupportedModuleError, match=r"blocks\.0\.norm1 \(LayerNorm\): .*not those of all with"):
        to_conditional(network, (0, 1), widths=(0.5, 1), input_shape=(1, 6, 6))
    hidden = {path for path, layer in network.named_modules() if path.endswith("mix.0")}

    def is_kept(path: str, _: nn.Module) -> bool:
        return path not in hidden

    model = shaken(network, widths=(0.5, 1), full_width=is_kept, input_shape=(1, 6, 6))
    point = OperatingPoint(0.7, 0.5)
    folded = fold(model, point)
    for path in hidden:
        assert folded.get_submodule(path).out_features == 64
    for form in (folded, model.pinned(point)):
        torch.testing.assert_close(form(images()), model(images(), *point))
