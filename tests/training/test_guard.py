import csv
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from art_oat import NFGSM, PGD, OATClassifier, OATTrainer, WeightPerturbation, to_conditional
from art_oat.attacks import bind, robust_correct
from art_oat.data import digits
from art_oat.training import CatastrophicOverfittingWarning, CSVLogger, Validation, hybrid_loss
from art_oat.training.guard import NB_HELD_OUT, Guard
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS, Residual, images, labels
from tests.training.test_resume import SCHEDULERS, assert_same, cut_in, fit, outcome, trainer_of, with_dropout

X, Y = images(20, torch.float32).numpy(), labels(20).numpy()
STRONG = PGD(eps=0.2, nb_steps=2)
ATTACKED = LAMBDAS[1:]


def weak(network, x, y, *, clip_values=None, generator=None):
    """Leave inputs as they are."""
    return x


def guard_of(classifier, nb_samples=20, *, attack=weak, fallback=STRONG, seed=0) -> Guard:
    dtype = classifier.model.encoding.table.dtype
    x, y = images(nb_samples, dtype), labels(nb_samples)
    return Guard(classifier, bind(attack, classifier), bind(fallback, classifier), x, y, seed)


# the criterion


def squared_error(first: Fraction, second: Fraction, n: int) -> Fraction:
    """Of the difference of two shares of n samples, each with one success and one failure more."""
    smoothed = [(share * n + 1) / (n + 2) for share in (first, second)]
    return sum(share * (1 - share) for share in smoothed) / n


def is_collapse(standing: int, reference: int, nb_samples: int, nb_classes: int) -> bool:
    """The criterion on counts, in exact numbers: squared where the standard error has a root."""
    n, guessing = nb_samples, Fraction(1, nb_classes)
    before, now = Fraction(reference, n), Fraction(standing, n)
    has_learned = before > guessing and (before - guessing) ** 2 > 9 * squared_error(before, guessing, n)
    is_beyond_noise = before > now and (before - now) ** 2 > 9 * squared_error(before, now, n)
    return has_learned and is_beyond_noise and now < before / 2


@pytest.mark.parametrize("nb_samples", [12, 31, 128])
def test_a_collapse_leaves_less_than_half_beyond_noise_of_more_than_guessing(classifier, nb_samples):
    guard = guard_of(classifier, nb_samples)
    outcomes = set()
    for standing, reference in itertools.product(range(nb_samples + 1), repeat=2):
        expected = is_collapse(standing, reference, nb_samples, classifier.nb_classes)
        assert guard._is_collapse(standing / nb_samples, reference / nb_samples, nb_samples) == expected
        outcomes.add(expected)
    assert outcomes == {True, False}


def test_exactly_half_of_what_stood_is_no_collapse_yet(classifier):
    guard = guard_of(classifier, 128)
    for reference in (1.0, 0.75, 0.5):
        assert not guard._is_collapse(reference / 2, reference, 128)
        assert guard._is_collapse(reference / 2 - 1 / 128, reference, 128)


