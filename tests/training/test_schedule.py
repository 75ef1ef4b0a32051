import math

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, OneCycleLR, SequentialLR
from torch.utils.data import DataLoader, IterableDataset

from art_oat import PGD, OATTrainer, hybrid_loss
from art_oat.training.schedule import OneCycle, Piecewise, WarmupCosine, paced, schedule_by_name
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
    with paced(optimizer, scheduler, "step", nb_steps) as pace:
        for _ in range(nb_steps):
            seen.append(rates_of(optimizer))
            optimizer.step()
            pace.end_step()
    return seen


def assert_same_rates(schedule, make_torch_scheduler, nb_steps):
    optimizer = sgd()
    expected = rates_at_each_step(optimizer, make_torch_scheduler(optimizer), nb_steps)
    actual = rates_at_each_step(sgd(), schedule, nb_steps)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)  # torch's are products of n factors


@pytest.mark.parametrize(("nb_steps", "peak_at"), [(10, 0.3), (37, 0.21), (200, 0.5)])
def test_one_cycle_gives_the_learning_rates_of_torch(nb_steps, peak_at):
    # torch counts n + 1 points from 0 to n and puts the peak at step pct_start (n + 1) - 1; ours is at peak_at n
    pct_start = (peak_at * nb_steps + 1) / (nb_steps + 1)
    assert_same_rates(
        OneCycle(peak_at),
        lambda optimizer: OneCycleLR(
            optimizer, list(RATES), total_steps=nb_steps + 1, pct_start=pct_start, cycle_momentum=False
        ),
        nb_steps,
    )


def test_cosine_without_warm_up_gives_the_learning_rates_of_torch():
    assert_same_rates(WarmupCosine(0), lambda optimizer: CosineAnnealingLR(optimizer, T_max=30), 30)


def test_warm_up_and_cosine_give_the_learning_rates_of_torch():
    def linear_then_cosine(optimizer):
        parts = [LinearLR(optimizer, 0.1, total_iters=8), CosineAnnealingLR(optimizer, T_max=32)]
        return SequentialLR(optimizer, parts, milestones=[8])

    assert_same_rates(WarmupCosine(0.2, start=0.1), linear_then_cosine, 40)


@pytest.mark.parametrize("nb_steps", [10, 20, 33])
def test_piecewise_gives_the_learning_rates_of_torch(nb_steps):
    milestones = [math.ceil(0.3 * nb_steps), math.ceil(0.7 * nb_steps)]
    assert_same_rates(
        Piecewise({0.7: 0.01, 0.3: 0.1}), lambda optimizer: MultiStepLR(optimizer, milestones, 0.1), nb_steps
    )


@pytest.mark.parametrize("schedule", [OneCycle(0.4, 0.2, 0.1), WarmupCosine(0.3, 0.2, 0.1)])
def test_a_schedule_starts_ends_and_peaks_where_it_says_and_does_not_jump(schedule):
    progress = np.linspace(0, 1, 1001)
    factors = np.array([schedule(point) for point in progress])
    assert factors[0] == pytest.approx(0.2)
    assert factors[-1] == pytest.approx(0.1)
    assert factors.max() == pytest.approx(1)
    assert np.abs(np.diff(factors)).max() < 0.005  # the steepest slope is pi / 2 / 0.3 < 5 per unit of progress


def test_constant_keeps_the_learning_rates():
    assert {schedule_by_name("constant")(point) for point in np.linspace(0, 1, 11)} == {1.0}


@pytest.mark.parametrize(
    ("name", "schedule"), [("one-cycle", OneCycle()), ("cosine", WarmupCosine()), ("piecewise", Piecewise())]
)
def test_a_schedule_has_a_name(name, schedule):
    assert schedule_by_name(name) == schedule


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"schedule must be one of \('one-cycle', .*, got 'cyclic'"):
        schedule_by_name("cyclic")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneCycle(1.0, start=-1), r"start must be a number in \[0, 1\].* peak_at must be a number in \(0, 1\)"),
        (lambda: WarmupCosine(1, end=2), r"end must be a number in \[0, 1\].* warmup must be a number in \[0, 1\)"),
        (lambda: Piecewise({50: 0.1, 0.5: -1}), "factors must map progress"),
    ],
)
def test_faulty_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def fit(classifier, scheduler, *, loss=hybrid_loss, x=X, y=Y) -> None:
    trainer = OATTrainer(classifier, PGD(eps=0.1, nb_steps=1), loss=loss)
    trainer.fit(x, y, batch_size=10, nb_epochs=3, scheduler=scheduler, verbose=False)


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
