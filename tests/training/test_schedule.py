import math

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from art_oat.training.lr_stepper import scheduled
from art_oat.training.schedule import (
    OneCycle,
    Piecewise,
    SlowStart,
    WarmupCosine,
    schedule_by_name,
)
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


@pytest.mark.parametrize("schedule", [OneCycle(0.4, 0.2, 0.1), WarmupCosine(0.3, 0.2, 0.1), SlowStart(0.3, 0.2, 0.1)])
def test_a_schedule_starts_ends_and_peaks_where_it_says_and_does_not_jump(schedule):
    progress = np.linspace(0, 1, 1001)
    factors = np.array([schedule(point) for point in progress])
    assert factors[0] == pytest.approx(0.2)
    assert factors[-1] == pytest.approx(0.1)
    assert factors.max() == pytest.approx(1)
    # the steepest slopes per unit of progress are 0.8 pi / 2 / 0.4, 0.9 pi / 2 / 0.7 and log(10) / 0.7, all below 5
    assert np.abs(np.diff(factors)).max() < 0.005


def test_constant_keeps_the_learning_rates():
    assert {schedule_by_name("constant")(point) for point in np.linspace(0, 1, 11)} == {1.0}


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("one-cycle", OneCycle()),
        ("cosine", WarmupCosine()),
        ("piecewise", Piecewise()),
        ("slow-start", SlowStart()),
    ],
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
        (
            lambda: SlowStart(0, start=-1, end=0),
            r"start must be a number in \[0, 1\], got -1.* end must be a number in \(0, 1\], got 0.*"
            r" peak_at must be a number in \(0, 1\), got 0",
        ),
        (lambda: SlowStart(1.0, end=math.nan), r"end must be a number in \(0, 1\], got nan.* peak_at must .*, got 1.0"),
        (lambda: SlowStart(start=True, end=1.5), r"start must be .*, got True.* end must be .*, got 1.5"),
    ],
)
def test_faulty_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("schedule", [SlowStart(), SlowStart(0.3, start=0.0, end=0.2), SlowStart(0.9, 0.5, 1.0)])
def test_slow_start_equals_its_formula(schedule):
    peak_at, start, end = schedule.peak_at, schedule.start, schedule.end
    for progress in np.linspace(0, 1, 101):
        rise = start * (peak_at - progress) / peak_at + progress / peak_at
        fall = math.exp(math.log(end) * (progress - peak_at) / (1 - peak_at))
        assert schedule(progress) == pytest.approx(rise if progress < peak_at else fall, rel=1e-12)


@pytest.mark.parametrize("peak_at", [0.1, 0.5, 0.7])
def test_slow_start_is_continuous_at_its_peak_of_1(peak_at):
    schedule = SlowStart(peak_at)
    before, after = (schedule(math.nextafter(peak_at, side)) for side in (0, 1))
    assert schedule(peak_at) == 1
    assert before == pytest.approx(1, abs=1e-14)
    assert after == pytest.approx(1, abs=1e-14)


def test_slow_start_never_falls_before_its_peak_and_never_rises_after_it():
    factors = [SlowStart(0.4)(progress) for progress in np.linspace(0, 1, 101)]
    assert np.all(np.diff(factors[:41]) > 0)
    assert np.all(np.diff(factors[40:]) < 0)


@pytest.mark.parametrize("start", [0.0, 0.01, 1 / 6, 0.2])
def test_slow_start_in_ten_epochs_rises_in_equal_steps_over_five_then_halves_with_each(start):
    factors = [SlowStart(start=start)(epoch / 10) for epoch in range(11)]
    np.testing.assert_allclose(np.diff(factors[:6]), (1 - start) / 5, rtol=1e-12)
    np.testing.assert_allclose(factors[5:], [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32], rtol=1e-12)


def test_slow_start_from_a_sixth_rises_in_sixths():
    factors = [SlowStart(start=1 / 6)(epoch / 10) for epoch in range(6)]
    np.testing.assert_allclose(factors, np.arange(1, 7) / 6, rtol=1e-12)  # the first step is as large as the others


def test_slow_start_gives_the_learning_rates_of_torch():
    def linear_then_exponential(optimizer):
        parts = [LinearLR(optimizer, 0.2, total_iters=12), ExponentialLR(optimizer, (1 / 8) ** (1 / 28))]
        return SequentialLR(optimizer, parts, milestones=[12])

    assert_same_rates(SlowStart(0.3, start=0.2, end=1 / 8), linear_then_exponential, 40)
