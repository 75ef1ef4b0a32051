import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from art_oat import PGD, Method, OATClassifier, OATTrainer, to_conditional
from art_oat.attacks import bind
from art_oat.training import DivergenceWarning, ResumeFile, hybrid_loss
from art_oat.training.safeguard import MAX_RESTORES, DivergenceError
from art_oat.training.step import Step
from tests.conftest import make_classifier
from tests.networks import WIDTHS, Residual
from tests.training import test_resume as resumed
from tests.training.test_guard import collapsing_in, guarded
from tests.training.trained import Watched, X, classifier_of, fit, is_same, state


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


# going back, and on at half the learning rate


def perceptron(learning_rate: float) -> OATClassifier:
    """Three layers without norms, whose gradient is the product of the others' weights."""
    torch.manual_seed(0)
    layers = (nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))
    return classifier_of(to_conditional(nn.Sequential(nn.Flatten(), *layers), (0, 1), film_on=("1",)), learning_rate)


def test_a_training_at_too_high_a_rate_recovers_at_half_of_it_and_says_so():
    with pytest.raises(RuntimeError, match=r"training must stay finite.*Lower the learning rate \(as on_nan='restore'"):
        fit(perceptron(20.0), nb_epochs=6)
    classifier = perceptron(20.0)
    said = r"with a .* in epoch 2\. The epoch is undone and run again at 0\.5 of the learning rate \(restore 1 of 3\)"
    with pytest.warns(DivergenceWarning, match=said):
        history = fit(classifier, nb_epochs=6, on_nan="restore").history
    assert [record.epoch for record in history] == [1, 2, 2, 3, 4, 5, 6]
    assert [record.is_diverged for record in history] == [number == 1 for number in range(7)]
    assert [record.learning_rate for record in history] == [20.0] * 2 + [10.0] * 5
    assert math.isnan(history[1].loss)
    assert history[-1].loss < 3  # guessing among five is 1.6
    assert classifier.optimizer.param_groups[0]["lr"] == 20.0
    assert np.isfinite(classifier.predict(X, lam=0.5)).all()


def test_a_training_that_never_recovers_ends_after_three_restores_as_it_would_have_at_first():
    classifier = make_classifier()
    classifier.optimizer.param_groups[0]["lr"] = 1e30
    before = state(classifier)
    trainer = OATTrainer(classifier, attack=PGD(0.1, nb_steps=1), on_nan="restore")
    with (
        pytest.warns(DivergenceWarning) as caught,
        pytest.raises(RuntimeError, match="It was restored 3 times, each at half the learning rate: lower it further"),
    ):
        trainer.fit(X, np.arange(20) % 5, batch_size=20, nb_epochs=3, verbose=False)
    assert sum(one.category is DivergenceWarning for one in caught) == MAX_RESTORES
    assert [record.is_diverged for record in trainer.history] == [True] * 3
    assert [record.learning_rate for record in trainer.history] == [1e30, 5e29, 2.5e29]
    assert all(torch.equal(state(classifier)[name], before[name]) for name, _ in classifier.model.named_parameters())


def test_restores_of_an_earlier_call_of_fit_do_not_count_though_it_finished_no_epoch():
    numbers = iter(range(1, 100))

    def loss(*arguments):
        return hybrid_loss(*arguments) * (math.nan if next(numbers) <= 5 else 1.0)

    trainer = OATTrainer(make_classifier(), attack=PGD(0.1, nb_steps=1), loss=loss, on_nan="restore")
    options = {"nb_epochs": 1, "batch_size": 20, "verbose": False}
    with pytest.warns(DivergenceWarning), pytest.raises(RuntimeError, match="It was restored 3 times"):
        trainer.fit(X, np.arange(20) % 5, **options)
    with pytest.warns(DivergenceWarning, match=r"at 0\.5 of the learning rate \(restore 1 of 3\)"):
        trainer.fit(X, np.arange(20) % 5, **options)
    full, *_, last = [record.learning_rate for record in trainer.history[3:]]
    assert last == full / 2 == trainer.classifier.optimizer.param_groups[0]["lr"] / 2


@pytest.mark.parametrize("variant", ["all widths", "guarded", "AdamW", "perturbed weights"])
def test_where_nothing_diverges_a_training_that_would_restore_is_the_usual_one(variant):
    method, options, network = resumed.VARIANTS[variant]
    results = [
        resumed.outcome(
            resumed.fit(resumed.trainer_of(resumed.with_dropout(**network), **method, on_nan=on_nan), None, **options)
        )
        for on_nan in ("raise", "restore")
    ]
    resumed.assert_same(*results)


