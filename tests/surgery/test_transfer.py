"""A new head and nothing else is new; what is frozen does not move by one bit."""

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
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from art_oat import (
    PGD,
    Architecture,
    OATClassifier,
    OATModel,
    OATTrainer,
    WeightPerturbation,
    find_head,
    fold,
    freeze_below,
    load_model,
    replace_head,
    save_model,
    to_conditional,
    transfer,
    unfreeze,
    without_fast_paths,
)
from art_oat.models import ResNet, SmallCNN
from art_oat.surgery.selection import is_within
from tests.networks import (
    LAMBDAS,
    SLIMMABLE,
    WIDTHS,
    Dense,
    Hourglass,
    MobileSqueezeExcite,
    Residual,
    SharedNorm,
    conv,
    images,
    labels,
    shaken,
    small_cnn,
)
from tests.zoo import QUICK

HEADS = {"sequential": "5", "Hourglass": "head.2"}
SHAPE = (1, 6, 6)


class Scores(nn.Module):
    """A small network whose answer is made of its features by what is given."""

    def __init__(self, head: nn.Module, **more: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), nn.ReLU())
        self.head = head
        for name, part in more.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


class Convolutional(Scores):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).mean(dim=(2, 3))


class Pair(Scores):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.head(features.mean(dim=(2, 3))), features


class TwoTasks(Scores):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x).mean(dim=(2, 3))
        return self.head(features), self.other(features)