@pytest.mark.parametrize("nb_samples", [32, NB_HELD_OUT // 2, NB_HELD_OUT])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0])
def test_noise_alone_is_hardly_ever_a_collapse(classifier, share, nb_samples):
    """Two accuracies of one network, each counted on samples of its own: the exact probability, by binomials.

    Beyond three standard errors, on one side, lies 0.13 percent of a normal distribution; counts are coarser.
    """
    guard, n = guard_of(classifier, nb_samples), nb_samples
    chances = binom.pmf(range(n + 1), n, share)
    likely = np.flatnonzero(chances > 1e-9)
    tripping = sum(
        chances[before] * chances[now]
        for before, now in itertools.product(likely, repeat=2)
        if guard._is_collapse(now / n, before / n, n)
    )
    assert tripping < 2e-3


def first(count: int, guard: Guard) -> Tensor:
    """That many of 64 pairs of samples, so the same share of all of them and of those of the largest lam."""
    return torch.arange(len(guard.y)) < 2 * count


@pytest.mark.parametrize(
    ("found", "trips"),  # of 64, after the fallback and after the attack of the training
    [
        ([(60, 60), (30, 30)], [False, False]),
        ([(60, 60), (29, 29)], [False, True]),  # of what the fallback left before
        ([(29, 60)], [True]),  # of what the attack of the training leaves now
        ([(30, 60), (29, 60)], [False, True]),
        ([(60, 60), (40, 40), (29, 30)], [False, False, True]),  # of the best before, not of the last
        ([(0, 0)], [False]),  # nothing has been learned
        ([(0, 13), (0, 20)], [False, False]),  # what guessing reaches, and a little more, is nothing yet
        ([(20, 10), (60, 5)], [False, False]),  # a weak attack that is the stronger one is no concern
    ],
)
def test_what_stands_is_compared_with_the_best_before_and_with_the_attack_of_the_training(classifier, found, trips):
    guard, current = guard_of(classifier, 128), [(0, 0)]

    def stands(self, attack, width):
        return first(current[0][0 if attack is self.strong else 1], self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guard, "_stands", stands)
        for figures, expected in zip(found, trips, strict=True):
            current[0] = figures
            assert guard.has_collapsed() == guard.has_tripped == expected
            assert guard.standing == figures[0] / 64


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("others", "at_width"),
    [
        ((64, 64), (0, 64)),
        ((32, 61), (0, 28)),  # the larger drop elsewhere, to more than half, is no collapse
    ],
)
def test_a_collapse_at_one_width_is_enough(width, others, at_width):
    guard = guard_of(make_classifier(widths=WIDTHS), 128)

    def stands(self, attack, each):
        return first((at_width if each == width else others)[0 if attack is self.strong else 1], self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guard, "_stands", stands)
        assert guard.has_collapsed()
    assert (guard.standing, guard.reference) == (at_width[0] / 64, at_width[1] / 64)


def test_a_collapse_at_the_largest_lam_alone_is_enough_and_among_the_smaller_ones_is_not(classifier):
    """Natural accuracy stands at small lams whatever happens, and is not what a collapse is about."""
    for falls_at_largest in (True, False):
        guard = guard_of(classifier, 128)
        is_largest = guard.lam == 1

        def stands(self, attack, width, fallen=is_largest == falls_at_largest):
            return ~fallen if attack is self.strong else torch.ones_like(fallen)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Guard, "_stands", stands)
            assert guard.has_collapsed() == falls_at_largest  # one half is left in all, which is no collapse yet


def test_every_width_is_compared_with_its_own_best():
    """A narrow network that stands less than a wide one has not collapsed."""
    guard = guard_of(make_classifier(widths=WIDTHS), 128)
    counts = {0.5: 25, 0.75: 40, 1.0: 60}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guard, "_stands", lambda self, attack, width: first(counts[width], self))
        assert [guard.has_collapsed() for _ in range(3)] == [False, False, False]


# what it measures


@pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
def test_what_stands_is_what_the_conditional_network_answers_right_after_the_attack(widths):
    classifier = make_classifier(widths=widths)
    guard, model = guard_of(classifier, 40), classifier.model.eval()
    for width in widths:
        x_adv = STRONG(
            lambda x, width=width: model(x, guard.lam, width), guard.x, guard.y,
            clip_values=(0, 1), generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        for attack, x in ((guard.strong, x_adv), (guard.weak, guard.x)):
            expected = model(x, guard.lam, width).argmax(dim=1) == guard.y
            assert torch.equal(guard._stands(attack, width), expected)


@pytest.mark.parametrize("nb_samples", [NB_HELD_OUT + 50, 31, 1])
def test_held_out_samples_are_drawn_once_and_keep_their_labels(classifier, nb_samples):
    x, y = images(nb_samples, torch.float32), torch.arange(nb_samples)
    guards = [Guard(classifier, bind(weak, classifier), bind(STRONG, classifier), x, y, seed) for seed in (0, 0, 1)]
    for guard in guards:
        assert len(guard.y.unique()) == min(nb_samples, NB_HELD_OUT) == len(guard.x)
        assert torch.equal(guard.x, x[guard.y])
    assert torch.equal(guards[0].y, guards[1].y)
    assert torch.equal(guards[0].y, guards[2].y) == (nb_samples == 1)


@pytest.mark.parametrize("nb_samples", [NB_HELD_OUT, 31, 1])
@pytest.mark.parametrize("lambdas", [LAMBDAS, (0.0, 0.5), (0.3,), (0.2, 1.0)])
def test_every_other_sample_has_the_largest_lam_and_the_rest_the_others_in_turn(lambdas, nb_samples):
    guard = guard_of(at_lambdas(lambdas), nb_samples)
    *others, largest = [lam for lam in lambdas if lam > 0]
    others = others or [largest]
    expected = [largest if i % 2 == 0 else others[i // 2 % len(others)] for i in range(nb_samples)]
    assert torch.equal(guard.lam, torch.tensor(expected))


@pytest.mark.parametrize("fallback", [STRONG, lambda network, x, y: x * torch.rand_like(x)])
def test_looking_for_a_collapse_is_repeatable_and_changes_nothing(fallback):
    classifier = with_dropout()
    classifier.model.train()
    guard = guard_of(classifier, 40, attack=NFGSM(eps=0.2), fallback=fallback)
    before, random_state = outcome_of(classifier), torch.get_rng_state()
    found = []
    for _ in range(2):
        guard.has_collapsed()
        found.append((guard.standing, guard.reference))
    assert found[0] == found[1]
    assert_same(outcome_of(classifier), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(part.training for part in classifier.model.modules())
    assert all(parameter.grad is None for parameter in classifier.model.parameters())


def outcome_of(classifier: OATClassifier) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in classifier.model.state_dict().items()}


# training under guard


@contextmanager
def collapsing_in(epoch: int | None, width: float = 1.0) -> Iterator[list[int]]:
    """The fallback leaves nothing at a width the time of this number that it is asked, counted from 1, else all.

    Gives how often a guard looked.
    """
    looks: list[int] = []
    unchanged = Guard.has_collapsed

    def has_collapsed(self: Guard) -> bool:
        looks.append(len(looks) + 1)
        return unchanged(self)

    def stands(self: Guard, attack: object, each: float) -> Tensor:
        is_fallen = attack is self.strong and looks[-1] == epoch and each == width
        return torch.full_like(self.y, not is_fallen, dtype=torch.bool)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guard, "has_collapsed", has_collapsed)
        patch.setattr(Guard, "_stands", stands)
        yield looks


class Switching:
    """The attack of the training, and from an epoch on the fallback: what a collapse there should come to."""

    def __init__(self, epoch: int, before=weak) -> None:
        self.epoch, self.before, self.now = epoch, before, 1

    def __call__(self, network, x, y, *, clip_values=None, generator=None):
        attack = STRONG if self.now >= self.epoch else self.before
        return attack(network, x, y, clip_values=clip_values, generator=generator)

    def note(self, record) -> None:
        self.now = record.epoch + 1


def trained(trainer: OATTrainer) -> dict:
    """All that a training leaves behind but times, and what depends on who judges and whether an epoch was undone."""
    parts = outcome(trainer)
    kept = [record for record in trainer.history if not record.is_undone]
    parts["history"] = [(record.loss, record.clean, record.robust, record.learning_rate) for record in kept]
    del parts["best_epoch"]
    return parts


def guarded(classifier: OATClassifier | None = None, attack=weak, **method) -> OATTrainer:
    return trainer_of(classifier, **{"attack": attack, "fallback": STRONG, **method})


METHODS = {
    "average and augmentation": ({}, {}),
    "neither": ({"ema": None, "augmentation": None}, {}),
    "one step": ({"attack": NFGSM(eps=0.2)}, {}),
    "all widths": ({"width_sampling": "all", "distills": True}, {"widths": WIDTHS, "heads": "per-width"}),
    "random width": ({}, {"widths": WIDTHS}),
    "perturbed weights": ({"weight_perturbation": WeightPerturbation(0.05)}, {}),
    "bf16": ({"precision": "bf16"}, {}),
    "AdamW": ({}, {"make_optimizer": lambda weights: torch.optim.AdamW(weights, lr=torch.tensor(0.01))}),
}


@pytest.mark.parametrize("name", METHODS)
def test_without_a_collapse_training_is_to_the_bit_what_it_is_without_a_fallback(name):
    method, network = METHODS[name]
    options = {"restores": False}  # which is the best depends on who judges
    with_fallback = fit(guarded(with_dropout(**network), **method), None, **options)
    without = fit(guarded(with_dropout(**network), **{**method, "fallback": None}), None, **options)
    assert_same(trained(with_fallback), trained(without))
    assert not any(record.is_undone for record in with_fallback.history)
    assert all(0 <= record.holdout_robust <= 1 for record in with_fallback.history)
    assert all(math.isnan(record.holdout_robust) for record in without.history)


def test_attacks_from_outside_may_train_and_judge():
    def make(with_fallback: bool) -> OATTrainer:
        classifier = with_dropout()
        fallback = FastGradientMethod(classifier, eps=0.1, num_random_init=1) if with_fallback else None
        return fit(
            guarded(classifier, lambda network, x, y: x * torch.rand_like(x), fallback=fallback), None,
            restores=False,
        )  # fmt: skip

    assert_same(trained(make(True)), trained(make(False)))


@pytest.mark.parametrize(
    ("name", "epoch"),
    [*itertools.product(METHODS, [2]), ("average and augmentation", 1), ("average and augmentation", 3)],
)
def test_after_a_collapse_training_equals_one_that_went_over_to_the_fallback_at_that_epoch(name, epoch):
    method, network = METHODS[name]
    options = {"restores": False}
    with collapsing_in(epoch) as looks, pytest.warns(CatastrophicOverfittingWarning):
        actual = fit(guarded(with_dropout(**network), **method), None, **options)
    switching = Switching(epoch, method.get("attack", weak))
    expected = fit(
        trainer_of(with_dropout(**network), **{**method, "attack": switching}), None,
        callbacks=[switching.note], **options,
    )  # fmt: skip
    assert_same(trained(actual), trained(expected))
    assert looks == list(range(1, epoch + 1))  # once it has happened, nobody looks any more


@pytest.mark.parametrize("kind", [*SCHEDULERS, "loader"])
def test_schedules_and_loaders_too_are_those_of_a_training_that_went_over_to_the_fallback(kind):
    def train(make: Callable[[OATClassifier], OATTrainer], callbacks=()) -> OATTrainer:
        classifier = with_dropout()
        source = (X, Y)
        if kind == "loader":
            source = (DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 10),)
        scheduler = SCHEDULERS.get(kind, SCHEDULERS["none"])(classifier.optimizer)
        return fit(
            make(classifier), None, source, scheduler=scheduler, callbacks=callbacks,
            restores=False,
        )  # fmt: skip

    with collapsing_in(2), pytest.warns(CatastrophicOverfittingWarning):
        actual = train(guarded)
    switching = Switching(2)
    expected = train(lambda classifier: trainer_of(classifier, attack=switching), [switching.note])
    assert_same(trained(actual), trained(expected))


@pytest.mark.parametrize("warmup_epochs", [1, 2])
def test_the_warmup_of_a_weight_perturbation_counts_the_epochs_that_are_kept(warmup_epochs):
    method = {"weight_perturbation": WeightPerturbation(0.3, warmup_epochs)}
    with collapsing_in(1), pytest.warns(CatastrophicOverfittingWarning):
        actual = fit(guarded(**method), None, restores=False)
    expected = fit(trainer_of(attack=STRONG, **method), None, restores=False)
    assert_same(trained(actual), trained(expected))


@pytest.mark.parametrize("width", WIDTHS)
def test_training_goes_over_to_the_fallback_at_whichever_width_it_collapses(width):
    with collapsing_in(2, width), pytest.warns(CatastrophicOverfittingWarning):
        trainer = fit(guarded(with_dropout(widths=WIDTHS), width_sampling="all"), None)
    assert [record.is_undone for record in trainer.history] == [False, True, False, False]


class Watching:
    """The fallback; notes what it finds when it first trains, which is right after the epoch was undone."""

    def __init__(self) -> None:
        self.look: Callable[[], dict] = dict
        self.found: dict | None = None

    def __call__(self, network, x, y, *, clip_values=None, generator=None):
        if self.found is None and len(x) > 1:
            self.found = self.look()
        return STRONG(network, x, y, clip_values=clip_values, generator=generator)


@pytest.mark.parametrize("epoch", [1, 2])
def test_weights_statistics_and_momentum_of_the_epoch_are_undone_to_the_bit(epoch):
    classifier, watching, good = with_dropout(), Watching(), {}

    def look() -> dict:
        momentum = [state["momentum_buffer"].clone() for state in classifier.optimizer.state.values()]
        return {
            "tensors": outcome_of(classifier),
            "momentum": momentum,
            "rate": classifier.optimizer.param_groups[0]["lr"],
        }

    watching.look = look
    good[0] = look()
    trainer = trainer_of(classifier, attack=weak, fallback=watching, ema=None)
    with collapsing_in(epoch), pytest.warns(CatastrophicOverfittingWarning):
        fit(
            trainer, None, validation_data=Validation(X[:10], Y[:10], 3), restores=False, scheduler=None,
            callbacks=[lambda record: good.update({record.epoch: look()})],
        )  # fmt: skip
    assert_same(watching.found, good[epoch - 1])
    assert not torch.equal(good[3]["tensors"]["network.head.weight"], good[0]["tensors"]["network.head.weight"])


def test_a_collapse_is_told_of_with_its_figures_and_where_fit_was_called():
    with collapsing_in(2), pytest.warns(CatastrophicOverfittingWarning) as caught:
        fit(guarded(), None)
    (warning,) = (each for each in caught if each.category is CatastrophicOverfittingWarning)
    text = str(warning.message)
    assert "collapsed in epoch 2: 0.0% stand after the fallback, 100.0% did before or stand after the attack" in text
    assert "The epoch is undone, and training goes on by PGD(eps=0.2" in text
    assert warning.filename == fit.__code__.co_filename


def test_a_warning_that_is_made_an_error_leaves_the_last_good_state():
    trainer = guarded(ema=None)
    good = {}
    with collapsing_in(2), warnings.catch_warnings():
        warnings.simplefilter("error", CatastrophicOverfittingWarning)
        with pytest.raises(CatastrophicOverfittingWarning):
            fit(trainer, None, restores=False, callbacks=[lambda _: good.update(outcome_of(trainer.classifier))])
    assert_same(outcome_of(trainer.classifier), good)


def test_history_log_and_callback_tell_the_epoch_that_is_undone_from_those_that_count(tmp_path):
    told = []
    callbacks = [CSVLogger(tmp_path / "log.csv"), lambda record: told.append(record.epoch)]
    with collapsing_in(2), pytest.warns(CatastrophicOverfittingWarning):
        trainer = fit(guarded(), None, callbacks=callbacks)
    assert [record.epoch for record in trainer.history] == [1, 2, 2, 3]
    assert [record.is_undone for record in trainer.history] == [False, True, False, False]
    assert [record.holdout_robust for record in trainer.history[:2]] == [1.0, 0.0]
    assert all(math.isnan(record.holdout_robust) for record in trainer.history[2:])  # the fallback trains by now
    assert told == [1, 2, 3]
    undone = trainer.history[1]
    assert undone.validation == ()
    assert not undone.is_best
    assert undone.loss == pytest.approx(trainer.history[2].loss, rel=0.5)  # of the same batches, attacked otherwise
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["is_undone"] for row in rows] == ["0", "1", "0", "0"]
    assert [float(row["holdout_robust"]) for row in rows[:2]] == [1.0, 0.0]


