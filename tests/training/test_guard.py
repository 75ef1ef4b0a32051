import csv
import itertools
import math
import warnings
from collections.abc import Iterator
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
from art_oat.training.guard import NB_HELD_OUT, Guard, is_collapse
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS, Residual, images, labels, state
from tests.training.test_resume import SCHEDULERS, assert_same, cut_in, fit, outcome, trainer_of, with_dropout

X, Y = images(20, torch.float32).numpy(), labels(20).numpy()
STRONG = PGD(eps=0.2, nb_steps=2)


def weak(network, x, y, *, clip_values=None, generator=None):
    """Leave inputs as they are."""
    return x


def noise(network, x, y):
    return x * torch.rand_like(x)


def guard_of(classifier, nb_samples=20, *, attack=weak, fallback=STRONG, seed=0, data=None) -> Guard:
    x, y = data or (images(nb_samples, torch.float32), labels(nb_samples))
    return Guard(classifier, bind(attack, classifier), bind(fallback, classifier), x, y, seed)


def at_lambdas(lambdas: tuple[float, ...], network: nn.Module | None = None, shape=(1, 6, 6), nb_classes=5):
    torch.manual_seed(1)
    model = to_conditional(network or Residual(), lambdas)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return OATClassifier(model, nn.CrossEntropyLoss(), shape, nb_classes, optimizer, clip_values=(0, 1))


# the criterion


def squared_error(first: Fraction, second: Fraction, n: int) -> Fraction:
    """Of the difference of two shares of n samples, each with one success and one failure more."""
    smoothed = [(share * n + 1) / (n + 2) for share in (first, second)]
    return sum(share * (1 - share) for share in smoothed) / n


def is_collapse_of_counts(robust: int, reference: int, n: int, nb_classes: int) -> bool:
    """The criterion on counts, in exact numbers: squared where the standard error has a root."""
    guessing, before, now = Fraction(1, nb_classes), Fraction(reference, n), Fraction(robust, n)
    has_learned = before > guessing and (before - guessing) ** 2 > 9 * squared_error(before, guessing, n)
    is_beyond_noise = before > now and (before - now) ** 2 > 9 * squared_error(before, now, n)
    return has_learned and is_beyond_noise and now < before / 2


@pytest.mark.parametrize("n", [12, 31, 128])
def test_a_collapse_leaves_less_than_half_beyond_noise_of_more_than_guessing(n):
    outcomes = set()
    for robust, reference in itertools.product(range(n + 1), repeat=2):
        expected = is_collapse_of_counts(robust, reference, n, 5)
        assert is_collapse(robust / n, reference / n, n, 5) == expected
        outcomes.add(expected)
    assert outcomes == {True, False}


