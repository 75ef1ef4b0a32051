import math

import numpy as np
import pytest
import torch
from torch import nn

from art_oat import (
    PGD,
    Method,
    OATClassifier,
    OATTrainer,
    to_conditional,
)
from art_oat.attacks import bind
from art_oat.training import hybrid_loss
from art_oat.training.step import Step
from tests.conftest import make_classifier
from tests.networks import WIDTHS, Residual
from tests.training.trained import ATTACK, X, Y, classifier_of, is_same, state


def diverging_at(step: int, classifier: OATClassifier, seen: list[dict[str, torch.Tensor]]):
    """The usual loss, but NaN at one step; notes the state that each loss was computed from."""

    def loss(logits, logits_adv, y, lam, criterion=None):
        seen.append(state(classifier))
        value = hybrid_loss(logits, logits_adv, y, lam, criterion)
        return value * float("nan") if len(seen) == step else value

    return loss


@pytest.mark.parametrize("loss_at_fault", [2, 3, 5])
def test_after_a_non_finite_loss_of_any_width_the_state_is_that_of_the_last_good_step(loss_at_fault):
    classifier = make_classifier(widths=WIDTHS)
    seen: list[dict[str, torch.Tensor]] = []
    trainer = OATTrainer(
        classifier, attack=ATTACK, loss=diverging_at(loss_at_fault, classifier, seen), width_sampling="all"
    )
    before = state(classifier)
    with pytest.raises(RuntimeError, match="training must stay finite, got a loss of nan in epoch 1"):
        trainer.fit(X, Y, batch_size=10, nb_epochs=1, verbose=False)
    after = state(classifier)
    if loss_at_fault <= 3:  # within the first step
        assert is_same(after, before)
    else:
        weights = {name for name, _ in classifier.model.named_parameters()}
        assert is_same({name: after[name] for name in weights}, {name: before[name] for name in weights})
        assert not is_same(after, before)  # the statistics of the first step are good
    assert all(parameter.grad is None for parameter in classifier.model.parameters())


@pytest.mark.parametrize("width", WIDTHS)
def test_an_epoch_that_leaves_any_width_without_finite_scores_is_undone(width):
    classifier = make_classifier(widths=WIDTHS)

    class Breaks(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                classifier.model.network.norm.at(width).adversarial.weight.fill_(torch.inf)

    classifier.set_params(optimizer=Breaks(classifier.model.parameters(), lr=0.01))
    with pytest.raises(RuntimeError, match=r"training must stay finite, got a (score|weight) of"):
        OATTrainer(classifier, attack=ATTACK).fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
    for each in WIDTHS:
        assert np.isfinite(classifier.predict(X, lam=0.3, width=each)).all()


def test_after_a_non_finite_loss_the_state_is_that_of_the_last_finite_one(classifier):
    seen: list[dict[str, torch.Tensor]] = []
    trainer = OATTrainer(classifier, attack=ATTACK, loss=diverging_at(3, classifier, seen))
    with pytest.raises(RuntimeError, match="training must stay finite, got a loss of nan in epoch 2"):
        trainer.fit(X, Y, batch_size=10, nb_epochs=2, verbose=False)
    assert is_same(state(classifier), seen[1])
    assert len(trainer.history) == 1


def test_a_loss_that_is_not_finite_from_the_start_leaves_everything_as_it_was(classifier):
    before = state(classifier)
    with pytest.raises(RuntimeError, match="got a loss of nan in epoch 1"):
        OATTrainer(classifier, attack=ATTACK, loss=diverging_at(1, classifier, [])).fit(X, Y, verbose=False)
    assert is_same(state(classifier), before)


@pytest.mark.parametrize("learning_rate", [1e30, 1e38])
@pytest.mark.parametrize("nb_epochs", [1, 3])
def test_a_training_that_diverges_leaves_a_network_that_answers(classifier, learning_rate, nb_epochs):
    before = state(classifier)
    classifier.optimizer.param_groups[0]["lr"] = learning_rate
    with pytest.raises(RuntimeError, match="training must stay finite"):
        OATTrainer(classifier, attack=ATTACK).fit(X, Y, batch_size=20, nb_epochs=nb_epochs, verbose=False)
    after = state(classifier)
    assert all(torch.equal(after[name], before[name]) for name, _ in classifier.model.named_parameters())
    assert np.isfinite(classifier.predict(X, lam=np.linspace(0, 1, 20))).all()


def test_the_weights_after_a_non_finite_gradient_are_those_before_the_step(classifier):
    def kink(logits, logits_adv, y, lam, criterion=None):
        return torch.sqrt(logits.sum() * 0) + hybrid_loss(logits, logits_adv, y, lam, criterion)

    good = state(classifier)
    with pytest.raises(RuntimeError, match="got a gradient of nan in epoch 1"):
        OATTrainer(classifier, attack=ATTACK, loss=kink).fit(X, Y, verbose=False)
    assert is_same(state(classifier), good)


class WithExtras(Residual):
    """Answers by more than scores while it is trained."""

    def __init__(self, extend) -> None:
        super().__init__()
        self.extend = extend

    def forward(self, x):
        scores = super().forward(x)
        return self.extend(scores) if self.training else scores


@pytest.mark.parametrize(
    ("extend", "got"),
    [
        (lambda scores: (scores, scores), "got a tuple"),
        (lambda scores: {"scores": scores}, "got a dict"),
        (lambda scores: scores[:, :3], r"got shape \[10, 3\]"),
    ],
)
def test_a_network_that_answers_by_more_than_scores_in_training_is_refused_and_left_as_it_was(extend, got):
    model = to_conditional(WithExtras(extend))
    classifier = classifier_of(model)
    before = state(classifier)
    with pytest.raises(TypeError, match=rf"scores \[N, 5\] also in training mode, {got}.*wrap it"):
        OATTrainer(classifier, attack=ATTACK).fit(X, Y, batch_size=10, nb_epochs=2, verbose=False)
    assert is_same(state(classifier), before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_the_last_step_spoiled_is_found_though_no_sample_shows_it(bad):
    """An infinite weight before a ReLU may leave every answer finite."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    model = to_conditional(network)
    unused = nn.Parameter(torch.zeros(2))
    model.network.register_parameter("unused", unused)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 4, 4), 3, optimizer, clip_values=(0, 1))
    step = Step(classifier, Method(), bind(PGD(), classifier), torch.Generator())
    step.start_epoch(1)
    step(torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    with torch.no_grad():
        unused[1] = bad
    with pytest.raises(RuntimeError, match="got a weight of"):
        step.end_epoch()
    assert torch.equal(unused, torch.zeros(2))
