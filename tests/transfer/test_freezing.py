"""What is frozen does not move by one bit."""

import copy
import io
import itertools
import pickle

import numpy as np
import onnxruntime
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_oat import fold, to_conditional
from art_oat.models import ResNet
from art_oat.surgery.selection import is_within
from art_oat.transfer import adapt, find_head, freeze_below, replace_head, unfreeze
from tests.networks import (
    LAMBDAS,
    SLIMMABLE,
    WIDTHS,
    Dense,
    Functional,
    Grouped,
    Hourglass,
    MobileSqueezeExcite,
    Residual,
    Scores,
    SharedNorm,
    changed,
    conv,
    convnext,
    images,
    labels,
    shaken,
    small_cnn,
    state,
    train_by_everything,
)
from tests.pairs import parametrize_in_pairs

SHAPE = (1, 6, 6)


FREEZINGS = [
    (Residual, "norm", {"body", "shortcut"}),
    (SharedNorm, "second", {"first", "norm"}),
    (Dense, "final_norm", {"stem", "norm", "grow"}),
    (MobileSqueezeExcite, "squeeze", {"expand", "depthwise"}),
    (small_cnn, "features.6", {f"features.{index}" for index in range(6)}),
    (Hourglass, "up", {"stem", "down", "across"}),
    (Grouped, "norm", {"body"}),
    (convnext, "stages.1", {"stem", "stages.0"}),
]


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(("make", "path", "below"), FREEZINGS, ids=lambda it: getattr(it, "__name__", None))
def test_what_is_frozen_does_not_move_by_one_bit_while_all_else_is_trained_conditional(make, path, below):
    model = shaken(make(), torch.float32, widths=WIDTHS if make in (*SLIMMABLE, Grouped) else (1.0,), input_shape=SHAPE)
    assert set(freeze_below(model, path)) == below
    before = state(model)
    train_by_everything(model, width_sampling="all")
    moved = {name.removeprefix("network.") for name in changed(model, before)}
    frozen = {name for name in moved if any(is_within(name, part) for part in below)}
    assert not frozen
    trainable = {name.removeprefix("network.") for name, it in model.named_parameters() if it.requires_grad}
    assert trainable <= moved


def test_what_is_frozen_does_not_move_by_one_bit_while_art_trains_a_plain_network():
    network = MobileSqueezeExcite()
    freeze_below(network, "squeeze")
    before = state(network)
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), SHAPE, 5, optimizer)
    classifier.fit(images(24, torch.float32).numpy(), labels(24).numpy(), nb_epochs=2, batch_size=12)
    moved = changed(network, before)
    assert {name.partition(".")[0] for name in moved} == {"squeeze", "head"}


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_and_momentum_of_before_freezing_move_nothing(set_to_none):
    network, x = Residual(), images(dtype=torch.float32)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
        network(x).sum().backward()
    freeze_below(network, "norm")
    before = state(network)
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
        network.train()(x).square().sum().backward()
    assert {name.partition(".")[0] for name in changed(network, before)} == {"norm", "head"}


@parametrize_in_pairs(
    order=["plain", "freeze, convert", "convert, freeze"], statistics=["dual", "shared"], widths=[(1.0,), WIDTHS]
)
def test_frozen_norms_stay_although_a_host_sets_every_one_of_them_to_training(order, statistics, widths):
    network = nn.Sequential(nn.Sequential(conv(1, 4), nn.BatchNorm2d(4)), conv(4, 4), nn.Flatten(), nn.Linear(144, 5))
    if order == "convert, freeze":
        network = to_conditional(network, statistics=statistics, widths=widths, input_shape=SHAPE)
    freeze_below(network, "1", input_shape=SHAPE)
    if order == "freeze, convert":
        network = to_conditional(network, statistics=statistics, widths=widths, input_shape=SHAPE)
    before = state(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    network(images(dtype=torch.float32))
    assert not changed(network, before)
    unfreeze(network)
    assert all(it.requires_grad for it in network.parameters())


def test_frozen_weights_that_are_computed_in_training_stay():
    network = nn.Sequential(nn.utils.spectral_norm(conv(1, 4)), conv(4, 4), nn.Flatten(), nn.Linear(144, 5))
    freeze_below(network, "1", input_shape=SHAPE)
    before, x = state(network), images(dtype=torch.float32)
    network.train()(x)
    assert not changed(network, before)


@pytest.mark.parametrize("make", [Residual, Dense, small_cnn, Hourglass, MobileSqueezeExcite])
def test_from_any_part_on_all_is_trained_and_below_it_nothing_has_a_gradient(make):
    for path, part in make().named_modules():
        if not path or isinstance(part, nn.Sequential):
            continue
        network = make()
        freeze_below(network, path, input_shape=SHAPE)
        inputs, called = [], []
        network.get_submodule(path).register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0]))
        for module in network.modules():
            module.register_forward_pre_hook(lambda it, _, called=called: called.append(it))
        network.train()(images(dtype=torch.float32)).sum().backward()
        assert not inputs[0].requires_grad
        first = called.index(network.get_submodule(path))
        above = [it for module in called[first:] for it in module.parameters(recurse=False)]
        assert all(it.grad is not None for it in above)