@pytest.mark.parametrize("n", [32, NB_HELD_OUT // 2, NB_HELD_OUT])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0])
def test_noise_alone_is_hardly_ever_a_collapse(share, n):
    """Two accuracies of one network, each counted on samples of its own: the exact probability, by binomials.

    Beyond three standard errors, on one side, lies 0.13 percent of a normal distribution; counts are coarser.
    """
    chances = binom.pmf(range(n + 1), n, share)
    likely = itertools.product(np.flatnonzero(chances > 1e-9), repeat=2)
    assert sum(chances[a] * chances[b] for a, b in likely if is_collapse(b / n, a / n, n, 5)) < 2e-3


def first(count: int) -> Tensor:
    """That many of 64 pairs of samples, so the same share of all of them and of those of the largest lam."""
    return torch.arange(NB_HELD_OUT) < 2 * count


@pytest.fixture
def answer(monkeypatch):
    """Let a function say what is right after the fallback (or after the attack of the training) at a width."""

    def install(function) -> None:
        monkeypatch.setattr(Guard, "robust_correct", lambda self, attack, width: function(attack is self.strong, width))

    return install


@pytest.mark.parametrize(
    ("found", "trips"),  # of 64, after the fallback and after the attack of the training
    [
        ([(60, 60), (30, 30)], [False, False]),  # exactly half
        ([(60, 60), (29, 29)], [False, True]),  # of what the fallback left before
        ([(29, 60)], [True]),  # of what the attack of the training leaves now
        ([(30, 60), (29, 60)], [False, True]),
        ([(60, 60), (40, 40), (29, 30)], [False, False, True]),  # of the best before, not of the last
        ([(0, 0)], [False]),  # nothing has been learned
        ([(0, 13), (0, 20)], [False, False]),  # what guessing reaches, and a little more, is nothing yet
        ([(20, 10), (60, 5)], [False, False]),  # a weak attack that is the stronger one is no concern
    ],
)
def test_the_fallback_is_compared_with_its_best_before_and_with_the_attack_of_the_training(
    classifier, answer, found, trips
):
    guard = guard_of(classifier, NB_HELD_OUT)
    for (strong, of_training), expected in zip(found, trips, strict=True):
        answer(lambda is_strong, _, figures=(of_training, strong): first(figures[is_strong]))
        assert guard.has_collapsed() == guard.has_tripped == expected
        assert guard.holdout_robust == strong / 64
        continued = guard_of(classifier, NB_HELD_OUT)
        continued.load_state_dict(guard.state_dict())
        guard = continued  # as a training that is resumed


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("others", "at_width"),
    [
        ((64, 64), (0, 64)),
        ((32, 61), (0, 28)),  # the larger drop elsewhere, to more than half, is no collapse
    ],
)
def test_a_collapse_at_one_width_is_enough(answer, width, others, at_width):
    guard = guard_of(make_classifier(widths=WIDTHS), NB_HELD_OUT)
    answer(lambda is_strong, each: first((at_width if each == width else others)[0 if is_strong else 1]))
    assert guard.has_collapsed()
    assert (guard.holdout_robust, guard.reference) == (at_width[0] / 64, at_width[1] / 64)


@pytest.mark.parametrize("falls_at_largest", [True, False])
def test_a_collapse_at_the_largest_lam_alone_is_enough_and_among_the_smaller_ones_is_not(
    classifier, answer, falls_at_largest
):
    """Natural accuracy is kept at small lams whatever happens, and is not what a collapse is about."""
    guard = guard_of(classifier, NB_HELD_OUT)
    falls = (guard.lam == 1) == falls_at_largest
    answer(lambda is_strong, _: ~falls if is_strong else torch.ones_like(falls))
    assert guard.has_collapsed() == falls_at_largest  # one half is left in all, which is no collapse yet


def test_every_width_is_compared_with_its_own_best(answer):
    """A narrow network that is less robust than a wide one has not collapsed."""
    guard = guard_of(make_classifier(widths=WIDTHS), NB_HELD_OUT)
    answer(lambda _, width: first({0.5: 25, 0.75: 40, 1.0: 60}[width]))
    assert [guard.has_collapsed() for _ in range(3)] == [False, False, False]


# what it measures


@pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
def test_robust_is_what_the_conditional_network_answers_right_after_the_attack(widths):
    classifier = make_classifier(widths=widths)
    guard, model = guard_of(classifier, 40), classifier.model.eval()
    for width in widths:
        x_adv = STRONG(
            lambda x, width=width: model(x, guard.lam, width), guard.x, guard.y,
            clip_values=(0, 1), generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        for attack, x in ((guard.strong, x_adv), (guard.weak, guard.x)):
            expected = model(x, guard.lam, width).argmax(dim=1) == guard.y
            assert torch.equal(guard.robust_correct(attack, width), expected)


@pytest.mark.parametrize("nb_samples", [NB_HELD_OUT + 50, 31, 1])
def test_held_out_samples_are_drawn_once_and_keep_their_labels(classifier, nb_samples):
    x, y = images(nb_samples, torch.float32), torch.arange(nb_samples)
    one, same, other = (guard_of(classifier, data=(x, y), seed=seed) for seed in (0, 0, 1))
    assert len(one.y.unique()) == min(nb_samples, NB_HELD_OUT) == len(one.x)
    assert torch.equal(one.x, x[one.y])
    assert torch.equal(one.y, same.y)
    assert torch.equal(one.y, other.y) == (nb_samples == 1)


@pytest.mark.parametrize("nb_samples", [NB_HELD_OUT, 31, 1])
@pytest.mark.parametrize("lambdas", [LAMBDAS, (0.0, 0.5), (0.3,), (0.2, 1.0)])
def test_every_other_sample_has_the_largest_lam_and_the_rest_the_others_in_turn(lambdas, nb_samples):
    *others, largest = [lam for lam in lambdas if lam > 0]
    others = others or [largest]
    expected = [largest if i % 2 == 0 else others[i // 2 % len(others)] for i in range(nb_samples)]
    assert torch.equal(guard_of(at_lambdas(lambdas), nb_samples).lam, torch.tensor(expected))


@pytest.mark.parametrize("fallback", [STRONG, noise])
def test_looking_for_a_collapse_is_repeatable_and_changes_nothing(fallback):
    classifier = with_dropout()
    classifier.model.train()
    guard = guard_of(classifier, 40, attack=NFGSM(eps=0.2), fallback=fallback)
    before, random_state = state(classifier.model), torch.get_rng_state()
    found = []
    for _ in range(2):
        guard.has_collapsed()
        found.append((guard.holdout_robust, guard.reference))
    assert found[0] == found[1]
    assert_same(state(classifier.model), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(part.training for part in classifier.model.modules())
    assert all(parameter.grad is None for parameter in classifier.model.parameters())


# training under it


@contextmanager
def collapsing_in(epoch: int | None, *, warning: str = "ignore") -> Iterator[list[int]]:
    """The fallback leaves nothing the time of this number that a guard looks, counted from 1, else all.

    Gives how often it looked; the warning of a collapse is ignored, or made an error.
    """
    looks: list[int] = []
    unchanged = Guard.has_collapsed

    def has_collapsed(self: Guard) -> bool:
        looks.append(len(looks) + 1)
        return unchanged(self)

    def correct(self: Guard, attack: object, width: float) -> Tensor:
        return torch.full_like(self.y, attack is not self.strong or looks[-1] != epoch, dtype=torch.bool)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(Guard, "has_collapsed", has_collapsed)
        patch.setattr(Guard, "robust_correct", correct)
        warnings.simplefilter(warning, CatastrophicOverfittingWarning)
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


LOADER = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 10)
METHODS = {
    "average and augmentation": ({}, {}),
    "neither": ({"ema": None, "augmentation": None}, {}),
    "one step": ({"attack": NFGSM(eps=0.2)}, {}),
    "all widths": ({"width_sampling": "all", "distills": True}, {"widths": WIDTHS, "heads": "per-width"}),
    "random width": ({}, {"widths": WIDTHS}),
    "perturbed weights": ({"weight_perturbation": WeightPerturbation(0.05)}, {}),
    "perturbed after an epoch": ({"weight_perturbation": WeightPerturbation(0.3, 1)}, {}),
    "perturbed after two": ({"weight_perturbation": WeightPerturbation(0.3, 2)}, {}),
    "bf16": ({"precision": "bf16"}, {}),
    "AdamW": ({}, {"make_optimizer": lambda weights: torch.optim.AdamW(weights, lr=torch.tensor(0.01))}),
}


@pytest.mark.parametrize("name", [*METHODS, "attacks from outside"])
def test_without_a_collapse_training_is_to_the_bit_what_it_is_without_a_fallback(name):
    method, network = METHODS.get(name, ({"attack": noise}, {}))
    trainers = []
    for has_fallback in (True, False):  # which epoch is the best depends on who judges
        classifier = with_dropout(**network)
        fallback = STRONG if name in METHODS else FastGradientMethod(classifier, eps=0.1, num_random_init=1)
        trainer = guarded(classifier, **{**method, "fallback": fallback if has_fallback else None})
        trainers.append(fit(trainer, None, restores=False))
    with_fallback, without = trainers
    assert_same(trained(with_fallback), trained(without))
    assert not any(record.is_undone for record in with_fallback.history)
    assert all(0 <= record.holdout_robust <= 1 for record in with_fallback.history)
    assert all(math.isnan(record.holdout_robust) for record in without.history)


@pytest.mark.parametrize(
    ("name", "epoch", "source", "scheduler"),
    [
        *itertools.product(METHODS, [2], ["arrays"], ["one cycle"]),
        *itertools.product(["average and augmentation"], [1, 3], ["arrays"], ["one cycle"]),
        *itertools.product(["perturbed after an epoch", "perturbed after two"], [1], ["arrays"], ["one cycle"]),
        *itertools.product(["average and augmentation"], [2], ["arrays"], [*SCHEDULERS][1:]),
        ("average and augmentation", 2, "loader", "none"),
    ],
)
def test_after_a_collapse_training_equals_one_that_went_over_to_the_fallback_at_that_epoch(
    name, epoch, source, scheduler
):
    """So weights, statistics, momentum, schedule and draws of the collapsed epoch are undone."""
    method, network = METHODS[name]
    switching = Switching(epoch, method.get("attack", weak))

    def train(callbacks=(), **changes) -> OATTrainer:
        classifier = with_dropout(**network)
        return fit(
            guarded(classifier, **{**method, **changes}), None, (X, Y) if source == "arrays" else (LOADER,),
            restores=False, scheduler=SCHEDULERS[scheduler](classifier.optimizer), callbacks=callbacks,
        )  # fmt: skip

    with collapsing_in(epoch) as looks:
        actual = train()
    assert_same(trained(actual), trained(train([switching.note], attack=switching, fallback=None)))
    assert looks == list(range(1, epoch + 1))  # once it has happened, nobody looks any more


def test_a_collapse_is_told_of_with_its_figures_and_where_fit_was_called():
    with collapsing_in(2), pytest.warns(CatastrophicOverfittingWarning) as caught:
        fit(guarded(), None)
    (warning,) = (each for each in caught if each.category is CatastrophicOverfittingWarning)
    text = str(warning.message)
    assert "collapsed in epoch 2: 0.0% are right after the fallback, 100.0% were before or are after the attack" in text
    assert "The epoch is undone, and training goes on by PGD(eps=0.2" in text
    assert warning.filename == fit.__code__.co_filename


@pytest.mark.parametrize("stop", ["a warning that is made an error", "a fallback that diverges at once"])
def test_an_end_at_the_collapse_leaves_the_last_good_state(stop):
    is_warning = stop == "a warning that is made an error"
    numbers, good = iter(range(1, 1000)), {}

    def loss(*arguments):
        is_spoiled = next(numbers) == 5 and not is_warning  # two steps an epoch, twice the second
        return hybrid_loss(*arguments) * (math.nan if is_spoiled else 1.0)

    trainer = guarded(ema=None, loss=loss)
    error = CatastrophicOverfittingWarning if is_warning else RuntimeError
    with collapsing_in(2, warning="error" if is_warning else "ignore"), pytest.raises(error, match="in epoch 2"):
        fit(trainer, None, restores=False, callbacks=[lambda _: good.update(state(trainer.classifier.model))])
    assert_same(state(trainer.classifier.model), good)


def test_history_log_and_callback_tell_the_epoch_that_is_undone_from_those_that_count(tmp_path):
    told = []
    with collapsing_in(2):
        trainer = fit(
            guarded(), None, callbacks=[CSVLogger(tmp_path / "log.csv"), lambda record: told.append(record.epoch)]
        )
    assert [record.epoch for record in trainer.history] == [1, 2, 2, 3]
    assert [record.is_undone for record in trainer.history] == [False, True, False, False]
    assert [record.holdout_robust for record in trainer.history[:2]] == [1.0, 0.0]
    assert all(math.isnan(record.holdout_robust) for record in trainer.history[2:])  # the fallback trains by now
    assert told == [1, 2, 3]
    undone = trainer.history[1]
    assert (undone.validation, undone.is_best) == ((), False)
    assert undone.loss == pytest.approx(trainer.history[2].loss, rel=0.5)  # of the same batches, attacked otherwise
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["is_undone"] for row in rows] == ["0", "1", "0", "0"]
    assert [float(row["holdout_robust"]) for row in rows[:2]] == [1.0, 0.0]


def test_every_call_of_fit_starts_by_the_attack_of_the_training():
    trainer = guarded()
    with collapsing_in(1):
        fit(trainer, None, nb_epochs=1)
    with collapsing_in(None) as looks:
        fit(trainer, None, nb_epochs=2)
    assert looks == [1, 2]
    assert [record.is_undone for record in trainer.history] == [True, False, False, False]


def test_plain_networks_follow_where_an_epoch_is_undone():
    trainer = guarded(ema=None)
    model, pinned, found = trainer.classifier.model, trainer.classifier.model.pinned(0.3), []
    x = torch.from_numpy(X)

    def look(record) -> None:
        is_training = model.training
        found.append((pinned(x), model.eval()(x, 0.3).detach()))
        model.train(is_training)

    with collapsing_in(1):
        fit(trainer, None, restores=False, callbacks=[look])
    for plain, conditional in found:
        torch.testing.assert_close(plain, conditional, rtol=1e-4, atol=1e-5)  # float32, merged


@pytest.mark.parametrize("lambdas", [LAMBDAS, (0.0,)])
def test_validation_is_by_the_fallback(lambdas):
    classifier, fallback = at_lambdas(lambdas), PGD(eps=1.0, nb_steps=3)
    trainer = fit(guarded(classifier, fallback=fallback, ema=None, allow_large_eps=True), None, restores=False)
    x, y, is_weaker = torch.from_numpy(X[:10]), torch.from_numpy(Y[:10]), []
    for point in trainer.history[-1].validation:
        view = classifier.at(point.lam, point.width).as_module()
        generator = torch.Generator().manual_seed(trainer.seed)
        clean, robust = robust_correct(view, x, y, fallback, clip_values=(0, 1), generator=generator)
        assert (point.clean, point.robust) == (clean.double().mean(), robust.double().mean())
        is_weaker.append(point.robust < point.clean)
    assert any(is_weaker)


def test_a_lam_of_0_alone_is_trained_as_without_a_fallback():
    results = [
        trained(fit(guarded(at_lambdas((0.0,)), fallback=fallback), None, restores=False))
        for fallback in (STRONG, None)
    ]
    assert_same(results[0], results[1])


@pytest.mark.parametrize(
    ("variant", "step"),  # of two per epoch; in the second epoch, in its second run, and after it
    [*itertools.product(["average and augmentation"], [3, 5, 7, 8]), ("all widths", 5), ("perturbed weights", 7)],
)
def test_a_cut_training_is_resumed_to_the_bit_before_and_after_a_collapse(tmp_path, variant, step):
    method, network = METHODS[variant]
    per_step = 3 if method.get("width_sampling") == "all" else 1

    def train(path) -> OATTrainer:
        return fit(guarded(with_dropout(**network), **method), path)

    with collapsing_in(2):
        whole = train(None)
    with collapsing_in(2), cut_in((step - 1) * per_step + 1):
        train(tmp_path / "state.pt")
    with collapsing_in(1) as looks:  # the first look is at the second epoch
        again = train(tmp_path / "state.pt")
    assert looks == ([1] if step < 7 else [])
    assert_same(outcome(again), outcome(whole))
    assert [record.is_undone for record in again.history] == [False, True, False, False]


@pytest.mark.parametrize("early", ["clean_share", "eps_warmup"])
def test_epochs_that_begin_without_the_whole_radius_are_not_looked_at(early):
    with collapsing_in(None) as looks:
        trainer = OATTrainer(make_classifier(), attack=PGD(eps=0.1), fallback=STRONG, **{early: 0.5})
        trainer.fit(X, Y, (X, Y), nb_epochs=4, batch_size=10, verbose=False)
    assert looks == [1, 2]


# what is refused


def test_a_fallback_that_cannot_be_bound_is_refused_when_the_trainer_is_made(classifier):
    for wrong in (PGD, nn.Linear(2, 2)):
        with pytest.raises(TypeError, match="fallback: attack must be an attack of art_oat, ART or torchattacks"):
            OATTrainer(classifier, fallback=wrong)
    elsewhere = FastGradientMethod(make_classifier(), eps=0.1)
    with pytest.raises(ValueError, match="fallback: an attack of ART must be made for the classifier that is trained"):
        OATTrainer(classifier, fallback=elsewhere)


# the thing itself


def perceptron(lambdas: tuple[float, ...]) -> OATClassifier:
    torch.manual_seed(0)
    hidden = (nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU())
    network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))
    return at_lambdas(lambdas, network, (1, 8, 8), 10)


def fgsm(network: nn.Module, x: Tensor, y: Tensor, eps: float = 0.3) -> Tensor:
    """One step of the gradient's sign from the image itself: the attack that catastrophic overfitting is known from."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(x), y, reduction="sum"), x)
    return (x.detach() + eps * gradient.sign()).clamp(0, 1)


@pytest.mark.slow
def test_digits_trained_by_one_step_without_noise_collapse_and_are_saved_by_the_fallback():
    """An unguarded training ends robust against the one step and not against PGD; the guarded one against both."""
    data, robust = digits(), {}
    pgd = PGD(eps=0.3, eps_step=0.1, nb_steps=5)
    for fallback in (None, pgd):
        classifier = perceptron((1.0,))
        trainer = OATTrainer(classifier, attack=fgsm, fallback=fallback)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CatastrophicOverfittingWarning)
            validation = Validation(*data.validation, interval=9)
            trainer.fit(*data.train, validation, batch_size=64, nb_epochs=9, verbose=False)
        is_warned = any(each.category is CatastrophicOverfittingWarning for each in caught)
        assert is_warned == (fallback is not None) == any(record.is_undone for record in trainer.history)
        network, x, y = classifier.at(1.0).as_module(), torch.from_numpy(data.test.x), torch.from_numpy(data.test.y)
        generator = torch.Generator().manual_seed(0)
        attacked = (fgsm(network, x, y), pgd(network, x, y, clip_values=(0, 1), generator=generator))
        robust[fallback] = [(network(each).argmax(dim=1) == y).double().mean().item() for each in attacked]
    (fgsm_alone, pgd_alone), (_, pgd_guarded) = robust[None], robust[pgd]
    error = math.sqrt(2 * 0.2 * 0.8 / 450)  # of a difference of two accuracies of a fifth
    assert fgsm_alone > pgd_alone + 5 * error
    assert pgd_guarded > pgd_alone + 3 * error


def test_a_collapse_in_the_very_first_epoch_is_noticed_by_what_the_attack_of_the_training_leaves():
    """Natural training by an attack that does nothing, which PGD finds out about at once."""
    data = digits()
    trainer = OATTrainer(perceptron((0.0, 1.0)), attack=weak, fallback=PGD(eps=0.3, nb_steps=2))
    with pytest.warns(CatastrophicOverfittingWarning, match="collapsed in epoch 1"):
        trainer.fit(*data.train, tuple(data.validation), batch_size=64, nb_epochs=1, verbose=False)
    assert [record.is_undone for record in trainer.history] == [True, False]