class Functional(Scores):
    """Its last weights are its own, used without a layer, and so is a scale before them."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.scale = nn.Parameter(torch.ones(4))
        self.weight = nn.Parameter(torch.ones(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.head(self.body(x).mean(dim=(2, 3)) * self.scale), self.weight)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def changed(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that differ in any bit, or in shape."""
    after = network.state_dict()
    assert after.keys() == before.keys()
    return {name for name in after if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize("make", [*SLIMMABLE, Dense])
def test_the_head_is_found_in_a_plain_and_in_a_conditional_network(make):
    expected = HEADS.get(make.__name__, "head")
    assert find_head(make(), input_shape=SHAPE) == expected
    assert find_head(to_conditional(make()), input_shape=SHAPE) == expected


@pytest.mark.parametrize("family", QUICK, ids=lambda family: family.constructor)
def test_every_network_of_a_zoo_gets_a_head_of_seven_classes_and_is_else_the_same(family):
    network, x = family.build(), family.images(0)
    replaced = replace_head(network, 7, input_shape=x.shape[1:])
    answers = [it.eval()(x) for it in (network, replaced)]
    scores, others = ([it[0] if isinstance(it, tuple) else it][0] for it in reversed(answers))
    assert scores.shape == (len(x), 7, *others.shape[2:])
    path = find_head(network, input_shape=x.shape[1:])
    assert {name.rpartition(".")[0] for name in changed(replaced, state(network))} == {path}


@pytest.mark.parametrize("heads", ["shared", "per-width"])
@pytest.mark.parametrize("make", [Residual, SharedNorm, Hourglass])
def test_only_the_head_is_drawn_at_random_and_only_from_the_seed(make, heads):
    model = shaken(make(), widths=WIDTHS, heads=heads, input_shape=SHAPE)
    before, generator = state(model), torch.get_rng_state()
    first, again, other = (replace_head(model, 7, seed=seed) for seed in (3, 3, 4))
    assert not changed(model, before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not changed(again, state(first))
    path = f"network.{find_head(model)}."
    assert {name for name in state(first) if name.startswith(path)} == changed(other, state(first))
    assert changed(first, before) == changed(other, state(first))


@pytest.mark.parametrize("heads", ["shared", "per-width"])
@pytest.mark.parametrize("make", SLIMMABLE)
def test_pinned_and_folded_networks_answer_as_the_conditional_one_with_its_new_head(make, heads):
    model = replace_head(shaken(make(), widths=WIDTHS, heads=heads, input_shape=SHAPE), 3)
    for lam, width in itertools.product((0.0, 0.3, 1.0), WIDTHS):
        point = model.point(lam, width)
        expected = model(images(), lam, width)
        assert expected.shape == (8, 3)
        torch.testing.assert_close(model.pinned(point)(images()), expected)
        torch.testing.assert_close(fold(model, point)(images()), expected)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_it_does_not_matter_whether_the_head_is_replaced_before_or_after_folding(model, lam):
    first, second = fold(replace_head(model, 7, seed=2), lam), replace_head(fold(model, lam), 7, seed=2)
    assert not changed(first, state(second))
    assert torch.equal(first(images()), second(images()))


@pytest.mark.parametrize("lam", [None, 0.3])
def test_a_transferred_network_loads_into_the_users_own_class(lam):
    network = transfer(shaken(SmallCNN(1, 10, (4, 6))), 7, lam=lam)
    folded = fold(network, 0.3) if lam is None else network
    own = SmallCNN(1, 7, (4, 6)).double().eval()
    own.load_state_dict(folded.state_dict(), strict=True)
    assert torch.equal(own(images()), folded.eval()(images()))


def test_a_transferred_conditional_network_is_saved_and_comes_back(tmp_path):
    model = replace_head(shaken(SmallCNN(1, 10, (4, 6))), 7)
    arguments = {"in_channels": 1, "nb_classes": 7, "channels": [4, 6]}
    save_model(model, tmp_path, Architecture("SmallCNN", arguments))
    assert torch.equal(load_model(tmp_path)(images(), lam=0.3), model(images(), lam=0.3))


def test_a_head_that_starts_trainable_leaves_frozen_ones_behind():
    network = Residual().requires_grad_(requires_grad=False)
    fresh = {name for name, it in replace_head(network, 7).named_parameters() if it.requires_grad}
    assert fresh == {"head.weight", "head.bias"}


def test_a_subclass_a_hook_and_a_missing_bias_stay():
    class Own(nn.Linear):
        pass

    network, calls = Scores(Own(4, 5, bias=False)), []
    network.head.register_forward_hook(lambda *_: calls.append(1))
    head = replace_head(network, 7, input_shape=SHAPE).head
    calls.clear()
    head(torch.ones(1, 4))
    assert (type(head), head.bias, head.weight.shape, calls) == (Own, None, (7, 4), [1])


@pytest.mark.parametrize(
    "network",
    [
        Scores(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LogSoftmax(1))),
        Convolutional(nn.Sequential(nn.Conv2d(4, 5, 1))),
        Convolutional(nn.Sequential(nn.ConvTranspose2d(4, 5, 2))),
        Pair(nn.Linear(4, 5)),
    ],
    ids=["activation behind", "convolution", "transposed convolution", "features beside scores"],
)
def test_heads_of_other_kinds_are_found(network):
    answer = replace_head(network, 7, input_shape=SHAPE)(images(dtype=torch.float32))
    assert (answer[0] if isinstance(answer, tuple) else answer).shape == (8, 7)


def test_a_network_of_two_heads_wants_one_named():
    network = TwoTasks(nn.Linear(4, 5), other=nn.Linear(4, 6))
    with pytest.raises(ValueError, match=r"one head.*found head and other\. Name one: head="):
        find_head(network, input_shape=SHAPE)
    scores, others = replace_head(network, 7, head="other", input_shape=SHAPE)(images(dtype=torch.float32))
    assert (scores.shape[1], others.shape[1]) == (5, 7)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Scores(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))), r"head\.0 \(Linear\): with one more output the"),
        (Scores(weight_norm(nn.Linear(4, 5))), r"head \(ParametrizedLinear\): its weights are computed from others"),
        (Functional(), r"body\.0 \(Conv2d\): with one more output the network fails"),
        (Scores(nn.Identity()), r"body\.0 \(Conv2d\): with one more output the network fails"),
        (nn.Sequential(nn.BatchNorm2d(1), nn.Flatten()), "found none"),
    ],
    ids=["norm behind", "computed weights", "no layer", "none", "no layer with channels"],
)
def test_a_head_that_cannot_be_found_is_refused_and_what_was_tried_is_named(network, message):
    with pytest.raises(ValueError, match=f"must have one head.*{message}"):
        replace_head(network, 7, input_shape=SHAPE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nb_classes": 1}, "nb_classes must be a whole number, at least 2, got 1"),
        ({"nb_classes": 2.5}, "at least 2, got 2.5"),
        ({"nb_classes": True}, "at least 2, got True"),
        ({"nb_classes": 7, "head": "haed"}, r"head must be the dotted path of a part, got 'haed' \(near: \['head'"),
        ({"nb_classes": 7, "head": "body.0"}, r"head must set how many scores.*body\.0 \(Conv2d\): with one more"),
        ({"nb_classes": 7, "head": "norm"}, r"norm \(BatchNorm1d\): it is no linear layer, and no convolution"),
        ({"nb_classes": 7, "input_shape": (2, 6, 6)}, "input_shape must be the shape of one sample"),
    ],
)
def test_what_does_not_fit_is_refused(model, arguments, message):
    for make in (replace_head, transfer):
        with pytest.raises(ValueError, match=message):
            make(model, **arguments)