def test_dropout_below_is_off_and_above_it_is_on():
    network = nn.Sequential(nn.Dropout(), conv(1, 4), nn.Flatten(), nn.Dropout(), nn.Linear(144, 5))
    freeze_below(network, "2", input_shape=SHAPE)
    x, network = images(dtype=torch.float32), network.train()
    assert torch.equal(network[:3](x), network[:3](x))
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("make", [Residual, lambda: shaken(Residual()), lambda: adapt(shaken(Residual()), 5)])
def test_unfreezing_undoes_freezing(make):
    network = make()
    fixed = next(it for name, it in network.named_parameters() if "body" in name)
    fixed.requires_grad_(requires_grad=False)
    before = {name: it.requires_grad for name, it in network.named_parameters()}
    for path in ("norm", "head"):
        freeze_below(network, path)
    unfreeze(network)
    assert {name: it.requires_grad for name, it in network.named_parameters()} == before
    assert not any(module._forward_pre_hooks for module in network.modules())
    unfreeze(network)  # once more changes nothing
    assert {name: it.requires_grad for name, it in network.named_parameters()} == before


def through_pickle(network: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(network))


def conditional() -> nn.Module:
    return shaken(Residual(), torch.float32)


ANY = [copy.deepcopy, through_pickle, lambda it: replace_head(it, 5)]


@pytest.mark.parametrize(
    ("make", "change"),
    [
        *itertools.product([Residual, conditional], ANY),
        (Residual, to_conditional),
        (conditional, lambda it: fold(it, 0.3)),
        (conditional, lambda it: to_conditional(fold(it, 0.3), LAMBDAS)),
    ],
)
def test_what_is_copied_folded_or_converted_stays_frozen_and_can_be_unfrozen(make, change):
    network = make()
    freeze_below(network, "norm")
    twin = change(network).train()
    before = state(twin)
    twin(images(dtype=torch.float32))
    assert {name.removeprefix("network.").partition(".")[0] for name in changed(twin, before)} == {"norm"}
    unfreeze(twin)
    assert all(it.requires_grad for it in twin.parameters())


