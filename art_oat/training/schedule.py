"""Schedules: learning rates as functions of the progress of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from art_oat.checks import refuse
from art_oat.numbers import is_finite_number, is_name_in, number_faults, plain, plain_fields

Schedule = Callable[[float], float]
"""Maps the share of the training that lies behind, in ``[0, 1]``, to a factor on the learning rates, at least 0."""


@dataclass(frozen=True)
class OneCycle:
    """Up to the optimizer's learning rate and down to nearly nothing (Smith & Topin 2018, arXiv:1708.07120).

    ``start + (1 - start) r(p / peak_at)`` before the peak, ``1 + (end - 1) r((p - peak_at) / (1 - peak_at))`` after
    it, with ``r(t) = (1 - cos(pi t)) / 2``. The defaults are those of torch's ``OneCycleLR``, which also cycles the
    momentum; this leaves it alone.

    Args:
        peak_at: Progress at which the factor is 1, in ``(0, 1)``.
        start: First factor, in ``[0, 1]``.
        end: Last factor, in ``[0, 1]``.

    Raises:
        ValueError: If an argument is not as above; names every fault.

    Example:
        >>> schedule = OneCycle()
        >>> [round(schedule(progress), 4) for progress in (0, 0.3, 1)]
        [0.04, 1.0, 0.0]
    """

    peak_at: float = 0.3
    start: float = 1 / 25
    end: float = 1 / 25e4

    def __post_init__(self) -> None:
        refuse(_factor_faults(start=self.start, end=self.end) + _inner_faults(peak_at=self.peak_at))

    def __call__(self, progress: float) -> float:
        """Return the factor at a progress in ``[0, 1]``."""
        if progress < self.peak_at:
            return _eased(self.start, 1.0, progress / self.peak_at)
        return _eased(1.0, self.end, (progress - self.peak_at) / (1 - self.peak_at))


@dataclass(frozen=True)
class WarmupCosine:
    """A straight line up to the optimizer's learning rate, then half a cosine down (arXiv:1608.03983, eq. 5).

    ``start + (1 - start) p / warmup`` before ``warmup``, then ``end + (1 - end) (1 + cos(pi t)) / 2`` with
    ``t = (p - warmup) / (1 - warmup)``. Without restarts.

    Args:
        warmup: Progress at which the factor is 1, in ``[0, 1)``; 0 for no warm-up.
        start: First factor, in ``[0, 1]``. At 0 the first step would change nothing.
        end: Last factor, in ``[0, 1]``.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    warmup: float = 0.05
    start: float = 0.01
    end: float = 0.0

    def __post_init__(self) -> None:
        plain_fields(self)
        faults = _factor_faults(start=self.start, end=self.end)
        refuse(faults + number_faults({"warmup": self.warmup}, "be a number in [0, 1)", lambda it: 0 <= it < 1))

    def __call__(self, progress: float) -> float:
        """Return the factor at a progress in ``[0, 1]``."""
        if progress < self.warmup:
            return self.start + (1 - self.start) * progress / self.warmup
        return _eased(1.0, self.end, (progress - self.warmup) / (1 - self.warmup))


@dataclass(frozen=True)
class Piecewise:
    """Constant between given points of the training; the published kind of schedule for adversarial training.

    The factor is that of the last point reached, and 1 before the first.

    Args:
        factors: Maps progress in ``[0, 1]`` to the factor from there on, at least 0. Empty keeps the learning rates.

    Raises:
        ValueError: If ``factors`` is not as above.
    """

    factors: Mapping[float, float] = field(default_factory=lambda: {0.5: 0.1, 0.75: 0.01})

    def __post_init__(self) -> None:
        if not isinstance(self.factors, Mapping):
            raise TypeError(f"factors must map progress to numbers, got {type(self.factors).__name__}.")
        object.__setattr__(self, "factors", {plain(point): plain(factor) for point, factor in self.factors.items()})
        faulty = {
            point: factor
            for point, factor in self.factors.items()
            if _factor_faults(point=point) or not is_finite_number(factor) or factor < 0
        }
        if faulty:
            raise ValueError(f"factors must map progress in [0, 1] to numbers of at least 0, got {faulty}.")

    def __call__(self, progress: float) -> float:
        """Return the factor at a progress in ``[0, 1]``."""
        reached = [point for point in self.factors if point <= progress]
        return self.factors[max(reached)] if reached else 1.0