def test_what_is_no_network_with_weights_of_its_own_is_refused(classifier):
    for make in (lambda it: replace_head(it, 7), lambda it: transfer(it, 7), lambda it: freeze_below(it, "head")):
        with pytest.raises(TypeError, match=r"got OATClassifier. A classifier's is classifier.model"):
            make(classifier)
        with pytest.raises(TypeError, match=r"PinnedNetwork: use fold\(model, point\)"):
            make(classifier.model.pinned())


# frozen parts


def train(model: OATModel, **options: object) -> None:
    """Train by everything that writes weights or statistics; the optimizer holds frozen weights, too."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), SHAPE, 5, optimizer, clip_values=(0, 1))
    trainer = OATTrainer(
        classifier, PGD(0.1, nb_steps=2), weight_perturbation=WeightPerturbation(0.01), ema=0.9, **options
    )
    x, y = images(24, torch.float32).numpy(), labels(24).numpy()
    trainer.fit(x, y, nb_epochs=2, batch_size=12, validation_data=(x, y), restore_best=True, verbose=False)


FREEZINGS = [
    (Residual, "norm", {"body", "shortcut"}),
    (SharedNorm, "second", {"first", "norm"}),
    (Dense, "final_norm", {"stem", "norm", "grow"}),
    (MobileSqueezeExcite, "squeeze", {"expand", "depthwise"}),
    (small_cnn, "features.6", {f"features.{index}" for index in range(6)}),
    (Hourglass, "up", {"stem", "down", "across"}),
]


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize(("make", "path", "below"), FREEZINGS, ids=lambda it: getattr(it, "__name__", None))
def test_what_is_frozen_does_not_move_by_one_bit_while_all_else_is_trained_conditional(make, path, below, is_fast):
    model = shaken(make(), torch.float32, widths=WIDTHS if make in SLIMMABLE else (1.0,), input_shape=SHAPE)
    assert set(freeze_below(model, path)) == below
    before = state(model)
    if is_fast:
        train(model, width_sampling="all")
    else:
        with without_fast_paths():
            train(model, width_sampling="all")
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


@pytest.mark.parametrize("statistics", ["dual", "shared"])
@pytest.mark.parametrize("order", ["plain", "freeze, convert", "convert, freeze"])
def test_frozen_norms_stay_although_a_host_sets_every_one_of_them_to_training(order, statistics):
    network = nn.Sequential(nn.Sequential(conv(1, 4), nn.BatchNorm2d(4)), conv(4, 4), nn.Flatten(), nn.Linear(144, 5))
    if order == "convert, freeze":
        network = to_conditional(network, statistics=statistics)
    freeze_below(network, "1", input_shape=SHAPE)
    if order == "freeze, convert":
        network = to_conditional(network, statistics=statistics)
    before = state(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    network(images(dtype=torch.float32))
    assert not changed(network, before)


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


@pytest.mark.parametrize("make", [Residual, lambda: shaken(Residual()), lambda: transfer(shaken(Residual()), 5)])
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


@pytest.mark.parametrize("change", [copy.deepcopy, through_pickle, lambda it: replace_head(it, 5)])
@pytest.mark.parametrize("make", [Residual, lambda: shaken(Residual(), torch.float32)])
def test_copies_stay_frozen(make, change):
    network = make()
    freeze_below(network, "norm")
    twin = change(network).train()
    before = state(twin)
    twin(images(dtype=torch.float32))
    assert not any("body" in name or "shortcut" in name for name in changed(twin, before))
    assert any("norm" in name for name in changed(twin, before))


def test_what_is_folded_or_converted_stays_frozen_and_can_be_unfrozen():
    model = shaken(Residual())
    freeze_below(model, "norm")
    folded = fold(model, 0.3).train()
    before = state(folded)
    folded(images())
    assert {name.partition(".")[0] for name in changed(folded, before)} == {"norm"}
    again = to_conditional(folded, LAMBDAS).train()
    before = state(again)
    again(images(), lam=0.3)
    assert {name.split(".")[1] for name in changed(again, before)} == {"norm"}
    for network in (folded, again):
        unfreeze(network)
        assert all(it.requires_grad for it in network.parameters())


@pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
@pytest.mark.parametrize("statistics", ["dual", "shared"])
def test_what_was_converted_frozen_can_be_unfrozen(statistics, widths):
    network = Residual()
    freeze_below(network, "head")
    model = to_conditional(network, statistics=statistics, widths=widths, input_shape=SHAPE)
    unfreeze(model)
    assert all(it.requires_grad for it in model.parameters())


def test_a_frozen_folded_network_exports():
    network = fold(transfer(shaken(Residual(), torch.float32), 5, protocol="fixed-feature"), 0.3)
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


def test_a_part_that_is_not_called_is_refused():
    network = Scores(nn.Linear(4, 5), auxiliary=nn.Linear(4, 5))
    with pytest.raises(ValueError, match="called in evaluation, but 'auxiliary' is not"):
        freeze_below(network, "auxiliary", input_shape=SHAPE)


def test_a_weight_that_no_part_uses_is_named_and_nothing_is_frozen():
    network = Functional()
    with pytest.raises(ValueError, match=r"before 'head' must be frozen.*depends on scale, used by no part.*False\)"):
        freeze_below(network, "head", input_shape=SHAPE)
    assert all(it.requires_grad for it in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())
    network.scale.requires_grad_(requires_grad=False)
    assert freeze_below(network, "head", input_shape=SHAPE) == ("body",)


class CallsForward(Scores):
    """Runs a norm without calling it, so that no hook of it runs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body[1].forward(self.body[0](x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("is_conditional", [True, False])
@pytest.mark.parametrize("is_affine", [True, False])
def test_statistics_that_would_move_without_a_call_are_named(is_affine, is_conditional):
    network = CallsForward(nn.Linear(4, 5))
    network.body[1] = nn.BatchNorm2d(4, affine=is_affine)
    subject = to_conditional(network) if is_conditional else network
    with pytest.raises(ValueError, match=r"body\.1\.running_mean.*move\(s\) without a call"):
        freeze_below(subject, "head", input_shape=SHAPE)
    assert all(it.requires_grad for it in subject.parameters())


def test_weights_on_either_side_of_the_border_are_refused():
    network = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4), nn.Flatten(), nn.Linear(144, 5))
    network[2].weight = network[1].weight
    with pytest.raises(ValueError, match=r"1\.weight and 2\.weight are tied"):
        freeze_below(network, "2", input_shape=SHAPE)
    assert freeze_below(network, "3", input_shape=SHAPE) == ("0", "1", "2")
    unfreeze(network)
    assert all(it.requires_grad for it in network.parameters())


