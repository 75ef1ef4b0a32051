import math

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)
from torch.utils.data import DataLoader, IterableDataset

from art_oat import PGD, OATTrainer
from art_oat.training import hybrid_loss
from art_oat.training.schedule import (
    OneCycle,
    PerStep,
    Piecewise,
    SlowStart,
    WarmupCosine,
    in_two_parts,
    schedule_by_name,
    scheduled,
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


def fit(classifier, scheduler, *, loss=hybrid_loss, x=X, y=Y, **options) -> None:
    trainer = OATTrainer(classifier, attack=PGD(eps=0.1, nb_steps=1), loss=loss)
    trainer.fit(x, y, batch_size=10, nb_epochs=3, scheduler=scheduler, verbose=False, **options)


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