@dataclass(frozen=True)
class SlowStart:
    """Slow start, fast decay: a straight line up from near 0, then an exponential fall, to fine-tune by.

    ``start + (1 - start) p / peak_at`` before the peak, ``end ** ((p - peak_at) / (1 - peak_at))`` after it. After
    adversarial fine-tuning (Jeddi et al. 2020, arXiv:2012.13628), whose exact formula was not at hand: in ten epochs,
    a rise in equal steps over five, then a halving with each of the others.

    Args:
        peak_at: Progress at which the factor is 1, in ``(0, 1)``.
        start: First factor, in ``[0, 1]``. At 0 the first step would change nothing.
        end: Last factor, in ``(0, 1]``.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    peak_at: float = 0.5
    start: float = 0.01
    end: float = 1 / 32

    def __post_init__(self) -> None:
        plain_fields(self)
        faults = _factor_faults(start=self.start)
        faults += number_faults({"end": self.end}, "be a number in (0, 1]", lambda it: 0 < it <= 1)
        refuse(faults + _inner_faults(peak_at=self.peak_at))

    def __call__(self, progress: float) -> float:
        """Return the factor at a progress in ``[0, 1]``."""
        if progress < self.peak_at:
            return self.start + (1 - self.start) * progress / self.peak_at
        return float(self.end ** ((progress - self.peak_at) / (1 - self.peak_at)))


@dataclass(frozen=True)
class WarmUp:
    """A straight line up to the first factor of any schedule, which then has the rest of the training.

    ``(start + (1 - start) p / share) then(0)`` before ``share``, ``then((p - share) / (1 - share))`` from there on.

    Args:
        share: Share of the training over which the factor rises, in ``(0, 1)``.
        then: What follows.
        start: Share of the first factor to begin with, in ``[0, 1]``. At 0 the first step would change nothing.

    Raises:
        TypeError: If ``then`` is no function.
        ValueError: If a number is not as above; names every fault.

    Example:
        >>> schedule = WarmUp(0.2, Piecewise({0.5: 0.1}))
        >>> [schedule(progress) for progress in (0, 0.2, 0.7)]
        [0.01, 1.0, 0.1]
    """

    share: float
    then: Schedule
    start: float = 0.01

    def __post_init__(self) -> None:
        if not callable(self.then):
            kind = type(self.then).__name__
            raise TypeError(f"then must be a function of progress, such as OneCycle(), got {kind}.")
        plain_fields(self)
        refuse(_inner_faults(share=self.share) + _factor_faults(start=self.start))

    def __call__(self, progress: float) -> float:
        """Return the factor at a progress in ``[0, 1]``."""
        if progress < self.share:
            return (self.start + (1 - self.start) * progress / self.share) * self.then(0.0)
        return self.then((progress - self.share) / (1 - self.share))


def _eased(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _factor_faults(**factors: Any) -> list[str]:
    return number_faults(factors, "be a number in [0, 1]", lambda it: 0 <= it <= 1)


def _inner_faults(**points: Any) -> list[str]:
    return number_faults(points, "be a number in (0, 1)", lambda it: 0 < it < 1)


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "one-cycle": OneCycle,
    "cosine": WarmupCosine,
    "piecewise": Piecewise,
    "slow-start": SlowStart,
    "constant": lambda: Piecewise({}),
}
"""The schedules that have a name; another one is one more entry."""

_RISES: dict[type, str] = {OneCycle: "peak_at", WarmupCosine: "warmup", SlowStart: "peak_at"}
"""The argument of those that rise by themselves that says until when."""


def schedule_by_name(name: str, *, lr_warmup: float | None = None) -> Schedule:
    """Return one of :data:`SCHEDULES`, with its default arguments; ``"constant"`` keeps the learning rates.

    Args:
        name: Of the schedule.
        lr_warmup: Share of the training over which the factor rises, in ``(0, 1)``: in the way of the schedule where it
            rises by itself, or else as :class:`WarmUp` before it. None to leave the schedule as it is.

    Raises:
        ValueError: If there is none of that name, or ``lr_warmup`` is not as above; names every fault.
    """
    faults = [] if is_name_in(name, SCHEDULES) else [f"schedule must be one of {tuple(SCHEDULES)}, got {name!r}."]
    refuse(faults + ([] if lr_warmup is None else _inner_faults(lr_warmup=lr_warmup)))
    schedule: Any = SCHEDULES[name]()
    if lr_warmup is None:
        return cast("Schedule", schedule)
    rise = _RISES.get(type(schedule))
    return WarmUp(lr_warmup, schedule) if rise is None else cast("Schedule", replace(schedule, **{rise: lr_warmup}))