class HoldsHead(nn.Sequential):
    """Holds what it does not call."""

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x))


def test_a_part_that_one_before_it_holds_is_refused():
    network = Scores(nn.Linear(4, 5))
    network.body = HoldsHead(conv(1, 4), nn.ReLU(), network.head)
    with pytest.raises(ValueError, match="the part itself of it is held by a part before, too"):
        freeze_below(network, "head", input_shape=SHAPE)


def test_a_head_whose_weights_are_not_its_own_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36))
    network[3].weight = network[1].weight
    with pytest.raises(ValueError, match=r"weights of its own, but 1\.weight and 3\.weight are tied\. Untie"):
        replace_head(network, 7, input_shape=SHAPE)


def test_a_new_head_is_trainable_also_where_the_old_one_was_frozen():
    source = transfer(Residual(), 5, protocol="fixed-feature")
    source.head.requires_grad_(requires_grad=False)
    network = replace_head(source, 7)
    assert network.head.weight.requires_grad
    unfreeze(network)
    assert network.head.weight.requires_grad


def test_whole_numbers_among_the_parameters_are_left_alone():
    network = Scores(nn.Linear(4, 5))
    network.table = nn.Parameter(torch.arange(3), requires_grad=False)
    assert transfer(network, 7, protocol="fixed-feature", input_shape=SHAPE).head.weight.requires_grad
    assert freeze_below(network, "head", input_shape=SHAPE) == ("body",)