def noting(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rates at which steps are taken from here on."""
    rates: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: rates.append(float(optimizer.param_groups[0]["lr"])))
    return rates


@pytest.mark.parametrize("kind", resumed.SCHEDULERS)
@pytest.mark.parametrize("tensor", [False, True])
def test_half_the_rate_stays_half_of_what_every_scheduler_says(kind, tensor):
    def rates(step: int, on_nan: str) -> list[float]:
        rate = torch.tensor(0.125) if tensor else 0.125
        classifier = resumed.with_dropout(make_optimizer=lambda weights: torch.optim.AdamW(weights, rate))
        trainer = resumed.trainer_of(classifier, loss=resumed.diverging_in(step), on_nan=on_nan)
        found = noting(classifier.optimizer)
        resumed.fit(trainer, None, scheduler=resumed.SCHEDULERS[kind](classifier.optimizer))
        return found

    usual = rates(99, "raise")
    with pytest.warns(DivergenceWarning):
        halved = rates(4, "restore")  # in the last of the two steps of the second epoch
    assert halved == usual[:3] + [rate / 2 for rate in usual[2:]]


def test_an_epoch_begins_again_from_where_it_began_but_in_another_order():
    """Weights and momenta, at the first step of the epoch."""
    seen, orders, classifier = [], [], resumed.with_dropout()

    def loss(logits, logits_adv, y, lam, criterion=None):
        orders.append(y.tolist())
        seen.append(copy.deepcopy([dict(classifier.model.named_parameters()), classifier.optimizer.state_dict()]))
        return hybrid_loss(logits, logits_adv, y, lam, criterion) * (math.nan if len(seen) == 4 else 1.0)

    with pytest.warns(DivergenceWarning):
        resumed.fit(resumed.trainer_of(classifier, loss=loss, on_nan="restore"), None)
    assert len(seen) == 8
    resumed.assert_same(seen[4], seen[2])
    assert orders[4:6] != orders[2:4]
    assert sorted(orders[4] + orders[5]) == sorted(orders[2] + orders[3])


class DivergingAt:
    """The usual loss, but NaN where these many losses were computed."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.nb_losses = set(steps), 0

    def __repr__(self) -> str:
        return "DivergingAt()"

    def __call__(self, *arguments):
        self.nb_losses += 1
        return hybrid_loss(*arguments) * (math.nan if self.nb_losses in self.steps else 1.0)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("options", [{}, {"every_steps": 1}])
@pytest.mark.parametrize("cut", [3, 6, 8, 9, 11])
def test_a_cut_before_between_and_after_restores_changes_nothing(tmp_path, options, cut):
    """Of four steps an epoch: the second diverges in its third step, and the third in its second."""

    def train(path, loss):
        trainer = resumed.trainer_of(loss=loss, on_nan="restore")
        return resumed.fit(trainer, None if path is None else ResumeFile(path, **options), batch_size=5)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)
        whole, loss = train(None, DivergingAt(7, 13)), DivergingAt(7, 13)
        with resumed.cut_in(cut):
            train(tmp_path / "state.pt", loss)
        kept = ResumeFile(tmp_path / "state.pt")
        loss.nb_losses = nb_losses_of(kept)
        again = train(tmp_path / "state.pt", loss)
    resumed.assert_same(resumed.outcome(again), resumed.outcome(whole))
    assert [record.is_diverged for record in again.history] == [False, True, False, True, False]


def nb_losses_of(file: ResumeFile) -> int:
    """How many losses there were until a file was written, with the two that came to nothing."""
    if not file.path.exists():
        return 0
    content = resumed.read(file.path)
    undone = sum(record["is_diverged"] for record in content["history"])
    return content["nb_steps"] + (0, 3, 5)[undone]  # the steps of the epochs that were undone, and their NaN


@pytest.mark.slow(seconds=1)
def test_a_training_that_was_to_raise_is_gone_on_with_as_if_it_had_been_to_restore(tmp_path):
    file, loss = ResumeFile(tmp_path / "state.pt", every_steps=2), DivergingAt(7)
    with pytest.raises(DivergenceError, match="got a loss of nan in epoch 2"):
        resumed.fit(resumed.trainer_of(loss=loss), file, batch_size=5)
    loss.nb_losses = 6
    with pytest.warns(DivergenceWarning, match="in epoch 2"):
        again = resumed.fit(resumed.trainer_of(loss=loss, on_nan="restore"), file, batch_size=5)
    with pytest.warns(DivergenceWarning, match="in epoch 2"):
        whole = resumed.fit(resumed.trainer_of(loss=DivergingAt(7), on_nan="restore"), None, batch_size=5)
    resumed.assert_same(resumed.outcome(again), resumed.outcome(whole))


def test_an_epoch_may_diverge_and_then_collapse_and_both_are_undone():
    loss = DivergingAt(4)
    with pytest.warns(DivergenceWarning), collapsing_in(2):
        trainer = resumed.fit(guarded(loss=loss, on_nan="restore"), None)
    assert [record.is_undone for record in trainer.history] == [False, True, True, False, False]
    assert [record.is_diverged for record in trainer.history] == [False, True, False, False, False]
    assert [record.epoch for record in trainer.history] == [1, 2, 2, 2, 3]


def test_what_else_is_to_follow_a_divergence_is_refused():
    with pytest.raises(ValueError, match=r"on_nan must be one of \('raise', 'restore'\), got 'ignore'"):
        Method(on_nan="ignore")