def test_every_call_of_fit_starts_by_the_attack_of_the_training():
    trainer = guarded()
    with collapsing_in(1), pytest.warns(CatastrophicOverfittingWarning):
        fit(trainer, None, nb_epochs=1)
    with collapsing_in(None) as looks:
        fit(trainer, None, nb_epochs=2)
    assert looks == [1, 2]
    assert [record.is_undone for record in trainer.history] == [True, False, False, False]


def test_a_fallback_that_diverges_at_once_leaves_the_state_before_the_collapse():
    numbers, good = iter(range(1, 1000)), {}

    def loss(*arguments):
        return hybrid_loss(*arguments) * (math.nan if next(numbers) == 5 else 1.0)  # two steps an epoch, twice the 2nd

    trainer = guarded(ema=None, loss=loss)
    with (
        collapsing_in(2),
        pytest.warns(CatastrophicOverfittingWarning),
        pytest.raises(RuntimeError, match="training must stay finite, got a loss of nan in epoch 2"),
    ):
        fit(trainer, None, restores=False, callbacks=[lambda _: good.update(outcome_of(trainer.classifier))])
    assert_same(outcome_of(trainer.classifier), good)


def test_plain_networks_follow_where_an_epoch_is_undone():
    trainer = guarded(ema=None)
    classifier = trainer.classifier
    found = []

    def look(record) -> None:
        lam = torch.full((20,), 0.3)
        is_training = classifier.model.training
        found.append(
            (classifier.at(0.3).predict(X), classifier.model.eval()(torch.from_numpy(X), lam).detach().numpy())
        )
        classifier.model.train(is_training)

    with collapsing_in(1), pytest.warns(CatastrophicOverfittingWarning):
        fit(trainer, None, restores=False, callbacks=[look])
    for plain, conditional in found:
        np.testing.assert_allclose(plain, conditional, rtol=1e-4, atol=1e-5)  # float32, merged


