import math

import numpy as np
import pytest
from torch.optim import lr_scheduler as schedulers

from art_oat.training.schedule import OneCycle, Piecewise, SlowStart, WarmUp, WarmupCosine, schedule_by_name
from tests.training.trained import RATES, rates_at_each_step, sgd


def one_cycle(nb_steps, peak_at):
    # torch counts n + 1 points from 0 to n and puts the peak at step pct_start (n + 1) - 1; ours is at peak_at n
    options = {"pct_start": (peak_at * nb_steps + 1) / (nb_steps + 1), "cycle_momentum": False}
    return lambda optimizer: schedulers.OneCycleLR(optimizer, list(RATES), total_steps=nb_steps + 1, **options)


def milestones(nb_steps):
    points = [math.ceil(0.3 * nb_steps), math.ceil(0.7 * nb_steps)]
    return lambda optimizer: schedulers.MultiStepLR(optimizer, points, 0.1)


def linear_then(start, nb_rising, make):
    def both(optimizer):
        parts = [schedulers.LinearLR(optimizer, start, total_iters=nb_rising), make(optimizer)]
        return schedulers.SequentialLR(optimizer, parts, milestones=[nb_rising])

    return both


STEPWISE = Piecewise({0.7: 0.01, 0.3: 0.1})


@pytest.mark.parametrize(
    ("schedule", "make", "nb_steps"),
    [
        *[(OneCycle(peak_at), one_cycle(n, peak_at), n) for n, peak_at in ((10, 0.3), (37, 0.21), (200, 0.5))],
        (WarmupCosine(0), lambda optimizer: schedulers.CosineAnnealingLR(optimizer, T_max=30), 30),
        (WarmupCosine(0.2, 0.1), linear_then(0.1, 8, lambda it: schedulers.CosineAnnealingLR(it, T_max=32)), 40),
        (
            SlowStart(0.3, start=0.2, end=1 / 8),
            linear_then(0.2, 12, lambda it: schedulers.ExponentialLR(it, (1 / 8) ** (1 / 28))),
            40,
        ),
        *[(STEPWISE, milestones(n), n) for n in (10, 20, 33)],
        (WarmUp(0.25, STEPWISE, 0.1), linear_then(0.1, 10, milestones(30)), 40),
        (WarmUp(0.25, Piecewise({}), 0.5), linear_then(0.5, 10, lambda it: schedulers.ConstantLR(it, 1)), 40),
    ],
)
def test_a_schedule_gives_the_learning_rates_of_torch(schedule, make, nb_steps):
    optimizer = sgd()
    expected = rates_at_each_step(optimizer, make(optimizer), nb_steps)
    actual = rates_at_each_step(sgd(), schedule, nb_steps)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)  # torch's are products of n factors


@pytest.mark.parametrize("schedule", [OneCycle(0.4, 0.2, 0.1), WarmupCosine(0.3, 0.2, 0.1), SlowStart(0.3, 0.2, 0.1)])
def test_a_schedule_starts_ends_and_peaks_where_it_says_and_does_not_jump(schedule):
    factors = np.array([schedule(point) for point in np.linspace(0, 1, 1001)])
    assert factors[0] == pytest.approx(0.2)
    assert factors[-1] == pytest.approx(0.1)
    assert factors.max() == pytest.approx(1)
    # the steepest slopes per unit of progress are 0.8 pi / 2 / 0.4, 0.9 pi / 2 / 0.7 and log(10) / 0.7, all below 5
    assert np.abs(np.diff(factors)).max() < 0.005


def test_a_schedule_has_a_name():
    found = [schedule_by_name(name) for name in ("one-cycle", "cosine", "piecewise", "slow-start")]
    assert found == [OneCycle(), WarmupCosine(), Piecewise(), SlowStart()]
    assert {schedule_by_name("constant")(point) for point in np.linspace(0, 1, 11)} == {1.0}
    with pytest.raises(ValueError, match=r"schedule must be one of \('one-cycle', .*, got 'cyclic'"):
        schedule_by_name("cyclic")


@pytest.mark.parametrize("point", np.linspace(0, 1, 21))
def test_a_warm_up_before_a_cosine_without_one_is_the_cosine_with_one(point):
    assert WarmUp(0.2, WarmupCosine(0), 0.3)(point) == pytest.approx(WarmupCosine(0.2, 0.3)(point), rel=1e-12)


@pytest.mark.parametrize("then", [lambda progress: 3 - progress, OneCycle(), SlowStart()])
def test_a_warm_up_ends_where_what_follows_begins_and_does_not_jump(then):
    schedule = WarmUp(0.5, then, 0.25)
    assert [schedule(point) for point in (0, 0.5, 1)] == [0.25 * then(0), then(0), then(1)]
    assert schedule(0.5 - 1e-9) == pytest.approx(then(0), rel=1e-8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one-cycle", OneCycle(0.2)),
        ("cosine", WarmupCosine(0.2)),
        ("slow-start", SlowStart(0.2)),
        ("piecewise", WarmUp(0.2, Piecewise())),
        ("constant", WarmUp(0.2, Piecewise({}))),
    ],
)
def test_a_schedule_by_name_warms_up_in_its_own_way_if_it_has_one(name, expected):
    assert schedule_by_name(name, lr_warmup=0.2) == expected


@pytest.mark.parametrize("warmup", [0, 1, -0.5, "long"])
def test_a_warm_up_takes_a_part_of_the_training(warmup):
    with pytest.raises(ValueError, match=r"schedule must be one of .* lr_warmup must be a number in \(0, 1\)"):
        schedule_by_name("cyclic", lr_warmup=warmup)
    with pytest.raises(ValueError, match=r"share must be a number in \(0, 1\).* start must be a number in \[0, 1\]"):
        WarmUp(warmup, OneCycle(), start=2)
    with pytest.raises(TypeError, match=r"then must be a function of progress.*, got float"):
        WarmUp(0.1, 0.5)


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


@pytest.mark.parametrize("peak_at", [0.1, 0.4, 0.7])
def test_slow_start_never_falls_before_its_peak_of_1_and_never_rises_after_it(peak_at):
    schedule = SlowStart(peak_at)
    factors, nb_before = [schedule(progress) for progress in np.linspace(0, 1, 101)], round(100 * peak_at)
    assert np.all(np.diff(factors[: nb_before + 1]) > 0)
    assert np.all(np.diff(factors[nb_before:]) < 0)
    assert schedule(peak_at) == 1
    assert [schedule(math.nextafter(peak_at, side)) for side in (0, 1)] == pytest.approx([1, 1], abs=1e-14)


@pytest.mark.parametrize("start", [0.0, 0.01, 1 / 6, 0.2])
def test_slow_start_in_ten_epochs_rises_in_equal_steps_over_five_then_halves_with_each(start):
    factors = [SlowStart(start=start)(epoch / 10) for epoch in range(11)]
    np.testing.assert_allclose(factors[:6], start + np.arange(6) * (1 - start) / 5, rtol=1e-12)
    np.testing.assert_allclose(factors[5:], [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32], rtol=1e-12)
