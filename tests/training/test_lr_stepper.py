import math

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import (
    LambdaLR,
)
from torch.utils.data import DataLoader, IterableDataset

from art_oat import PGD, OATTrainer
from art_oat.training import EpochRecord, hybrid_loss
from art_oat.training.lr_stepper import PerStep, in_two_parts, scheduled
from art_oat.training.schedule import (
    OneCycle,
    Piecewise,
    SlowStart,
)
from tests.conftest import make_classifier
from tests.networks import images, labels

X, Y = images(20, torch.float32).numpy(), labels(20).numpy()
RATES = (0.4, 0.05)


def sgd(rates=RATES) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": rate} for rate in rates])


def rates_of(optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def rates_at_each_step(optimizer, scheduler, nb_steps: int) -> list[list[float]]:
    """The learning rates that ``nb_steps`` steps are taken with."""
    seen = []
    with scheduled(optimizer, scheduler, "step", nb_steps) as stepper:
        for _ in range(nb_steps):
            seen.append(rates_of(optimizer))
            optimizer.step()
            stepper.end_step()
    return seen


def fit(classifier, scheduler, *, loss=hybrid_loss, x=X, y=Y, **options) -> list[EpochRecord]:
    """Three epochs of two steps each."""
    trainer = OATTrainer(classifier, attack=PGD(eps=0.1, nb_steps=1), loss=loss)
    trainer.fit(x, y, batch_size=10, nb_epochs=3, scheduler=scheduler, verbose=False, **options)
    return trainer.history


def by_torch(classifier) -> LambdaLR:
    """For the three epochs of two steps each of :func:`fit`."""
    return LambdaLR(classifier.optimizer, lambda step: SlowStart()(min(step / 6, 1.0)))


def test_training_by_a_scheduler_of_torch_equals_training_by_the_schedule():
    trained = [make_classifier() for _ in range(3)]
    fit(trained[0], SlowStart())
    fit(trained[1], PerStep(by_torch(trained[1])))
    fit(trained[2], None)
    first, second, constant = (classifier.model.state_dict() for classifier in trained)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first["network.head.weight"], constant["network.head.weight"])


def test_fit_takes_every_step_at_the_rate_of_its_progress_and_gives_the_learning_rate_back(classifier):
    seen = []

    def note(*arguments):
        seen.extend(rates_of(classifier.optimizer))
        return hybrid_loss(*arguments)

    for rate in (0.01, 0.02):  # a second fit starts from what is set by then
        classifier.optimizer.param_groups[0]["lr"] = rate
        seen.clear()
        fit(classifier, lambda progress: 1 - progress / 2, loss=note)
        np.testing.assert_allclose(seen, rate * (1 - np.arange(6) / 12), rtol=1e-12)
        assert rates_of(classifier.optimizer) == [rate]


def test_the_learning_rate_comes_back_after_an_exception(classifier):
    def fail(*arguments):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(classifier, OneCycle(), loss=fail)
    assert rates_of(classifier.optimizer) == [0.01]


def test_a_learning_rate_that_is_a_tensor_stays_that_tensor():
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], lr=rate, foreach=False)
    seen = rates_at_each_step(optimizer, Piecewise({0.5: 0.5}), 4)
    assert optimizer.param_groups[0]["lr"] is rate
    assert seen == [[0.5], [0.5], [0.25], [0.25]]
    assert rate == 0.5


@pytest.mark.parametrize("is_left_by", [None, OneCycle()])
def test_a_schedule_starts_from_the_rates_that_it_finds_and_leaves_no_trace(is_left_by):
    optimizer = sgd()
    if is_left_by is not None:
        LambdaLR(optimizer, is_left_by)  # writes initial_lr, which torch would start from again
    for group in optimizer.param_groups:
        group["lr"] = 0.3
    before = [dict(group) for group in optimizer.param_groups]
    seen = rates_at_each_step(optimizer, lambda progress: 1 - progress / 2, 4)
    np.testing.assert_array_equal(seen, [[0.3 * (1 - step / 8)] * 2 for step in range(4)])
    assert [dict(group) for group in optimizer.param_groups] == before


class Endless(IterableDataset):
    def __iter__(self):
        return iter(zip(images(20, torch.float32), labels(20), strict=True))


def test_a_schedule_needs_to_know_the_number_of_steps(classifier):
    loader = DataLoader(Endless(), batch_size=10)
    with pytest.raises(ValueError, match=r"scheduler must have step\(\) with a loader of unknown length"):
        fit(classifier, OneCycle(), x=loader, y=None)
    fit(classifier, None, x=loader, y=None)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            lambda progress: -progress,
            r"scheduler must map progress to a number of at least 0, got \[-0.0, -0.5, -1.0\]",
        ),
        (lambda progress: math.inf, "scheduler must map progress to a number"),
        (OneCycle, "scheduler must map"),
        (lambda: 1, "but it raised TypeError"),
        (3, r"scheduler must have step\(\) without arguments, got int"),
    ],
)
def test_what_is_no_schedule_is_refused(classifier, scheduler, message):
    with pytest.raises(ValueError, match=message):
        fit(classifier, scheduler)


def test_a_schedule_in_two_parts_goes_through_once_in_each():
    schedule = in_two_parts(OneCycle(), 0.25)
    for share in (0.0, 0.3, 0.9):
        assert schedule(0.25 * share) == pytest.approx(OneCycle()(share))
        assert schedule(0.25 + 0.75 * share) == pytest.approx(OneCycle()(share))
    assert schedule(1.0) == OneCycle()(1.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_schedule_of_which_a_part_is_empty_stays_as_it_is(share):
    schedule = OneCycle()
    assert in_two_parts(schedule, share) is schedule


class CountingScheduler:
    def __init__(self) -> None:
        self.nb_steps = 0

    def step(self) -> None:
        self.nb_steps += 1


@pytest.mark.parametrize(("interval", "nb_steps"), [("epoch", 3), ("step", 6)])
def test_any_scheduler_is_stepped_per_epoch_or_per_step(classifier, interval, nb_steps):
    scheduler = CountingScheduler()
    fit(classifier, PerStep(scheduler) if interval == "step" else scheduler)
    assert scheduler.nb_steps == nb_steps


def test_a_plateau_scheduler_sees_the_training_loss(classifier):
    for group in classifier.optimizer.param_groups:
        group["lr"] = 1e-12  # nothing improves
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(classifier.optimizer, factor=0.5, patience=0, threshold=0.9)
    scheduler.min_lrs, scheduler.eps = [0.0], 0.0
    history = fit(classifier, scheduler)
    assert [record.learning_rate for record in history] == [1e-12, 5e-13, 2.5e-13]
    assert scheduler.best == history[0].loss


@pytest.mark.parametrize(("mode", "interval"), [("max", "epoch"), ("min", "step")])
def test_a_plateau_scheduler_that_could_not_see_the_loss_is_refused(classifier, mode, interval):
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(classifier.optimizer, mode)
    with pytest.raises(ValueError, match="scheduler must have mode 'min' and be stepped per epoch"):
        OATTrainer(classifier).fit(X, Y, scheduler=PerStep(scheduler) if interval == "step" else scheduler)