# validation


@pytest.mark.parametrize("lambdas", [LAMBDAS, (0.0,)])
def test_validation_is_by_the_fallback(lambdas):
    classifier, fallback = at_lambdas(lambdas), PGD(eps=1.0, nb_steps=3)
    trainer = fit(
        trainer_of(classifier, attack=weak, fallback=fallback, ema=None, allow_large_eps=True), None, restores=False
    )
    x, y, is_weaker = torch.from_numpy(X[:10]), torch.from_numpy(Y[:10]), []
    for point in trainer.history[-1].validation:
        view = classifier.at(point.lam, point.width).as_module()
        generator = torch.Generator().manual_seed(trainer.seed)
        clean, robust = robust_correct(view, x, y, fallback, clip_values=(0, 1), generator=generator)
        assert (point.clean, point.robust) == (clean.double().mean(), robust.double().mean())
        is_weaker.append(point.robust < point.clean)
    assert any(is_weaker)


def at_lambdas(lambdas: tuple[float, ...]) -> OATClassifier:
    torch.manual_seed(1)
    model = to_conditional(Residual(), lambdas)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))


def test_a_lam_of_0_alone_is_trained_as_without_a_fallback():
    results = []
    for fallback in (STRONG, None):
        trainer = trainer_of(at_lambdas((0.0,)), attack=weak, fallback=fallback)
        results.append(trained(fit(trainer, None, restores=False)))
    assert_same(results[0], results[1])