@pytest.mark.slow(seconds=1)
def test_a_frozen_folded_network_exports():
    network = fold(adapt(shaken(Residual(), torch.float32), 5, protocol="fixed-feature"), 0.3)
    x = images(dtype=torch.float32)
    exported = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(exported(x), network(x))
    file = io.BytesIO()
    torch.onnx.export(network, (x,), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    (scores,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(scores, network(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [ResNet, lambda blocks: to_conditional(ResNet(blocks))])
def test_a_path_that_does_not_exist_is_refused_with_the_nearest_ones(make):
    with pytest.raises(ValueError, match=r"part of the ResNet, got 'stage.1' \(near: \['stages.1'"):
        freeze_below(make((1, 1)), "stage.1")
    with pytest.raises(ValueError, match="got ''"):
        freeze_below(make((1, 1)), "")


class HoldsHead(nn.Sequential):
    """Holds what it does not call."""

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x))


class Backbone(Scores):
    """Its body holds the last layer; between them lies a neck."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4))
        self.body = HoldsHead(conv(1, 4), nn.ReLU(), nn.Linear(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.body[2](self.head(self.body(x).mean(dim=(2, 3))))


class CallsForward(Scores):
    """Runs a norm without calling it, so that no hook of it runs."""

    def __init__(self, *, is_affine: bool) -> None:
        super().__init__(nn.Linear(4, 5))
        self.body[1] = nn.BatchNorm2d(4, affine=is_affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body[1].forward(self.body[0](x)).mean(dim=(2, 3)))


def holds_its_head() -> nn.Module:
    network = Scores(nn.Linear(4, 5))
    network.body = HoldsHead(conv(1, 4), nn.ReLU(), network.head)
    return network


def tied() -> nn.Module:
    network = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4), nn.Flatten(), nn.Linear(144, 5))
    network[2].weight = network[1].weight
    return network


LATER = r"before 'head'.*body\.2 lies in it and is called only later"
MOVES = r"body\.1\.running_mean.*move\(s\) without a call"
LOOSE = r"before 'head' must be frozen.*depends on scale, used by no part.*False\)"


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (lambda: Scores(nn.Linear(4, 5), aside=nn.Linear(4, 5)), "aside", "called in evaluation, but 'aside' is not"),
        (Functional, "head", LOOSE),
        (tied, "2", r"1\.weight and 2\.weight are tied"),
        (holds_its_head, "head", LATER),
        (Backbone, "head", LATER),
        (lambda: CallsForward(is_affine=True), "head", MOVES),
        (lambda: CallsForward(is_affine=False), "head", MOVES),
        (lambda: to_conditional(CallsForward(is_affine=True)), "head", MOVES),
        (lambda: to_conditional(CallsForward(is_affine=False)), "head", MOVES),
    ],
)
def test_what_cannot_be_frozen_part_by_part_is_named_and_nothing_is_frozen(make, path, message):
    network = make()
    with pytest.raises(ValueError, match=message):
        freeze_below(network, path, input_shape=SHAPE)
    assert all(it.requires_grad for it in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())


class Block(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.convolution, self.activation = conv(4, 4), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.convolution(x))


class Listed(nn.Module):
    """Calls the parts of a list, which is not called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = conv(1, 4), nn.ModuleList([Block(nn.ReLU()), Block(nn.ReLU())])
        self.head = nn.Linear(144, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.flatten(1))


class ElseInTraining(Scores):
    """Counts its steps, looks at a constant that is NaN, and asks an auxiliary head in training."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 5), auxiliary=nn.Sequential(conv(4, 4), nn.BatchNorm2d(4)))
        self.register_buffer("steps", torch.zeros(()))
        self.body.register_buffer("best", torch.tensor(torch.nan))

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        features = self.body(x)
        if self.training:
            self.steps += 1
            self.auxiliary(features)
        return self.head(features.mean(dim=(2, 3)))


class WantsTargets(Scores):
    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        if self.training and target is None:
            raise ValueError("targets must be given in training")
        return super().forward(x)


def with_one_activation() -> nn.Module:
    activation = nn.ReLU()
    body = (conv(1, 4), nn.BatchNorm2d(4), activation, Block(activation), Block(activation))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(144, 5))


def with_a_fixed_scale() -> nn.Module:
    network = Functional()
    network.scale.requires_grad_(requires_grad=False)
    return network


@pytest.mark.parametrize(
    ("make", "path", "expected"),
    [
        (with_one_activation, "4", ("0", "1", "2", "3")),
        (Listed, "blocks", ("stem",)),
        (ElseInTraining, "head", ("body",)),
        (lambda: WantsTargets(nn.Linear(4, 5)), "head", ("body",)),
        (with_a_fixed_scale, "head", ("body",)),
        (tied, "3", ("0", "1", "2")),
    ],
)
def test_what_lies_below_is_found_whatever_is_shared_not_called_or_done_in_training(make, path, expected):
    assert freeze_below(make(), path, input_shape=SHAPE) == expected


def test_freezing_works_in_inference_mode_and_finds_as_much():
    with torch.inference_mode():
        assert find_head(Residual()) == "head"
        assert freeze_below(Residual(), "norm") == ("body", "shortcut")
        with pytest.raises(ValueError, match="depends on scale"):
            freeze_below(Functional(), "head", input_shape=SHAPE)


def test_hooks_of_others_do_not_take_the_place_of_ours_in_another_process(monkeypatch):
    network = Residual()
    freeze_below(network, "head")
    data = pickle.dumps(network)
    monkeypatch.setattr(torch.utils.hooks.RemovableHandle, "next_id", 0)  # as in a process that has just begun
    again = pickle.loads(data).train()
    for _ in range(3 * len(list(again.modules()))):
        again.norm.register_forward_pre_hook(lambda *_: None).remove()
    before = state(again)
    again(images(dtype=torch.float32))
    assert not changed(again, before)
