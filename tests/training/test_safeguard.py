import math

import numpy as np
import pytest
import torch
from torch import nn

from art_oat import PGD, Method, OATClassifier, to_conditional
from art_oat.attacks import bind
from art_oat.training import hybrid_loss
from art_oat.training.step import Step
from tests.conftest import make_classifier
from tests.networks import WIDTHS, Residual
from tests.training.trained import Watched, classifier_of, fit, is_same, state


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
    before = state(classifier)
    with pytest.raises(RuntimeError, match="training must stay finite, got a loss of nan in epoch 1"):
        fit(classifier, loss=diverging_at(loss_at_fault, classifier, []), width_sampling="all")
    after = state(classifier)
    if loss_at_fault <= 3:  # within the first step
        assert is_same(after, before)
    else:
        weights = {name for name, _ in classifier.model.named_parameters()}
        assert is_same({name: after[name] for name in weights}, before)
        assert not is_same(after, before)  # the statistics of the first step are good
    assert all(parameter.grad is None for parameter in classifier.model.parameters())


@pytest.mark.parametrize("step", [1, 3])
def test_after_a_non_finite_loss_the_state_is_that_of_the_last_finite_one(classifier, step):
    seen = [state(classifier)]
    with pytest.raises(RuntimeError, match=f"training must stay finite, got a loss of nan in epoch {(step + 1) // 2}"):
        fit(classifier, loss=diverging_at(step + 1, classifier, seen))
    assert is_same(state(classifier), seen[step - 1])


@pytest.mark.parametrize("is_separable", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3, 4])  # clean and attacked pass of the first step, and of the second
def test_scores_that_are_not_finite_in_either_pass_are_told_of_and_undone(classifier, number, is_separable):
    passes = []

    def spoil(part, inputs, scores):
        if part.training:
            passes.append(1)
            return scores * (float("nan") if len(passes) == number else 1.0)
        return None

    classifier.model.network.head.register_forward_hook(spoil)
    before, names = state(classifier), dict(classifier.model.named_parameters())
    with pytest.raises(RuntimeError, match=f"got a loss of nan in epoch {(number + 1) // 2}"):
        fit(classifier, loss=Watched(is_separable=is_separable), batch_size=20)
    # the first step is not known to be good until the second has a loss
    assert is_same({name: before[name] for name in names}, state(classifier))
    assert all(weight.grad is None for weight in names.values())
    assert is_same(before, state(classifier)) == (number <= 2)


@pytest.mark.parametrize("learning_rate", [1e30, 1e38])
@pytest.mark.parametrize("nb_epochs", [1, 3])
def test_a_training_that_diverges_leaves_a_network_that_answers(classifier, learning_rate, nb_epochs):
    before = state(classifier)
    classifier.optimizer.param_groups[0]["lr"] = learning_rate
    with pytest.raises(RuntimeError, match="training must stay finite"):
        fit(classifier, batch_size=20, nb_epochs=nb_epochs)
    after = state(classifier)
    assert all(torch.equal(after[name], before[name]) for name, _ in classifier.model.named_parameters())
    assert np.isfinite(classifier.predict(np.zeros((20, 1, 6, 6)), lam=np.linspace(0, 1, 20))).all()


def test_the_weights_after_a_non_finite_gradient_are_those_before_the_step(classifier):
    def kink(logits, logits_adv, y, lam, criterion=None):
        return torch.sqrt(logits.sum() * 0) + hybrid_loss(logits, logits_adv, y, lam, criterion)

    good = state(classifier)
    with pytest.raises(RuntimeError, match="got a gradient of nan in epoch 1"):
        fit(classifier, loss=kink)
    assert is_same(state(classifier), good)


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
        fit(classifier, batch_size=20, nb_epochs=1)
    for each in WIDTHS:
        assert np.isfinite(classifier.predict(np.zeros((20, 1, 6, 6)), lam=0.3, width=each)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_the_last_step_spoiled_is_found_though_no_sample_shows_it(bad):
    """An infinite weight before a ReLU may leave every answer finite."""
    model = to_conditional(Residual())
    unused = nn.Parameter(torch.zeros(2))
    model.network.register_parameter("unused", unused)
    classifier = classifier_of(model)
    step = Step(classifier, Method(), bind(PGD(), classifier), torch.Generator())
    step.start_epoch(1)
    step(torch.rand(6, 1, 6, 6), torch.tensor([0, 1, 2, 0, 1, 2]))
    with torch.no_grad():
        unused[1] = bad
    with pytest.raises(RuntimeError, match="got a weight of"):
        step.end_epoch()
    assert torch.equal(unused, torch.zeros(2))


@pytest.mark.parametrize(
    ("extend", "got"),
    [
        (lambda scores: (scores, scores), "got a tuple"),
        (lambda scores: {"scores": scores}, "got a dict"),
        (lambda scores: scores[:, :3], r"got shape \[10, 3\]"),
    ],
)
def test_a_network_that_answers_by_more_than_scores_in_training_is_refused_and_left_as_it_was(extend, got):
    class WithExtras(Residual):
        def forward(self, x):
            scores = super().forward(x)
            return extend(scores) if self.training else scores

    classifier = classifier_of(to_conditional(WithExtras()))
    before = state(classifier)
    with pytest.raises(TypeError, match=rf"scores \[N, 5\] also in training mode, {got}.*wrap it"):
        fit(classifier)
    assert is_same(state(classifier), before)


def test_statistics_that_are_not_finite_are_told_of_and_undone_though_loss_and_gradient_are():
    model = to_conditional(Residual().float(), (0, 1), input_shape=(1, 6, 6))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer)  # no clip values
    step = Step(
        classifier, Method(attack=PGD(0.1, nb_steps=1)), bind(PGD(0.1, nb_steps=1), classifier), torch.Generator()
    )
    step.start_epoch(1)
    before = state(classifier)
    x = 1e20 * torch.rand(8, 1, 6, 6)  # its square is beyond float32
    with pytest.raises(RuntimeError, match="training must stay finite, got a running statistic of inf in epoch 1"):
        step(x, torch.arange(8) % 5)
    assert is_same(state(classifier), before)