# a training that is gone on with


@pytest.mark.parametrize(
    ("variant", "step"),  # of two per epoch; in the second epoch, in its second run, and after it
    [*itertools.product(["average and augmentation"], [3, 5, 7, 8]), ("all widths", 5), ("perturbed weights", 7)],
)
def test_a_cut_training_is_gone_on_with_to_the_bit_before_and_after_a_collapse(tmp_path, variant, step):
    method, network = METHODS[variant]
    per_step = 3 if method.get("width_sampling") == "all" else 1

    def train(path, **options) -> OATTrainer:
        return fit(guarded(with_dropout(**network), **method), path, **options)

    with collapsing_in(2), pytest.warns(CatastrophicOverfittingWarning):
        whole = train(None)
    with collapsing_in(2), warnings.catch_warnings(), cut_in((step - 1) * per_step + 1):
        warnings.simplefilter("ignore", CatastrophicOverfittingWarning)
        train(tmp_path / "state.pt")
    with collapsing_in(1) as looks, warnings.catch_warnings():  # the first look is at the second epoch
        warnings.simplefilter("ignore", CatastrophicOverfittingWarning)
        again = train(tmp_path / "state.pt")
    assert looks == ([1] if step < 7 else [])
    assert_same(outcome(again), outcome(whole))
    assert [record.is_undone for record in again.history] == [False, True, False, False]


def test_the_best_so_far_is_remembered_by_what_is_gone_on_with(classifier):
    before, after = guard_of(classifier, 128), guard_of(classifier, 128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guard, "_stands", lambda self, attack, width: first(60, self))
        assert not before.has_collapsed()
        patch.setattr(Guard, "_stands", lambda self, attack, width: first(29, self))
        after.load_state_dict(before.state_dict())
        assert after.has_collapsed()
        assert not guard_of(classifier, 128).has_collapsed()


