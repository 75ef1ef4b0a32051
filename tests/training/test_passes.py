import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat import (
    OATTrainer,
    to_conditional,
)
from art_oat.training import hybrid_loss
from tests.networks import LAMBDAS, WIDTHS, MobileSqueezeExcite
from tests.training.trained import (
    ALL_WIDTHS,
    ATTACK,
    PERTURBED,
    Watched,
    X,
    Y,
    classifier_of,
    double,
    gradients,
    is_same,
    one_step,
    state,
)

SOFT = np.random.default_rng(0).dirichlet(np.ones(5), 20).astype(np.float32)


# a loss term by term


CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64)
SMOOTHED = nn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.2)
STEPS = {
    "plain": ({}, {}),
    "all widths": (ALL_WIDTHS, {"width_sampling": "all"}),
    "one width": ({"widths": WIDTHS}, {"width_sampling": "random"}),
    "distilled": (ALL_WIDTHS, {"width_sampling": "all", "distills": True}),
    "class weights": ({}, {"criterion": nn.CrossEntropyLoss(CLASS_WEIGHTS)}),
    "label smoothing": ({}, {"criterion": SMOOTHED}),
    "soft labels": ({}, {"y": SOFT, "criterion": SMOOTHED}),
    "soft labels, distilled": (ALL_WIDTHS, {"y": SOFT, "width_sampling": "all", "distills": True}),
    "clean alone": ({"lambdas": (0.0,)}, {}),
    "attacked alone": ({"lambdas": (1.0,)}, {}),
    "without 0": ({"lambdas": (0.2, 1.0)}, {}),
    "perturbed weights": ({}, PERTURBED),
    "perturbed weights of all widths": (ALL_WIDTHS, {"width_sampling": "all", **PERTURBED}),
    "dropout": ({"make": MobileSqueezeExcite}, {}),
    "published film": ({"film": "published"}, {}),
    "shared statistics": ({"statistics": "shared"}, {}),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_gradient_of_a_loss_taken_term_by_term_is_that_of_their_sum(name):
    conversion, method = STEPS[name]
    found = []
    for loss in (hybrid_loss, Watched()):
        model = double(**conversion)
        trainer = one_step(model, loss=loss, **method)
        grads = {name: it.grad for name, it in model.model.named_parameters() if it.grad is not None}
        found.append((grads, dict(model.model.named_buffers()), trainer.history[0].loss))
    (by_term, statistics, loss), (of_sum, plain_statistics, plain_loss) = found
    # the same terms, summed in another order
    torch.testing.assert_close(by_term, of_sum, rtol=1e-10, atol=1e-10)
    assert sum(gradient.abs().sum() for gradient in by_term.values()) > 0
    if name != "attacked alone":  # where the statistics are those of attacked inputs, unless a loss is not ours
        torch.testing.assert_close(statistics, plain_statistics, rtol=0, atol=0)
    assert loss == plain_loss


@pytest.mark.parametrize("claims", [{}, {"is_separable": False}, {"is_separable": 1}, {"is_separable": True}])
def test_only_a_loss_that_claims_to_be_separable_is_taken_in_turn(claims):
    loss = Watched(**claims)
    one_step(double(), loss=loss)
    in_turn = [(True, False), (False, True)]
    carriers = [(logits.requires_grad, logits_adv.requires_grad) for logits, logits_adv, _, _ in loss.calls]
    assert carriers == (in_turn if claims.get("is_separable") is True else [(True, True)])
    assert len({(len(logits), len(logits_adv)) for logits, logits_adv, _, _ in loss.calls}) == 1  # always all samples


def test_a_loss_that_claims_to_be_separable_trains_as_it_would_without_the_claim():
    claimed, plain, own = (gradients(loss=it) for it in (Watched(is_separable=True), Watched(), hybrid_loss))
    torch.testing.assert_close(claimed, plain, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(claimed, own, rtol=0, atol=0)


def attacked_term(logits, logits_adv, y, lam, criterion=None):
    """A loss of attacked scores alone, which is a sum of two terms too."""
    return F.cross_entropy(logits_adv, y[lam > 0])


def test_a_separable_loss_may_have_no_clean_term():
    found = []
    for claim in (True, False):
        loss = functools.partial(attacked_term)
        loss.is_separable = claim
        found.append(gradients(loss=loss))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


class Kept:
    """What autograd keeps for a backward pass; knows how much is kept at once."""

    alive = most = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        Kept.alive += 1
        Kept.most = max(Kept.most, Kept.alive)

    def __del__(self) -> None:
        Kept.alive -= 1


def most_kept(loss) -> int:
    """The largest number of tensors that the graphs of a step hold at once; the attack makes none."""
    Kept.alive = Kept.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        one_step(double(), attack=lambda network, x, y: x, loss=loss)
    return Kept.most


def test_a_separable_loss_keeps_the_graph_of_one_pass_at_a_time():
    in_turn, at_once = most_kept(hybrid_loss), most_kept(functools.partial(hybrid_loss))
    # half of it would be kept of two equal passes; that on clean inputs also sorts samples by the sides of the norms
    assert at_once / 2 <= in_turn < 0.6 * at_once


# matched dropout


class Dropping(nn.Module):
    """Draws of three kinds: of an entry, of a channel, and of a whole path of a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.path = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.norm_of_path, self.head = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout2d(torch.relu(self.norm(self.conv(x))), 0.3, self.training)
        path = self.norm_of_path(self.path(x))
        if self.training:
            path = path * torch.rand(len(x), 1, 1, 1).round().to(x)
        return self.head(F.dropout((x + path).mean(dim=(2, 3)), 0.5, self.training))


class Attending(nn.Module):
    """An attention that drops, between layer norms, and a path that is dropped for whole samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.LayerNorm(6), nn.LayerNorm(6), nn.Linear(6, 5)
        self.attention = nn.MultiheadAttention(6, 2, dropout=0.4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.first(x.flatten(1, 2))
        attended = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        if self.training:
            attended = attended * attended.new_empty(len(x), 1, 1).bernoulli_(0.5)
        return self.head(F.dropout(self.last(tokens + attended), 0.2, self.training).mean(dim=1))


def unmoved(network, x, y):
    return x


@pytest.mark.parametrize("method", [{}, PERTURBED, {"precision": "bf16"}])
@pytest.mark.parametrize("lambdas", [LAMBDAS, (0.2, 1.0)])
@pytest.mark.parametrize(("make", "widths"), [(Dropping, WIDTHS), (Attending, (1.0,))])
def test_with_matched_dropout_an_input_that_the_attack_leaves_alone_gets_the_same_scores_twice(
    make, widths, lambdas, method
):
    for is_matched in (True, False):
        torch.manual_seed(0)
        model, loss = to_conditional(make(), lambdas, widths=widths), Watched()
        parts = {"attack": unmoved, "loss": loss, "matches_dropout": is_matched, "width_sampling": "all", **method}
        one_step(classifier_of(model), **parts)
        for logits, logits_adv, _, lam in loss.calls:
            has_attack = lam > 0
            assert bool(has_attack.any())
            assert torch.equal(logits[has_attack], logits_adv) == is_matched


def test_matched_dropout_changes_nothing_where_nothing_is_dropped():
    matched, unmatched = (gradients(matches_dropout=it) for it in (True, False))
    torch.testing.assert_close(matched, unmatched, rtol=1e-10, atol=1e-10)


# what a loss may not return


NO_LOSSES = {
    "an int": lambda logits, *_: 3,
    "a float": lambda logits, *_: 0.5,
    "None": lambda logits, *_: None,
    "an array": lambda logits, *_: logits.detach().mean().numpy(),
    "one number per sample": lambda logits, *_: logits.sum(dim=1),
    "an integer tensor": lambda logits, *_: torch.tensor(3),
    "a complex tensor": lambda logits, *_: logits.mean() * 1j,
    "a tensor without gradient": lambda logits, *_: logits.detach().mean(),
}


@pytest.mark.parametrize(("is_separable", "is_perturbed"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("loss", NO_LOSSES.values(), ids=NO_LOSSES)
def test_a_loss_that_returns_no_scalar_with_gradient_is_refused_and_leaves_nothing_changed(
    classifier, loss, is_separable, is_perturbed
):
    def given(*arguments):
        return loss(*arguments)

    given.is_separable = is_separable
    trainer = OATTrainer(classifier, attack=ATTACK, loss=given, weight_perturbation=0.01 if is_perturbed else None)
    before, generator = state(classifier), torch.get_rng_state()
    with pytest.raises(TypeError, match=r"loss must return a scalar tensor that carries gradient, got .+\."):
        trainer.fit(X, Y, batch_size=10, nb_epochs=1, verbose=False)
    assert is_same(state(classifier), before)
    assert not classifier.optimizer.state
    assert torch.equal(torch.get_rng_state(), generator)
