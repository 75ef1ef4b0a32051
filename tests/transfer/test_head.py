"""The head is found by running the network, and a new one is all that is new."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from art_oat import fold, to_conditional
from art_oat.transfer import adapt, find_head, replace_head, unfreeze
from tests.compat.test_zoo import FAMILIES
from tests.networks import (
    SLIMMABLE,
    WIDTHS,
    Dense,
    Functional,
    Hourglass,
    Residual,
    Scores,
    SharedNorm,
    changed,
    images,
    shaken,
    state,
)

HEADS = {"sequential": "5", "Hourglass": "head.2"}
SHAPE = (1, 6, 6)


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


@pytest.mark.parametrize("make", [*SLIMMABLE, Dense])
def test_the_head_is_found_in_a_plain_and_in_a_conditional_network(make):
    expected = HEADS.get(make.__name__, "head")
    assert find_head(make(), input_shape=SHAPE) == expected
    assert find_head(to_conditional(make()), input_shape=SHAPE) == expected


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.constructor)
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
        (
            {"nb_classes": 7, "head": "haed"},
            r"head must be the dotted path .* Residual, got 'haed' \(near: \['head'",
        ),
        ({"nb_classes": 7, "head": "body.0"}, r"head must set how many scores.*body\.0 \(Conv2d\): with one more"),
        ({"nb_classes": 7, "head": "norm"}, r"norm \(BatchNorm1d\): it is no linear layer, and no convolution"),
        ({"nb_classes": 7, "input_shape": (2, 6, 6)}, "input_shape must be the shape of one sample"),
    ],
)
def test_what_does_not_fit_is_refused(model, arguments, message):
    for make in (replace_head, adapt):
        with pytest.raises((TypeError, ValueError), match=message):
            make(model, **arguments)


def test_a_head_whose_weights_are_not_its_own_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36))
    network[3].weight = network[1].weight
    with pytest.raises(ValueError, match=r"weights of its own, but 1\.weight and 3\.weight are tied\. Untie"):
        replace_head(network, 7, input_shape=SHAPE)


def test_a_new_head_is_trainable_and_leaves_frozen_parts_behind():
    source = Residual().requires_grad_(requires_grad=False)
    for frozen in (source, adapt(source, 5, protocol="fixed-feature").requires_grad_(requires_grad=False)):
        network = replace_head(frozen, 7)
        fresh = {"head.weight", "head.bias"}
        assert {name for name, it in network.named_parameters() if it.requires_grad} == fresh
        unfreeze(network)
        assert network.head.weight.requires_grad


@pytest.mark.parametrize("shape", [3, "abc", (1, -4, 4), (1, 4.0, 4), (True, 4, 4), ()])
def test_a_shape_of_no_sizes_is_refused_by_name(model, shape):
    for call in (find_head, lambda it, **options: adapt(it, 3, **options)):
        with pytest.raises((TypeError, ValueError), match="input_shape must hold whole numbers, each at least 1"):
            call(model, input_shape=shape)