# what is refused


def test_a_fallback_that_cannot_be_aimed_is_refused_when_the_trainer_is_made(classifier):
    for wrong in (PGD, nn.Linear(2, 2)):
        with pytest.raises(TypeError, match="fallback: attack must be an attack of art_oat, ART or torchattacks"):
            OATTrainer(classifier, fallback=wrong)
    elsewhere = FastGradientMethod(make_classifier(), eps=0.1)
    with pytest.raises(ValueError, match="fallback: an attack of ART must be made for the classifier that is trained"):
        OATTrainer(classifier, fallback=elsewhere)


def test_one_step_of_much_noise_is_no_fallback(classifier):
    with pytest.raises(ValueError, match=r"fallback must .* take many steps, such as pgd-7, got an NFGSM"):
        OATTrainer(classifier, fallback=NFGSM())


# the thing itself


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = (nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))


def fgsm(network: nn.Module, x: Tensor, y: Tensor, eps: float = 0.3) -> Tensor:
    """One step of the gradient's sign from the image itself: the attack that catastrophic overfitting is known from."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(x), y, reduction="sum"), x)
    return (x.detach() + eps * gradient.sign()).clamp(0, 1)


@pytest.mark.slow
def test_digits_trained_by_one_step_without_noise_collapse_and_are_saved_by_the_fallback():
    """What an unguarded training stands of the one step, it does not stand of PGD; the guarded one does."""
    data, stands = digits(), {}
    pgd = PGD(eps=0.3, eps_step=0.1, nb_steps=5)
    for fallback in (None, pgd):
        model = to_conditional(perceptron(), (1.0,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))
        trainer = OATTrainer(classifier, attack=fgsm, fallback=fallback)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CatastrophicOverfittingWarning)
            trainer.fit(
                *data.train, Validation(*data.validation, interval=9), batch_size=64, nb_epochs=9, verbose=False,
            )  # fmt: skip
        is_warned = any(each.category is CatastrophicOverfittingWarning for each in caught)
        assert is_warned == (fallback is not None) == any(record.is_undone for record in trainer.history)
        network, x, y = classifier.at(1.0).as_module(), torch.from_numpy(data.test.x), torch.from_numpy(data.test.y)
        attacked = (
            fgsm(network, x, y),
            pgd(network, x, y, clip_values=(0, 1), generator=torch.Generator().manual_seed(0)),
        )
        stands[fallback] = [(network(each).argmax(dim=1) == y).double().mean().item() for each in attacked]
    (fgsm_alone, pgd_alone), (_, pgd_guarded) = stands[None], stands[pgd]
    error = math.sqrt(2 * 0.2 * 0.8 / 450)  # of a difference of two accuracies of a fifth
    assert fgsm_alone > pgd_alone + 5 * error
    assert pgd_guarded > pgd_alone + 3 * error


def test_a_collapse_in_the_very_first_epoch_is_noticed_by_what_the_attack_of_the_training_leaves():
    """Natural training by an attack that does nothing, which PGD finds out about at once."""
    data = digits()
    model = to_conditional(perceptron(), (0.0, 1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))
    trainer = OATTrainer(classifier, attack=weak, fallback=PGD(eps=0.3, nb_steps=2))
    with pytest.warns(CatastrophicOverfittingWarning, match="collapsed in epoch 1"):
        trainer.fit(
            data.train.x, data.train.y, (data.validation.x, data.validation.y), batch_size=64, nb_epochs=1,
            verbose=False,
        )  # fmt: skip
    assert [record.is_undone for record in trainer.history] == [True, False]


def test_the_guard_does_not_look_at_clean_epochs(monkeypatch):
    looked = []
    monkeypatch.setattr(Guard, "has_collapsed", lambda guard: bool(looked.append(guard)))
    trainer = OATTrainer(make_classifier(), attack=weak, fallback=STRONG, clean_share=0.5)
    trainer.fit(X, Y, (X, Y), nb_epochs=4, batch_size=10, verbose=False)
    assert len(looked) == 2
