import math

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset

from art_oat.training import OneCycle, PerStep, Piecewise, SlowStart, hybrid_loss
from art_oat.training.lr_stepper import in_two_parts
from tests.conftest import make_classifier
from tests.networks import images, labels
from tests.training.trained import fit, rates_at_each_step, rates_of, sgd, trained


def test_training_by_a_scheduler_of_torch_equals_training_by_the_schedule():
    classifiers = [make_classifier() for _ in range(3)]
    by_torch = LambdaLR(classifiers[1].optimizer, lambda step: SlowStart()(min(step / 4, 1.0)))
    schedulers = (SlowStart(), PerStep(by_torch), None)
    first, second, constant = (
        trained(classifier, scheduler=scheduler) for classifier, scheduler in zip(classifiers, schedulers, strict=True)
    )
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
        fit(classifier, loss=note, scheduler=lambda progress: 1 - progress / 2, nb_epochs=3)
        np.testing.assert_allclose(seen, rate * (1 - np.arange(6) / 12), rtol=1e-12)
        assert rates_of(classifier.optimizer) == [rate]


def test_the_learning_rate_comes_back_after_an_exception(classifier):
    def fail(*arguments):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(classifier, loss=fail, scheduler=OneCycle())
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


class CountingScheduler:
    def __init__(self) -> None:
        self.nb_steps = 0

    def step(self) -> None:
        self.nb_steps += 1


@pytest.mark.parametrize(("wrap", "nb_steps"), [(lambda it: it, 3), (PerStep, 6)])
def test_any_scheduler_is_stepped_per_epoch_or_per_step(classifier, wrap, nb_steps):
    scheduler = CountingScheduler()
    fit(classifier, scheduler=wrap(scheduler), nb_epochs=3)
    assert scheduler.nb_steps == nb_steps


def test_a_plateau_scheduler_sees_the_training_loss(classifier):
    for group in classifier.optimizer.param_groups:
        group["lr"] = 1e-12  # nothing improves
    scheduler = ReduceLROnPlateau(classifier.optimizer, factor=0.5, patience=0, threshold=0.9)
    scheduler.min_lrs, scheduler.eps = [0.0], 0.0
    history = fit(classifier, nb_epochs=3, scheduler=scheduler).history
    assert [record.learning_rate for record in history] == [1e-12, 5e-13, 2.5e-13]
    assert scheduler.best == history[0].loss


@pytest.mark.parametrize(
    ("mode", "wrap", "parts", "message"),
    [
        ("max", lambda it: it, {}, "scheduler must have mode 'min' and be stepped per epoch"),
        ("min", PerStep, {}, "scheduler must have mode 'min' and be stepped per epoch"),
        ("min", lambda it: it, {"clean_share": 0.5}, "scheduler must be no ReduceLROnPlateau with clean_share"),
    ],
)
def test_a_plateau_scheduler_that_could_not_see_the_loss_is_refused(classifier, mode, wrap, parts, message):
    with pytest.raises(ValueError, match=message):
        fit(classifier, scheduler=wrap(ReduceLROnPlateau(classifier.optimizer, mode)), **parts)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(zip(images(20, torch.float32), labels(20), strict=True))


def test_a_schedule_needs_to_know_the_number_of_steps(classifier):
    loader = DataLoader(Endless(), batch_size=10)
    with pytest.raises(ValueError, match=r"scheduler must have step\(\) with a loader of unknown length"):
        fit(classifier, loader, scheduler=OneCycle())
    with pytest.raises(ValueError, match="eps_warmup must be 0 with a loader of unknown length"):
        fit(classifier, loader, eps_warmup=0.5)
    fit(classifier, loader)


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
        fit(classifier, scheduler=scheduler)


def test_a_schedule_in_two_parts_goes_through_once_in_each():
    schedule = in_two_parts(OneCycle(), 0.25)
    for share in (0.0, 0.3, 0.9):
        assert schedule(0.25 * share) == pytest.approx(OneCycle()(share))
        assert schedule(0.25 + 0.75 * share) == pytest.approx(OneCycle()(share))
    assert schedule(1.0) == OneCycle()(1.0)
    whole = OneCycle()
    assert all(in_two_parts(whole, share) is whole for share in (0.0, 1.0))  # a part is empty