def test_a_network_around_a_conditional_one_and_a_compiled_one_are_refused():
    with pytest.raises(TypeError, match="must not hold an OATModel, got one in a Sequential: transfer that"):
        transfer(nn.Sequential(nn.Identity(), to_conditional(Residual())), 7, lam=0.3)
    with pytest.raises(TypeError, match="must not be compiled"):
        find_head(torch.compile(Residual()))


# protocols


def test_the_features_of_the_fixed_feature_protocol_are_fixed_also_in_training():
    network = transfer(MobileSqueezeExcite(), 7, protocol="fixed-feature", input_shape=SHAPE).train()
    assert {name for name, it in network.named_parameters() if it.requires_grad} == {"head.weight", "head.bias"}
    before, x = state(network), images(dtype=torch.float32)
    assert torch.equal(network(x), network(x))  # no dropout, no statistics of batches
    assert not changed(network, before)


def test_a_conditional_network_of_fixed_features_trains_its_head_alone_at_every_lam():
    model = transfer(shaken(Residual(), torch.float32), 5, protocol="fixed-feature")
    before = state(model)
    train(model)
    assert changed(model, before) == {"network.head.weight", "network.head.bias"}


def test_all_of_the_full_network_is_trained_whatever_was_frozen():
    source = Residual().requires_grad_(requires_grad=False)
    freeze_below(source, "norm")
    network = transfer(source, 7)
    assert all(it.requires_grad for it in network.parameters())
    before = state(network)
    network.train()(images(dtype=torch.float32))
    assert any("body" in name for name in changed(network, before))


@pytest.mark.parametrize(("lam", "width"), [(0.3, None), (None, 0.5), (1.0, 0.75)])
def test_a_lam_or_a_width_gives_the_features_there_and_the_dial_up(lam, width):
    model = shaken(Residual(), widths=WIDTHS)
    network = transfer(model, 7, lam=lam, width=width, seed=5)
    expected = replace_head(fold(model, model.point(lam, width)), 7, seed=5)
    assert type(network) is Residual
    assert torch.equal(network(images()), expected(images()))
    assert isinstance(transfer(model, 7), OATModel)


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (Residual(), {"lam": 0.3}, "lam and width must be None for a Residual: it has no dials"),
        (
            Residual(),
            {"protocol": "linear"},
            r"protocol must be one of \('fixed-feature', 'full-network'\), got 'linear'",
        ),
        (to_conditional(Residual()), {"lam": 1.5}, r"lam must lie in \[0, 1\], got 1.5"),
        (to_conditional(Residual()), {"width": 0.5}, "width must be one of"),
    ],
)
def test_a_transfer_that_makes_no_sense_is_refused(source, arguments, message):
    with pytest.raises(ValueError, match=message):
        transfer(source, 7, **arguments)
