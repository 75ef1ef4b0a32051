"""Learning rates: schedules as functions of progress, and what steps them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from art_oat.checks import refuse
from art_oat.condition import is_finite_number

ScheduleName = Literal["one-cycle", "cosine", "piecewise", "slow-start", "constant"]
Schedule = Callable[[float], float]
"""Maps the share of the training that lies behind, in ``[0, 1]``, to a factor on the learning rates, at least 0."""


class Scheduler(Protocol):
    """Anything with ``step()``, such as every scheduler of torch."""

    def step(self) -> Any:
        """Advance the schedule by one epoch, or one step."""
        ...


@dataclass(frozen=True)
class PerStep:
    """A scheduler whose ``step()`` is called after every step of the training, rather than every epoch."""

    scheduler: Scheduler


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
        faults = _share_faults({"start": self.start, "end": self.end})
        if not (is_finite_number(self.peak_at) and 0 < self.peak_at < 1):
            faults.append(f"peak_at must be a number in (0, 1), got {self.peak_at!r}.")
        refuse(faults)

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

    Example:
        >>> schedule = WarmupCosine(0.1)
        >>> [round(schedule(progress), 4) for progress in (0, 0.1, 0.55, 1)]
        [0.01, 1.0, 0.5, 0.0]
    """

    warmup: float = 0.05
    start: float = 0.01
    end: float = 0.0

    def __post_init__(self) -> None:
        faults = _share_faults({"start": self.start, "end": self.end})
        if not (is_finite_number(self.warmup) and 0 <= self.warmup < 1):
            faults.append(f"warmup must be a number in [0, 1), got {self.warmup!r}.")
        refuse(faults)

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

    Example:
        >>> schedule = Piecewise()
        >>> [schedule(progress) for progress in (0, 0.5, 0.75)]
        [1.0, 0.1, 0.01]
    """

    factors: Mapping[float, float] = field(default_factory=lambda: {0.5: 0.1, 0.75: 0.01})

    def __post_init__(self) -> None:
        faulty = {
            point: factor
            for point, factor in self.factors.items()
            if _share_faults({"": point}) or not is_finite_number(factor) or factor < 0
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
    adversarial fine-tuning (Jeddi et al. 2020, arXiv:2012.13628): the rate stays low while a natural network meets
    attacks for the first time, and is low again before it overfits to them. The paper's exact formula was not at hand;
    this is the form chosen: in ten epochs, a rise in equal steps over five, then a halving with each of the others.

    Args:
        peak_at: Progress at which the factor is 1, in ``(0, 1)``.
        start: First factor, in ``[0, 1]``. At 0 the first step would change nothing.
        end: Last factor, in ``(0, 1]``.

    Raises:
        ValueError: If an argument is not as above; names every fault.

    Example:
        >>> schedule = SlowStart()
        >>> [round(schedule(progress), 4) for progress in (0, 0.25, 0.5, 0.6, 1)]
        [0.01, 0.505, 1.0, 0.5, 0.0312]
    """

    peak_at: float = 0.5
    start: float = 0.01
    end: float = 1 / 32

    def __post_init__(self) -> None:
        faults = _share_faults({"start": self.start})
        if not (is_finite_number(self.end) and 0 < self.end <= 1):
            faults.append(f"end must be a number in (0, 1], got {self.end!r}.")
        if not (is_finite_number(self.peak_at) and 0 < self.peak_at < 1):
            faults.append(f"peak_at must be a number in (0, 1), got {self.peak_at!r}.")
        refuse(faults)

    def __call__(self, progress: float) -> float:
        """Return the factor at a progress in ``[0, 1]``."""
        if progress < self.peak_at:
            return self.start + (1 - self.start) * progress / self.peak_at
        return float(self.end ** ((progress - self.peak_at) / (1 - self.peak_at)))


def _eased(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _share_faults(shares: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} must be a number in [0, 1], got {share!r}."
        for name, share in shares.items()
        if not (is_finite_number(share) and 0 <= share <= 1)
    ]


_BY_NAME: dict[str, Callable[[], Schedule]] = {
    "one-cycle": OneCycle,
    "cosine": WarmupCosine,
    "piecewise": Piecewise,
    "slow-start": SlowStart,
    "constant": lambda: Piecewise({}),
}


def schedule_by_name(name: ScheduleName) -> Schedule:
    """Return a schedule with its default arguments.

    Args:
        name: ``"one-cycle"``, ``"cosine"``, ``"piecewise"``, ``"slow-start"`` or ``"constant"``.

    Raises:
        ValueError: If the name is none of these.
    """
    if name not in _BY_NAME:
        raise ValueError(f"schedule must be one of {tuple(_BY_NAME)}, got {name!r}.")
    return _BY_NAME[name]()


def is_schedule(scheduler: Any) -> bool:
    """Whether this is a function of progress, rather than something to be stepped."""
    return callable(scheduler) and not hasattr(scheduler, "step")


def in_two_parts(scheduler: Scheduler | Schedule | None, share: float) -> Scheduler | Schedule | None:
    """Let a function of progress go through once in the first ``share`` of a training, and once in the rest.

    What is stepped stays as it is, and so does all where one of the parts is empty.
    """
    if scheduler is None or not is_schedule(scheduler) or not 0 < share < 1:
        return scheduler
    schedule = cast("Schedule", scheduler)
    return lambda progress: schedule(progress / share if progress < share else (progress - share) / (1 - share))


def scheduler_faults(scheduler: Any, interval: str) -> list[str]:
    """Say why something can be neither stepped nor called with the progress."""
    if isinstance(scheduler, ReduceLROnPlateau):
        is_fitting = scheduler.mode == "min" and interval == "epoch"
        wanted = "scheduler must have mode 'min' and be stepped per epoch: a ReduceLROnPlateau sees the training loss."
        return [] if is_fitting else [wanted]
    if scheduler is None or _has_plain_step(scheduler):
        return []
    if not is_schedule(scheduler):
        kind = type(scheduler).__name__
        return [
            f"scheduler must have step() without arguments, got {kind}. Or give a function of progress, as OneCycle is."
        ]
    try:
        factors = [scheduler(progress) for progress in (0.0, 0.5, 1.0)]
    except Exception as error:  # noqa: BLE001 - whatever a user's function may raise
        return [f"scheduler must map any progress in [0, 1] to a factor, but it raised {error!r}."]
    if all(is_finite_number(factor) and factor >= 0 for factor in factors):
        return []
    return [f"scheduler must map progress to a number of at least 0, got {factors} at 0, 0.5 and 1."]


def _has_plain_step(scheduler: Any) -> bool:
    """Whether ``step()`` can be called without arguments."""
    step = getattr(scheduler, "step", None)
    if not callable(step):
        return False
    parameters = inspect.signature(step).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(parameter.default is not parameter.empty or parameter.kind in variadic for parameter in parameters)


class LRStepper:
    """Advances a scheduler once per epoch or once per step.

    Args:
        scheduler: Has ``step()``; None for constant learning rates.
        interval: ``"epoch"`` or ``"step"``.
    """

    def __init__(self, scheduler: Any, interval: str) -> None:
        self.scheduler = scheduler
        self.interval = interval

    def end_step(self) -> None:
        """Advance what goes by steps."""
        if self.scheduler is not None and self.interval == "step":
            self.scheduler.step()

    def end_epoch(self, loss: float) -> None:
        """Advance what goes by epochs, given the epoch's mean training loss."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(loss)
        elif self.scheduler is not None and self.interval == "epoch":
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule is; empty where there is none."""
        return {} if self.scheduler is None else dict(self.scheduler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from where :meth:`state_dict` was; the optimizer has its learning rates back already."""
        if self.scheduler is not None:
            self.scheduler.load_state_dict(dict(state))


@contextmanager
def scheduled(
    optimizer: Optimizer, scheduler: Scheduler | Schedule | None, interval: str, nb_steps: int | None
) -> Iterator[LRStepper]:
    """Give what advances a checked scheduler; the learning rates that a schedule changed come back after the block.

    Args:
        optimizer: Has the learning rates.
        scheduler: Is stepped; or a function of progress, which step ``i`` of ``n`` gets ``i / n`` of.
        interval: ``"epoch"`` or ``"step"``; a function of progress always goes by steps.
        nb_steps: Of the whole training; not needed for what is stepped.
    """
    if nb_steps is None or not is_schedule(scheduler):
        yield LRStepper(scheduler, interval)
        return
    schedule = cast("Schedule", scheduler)
    kept = [group.get("initial_lr") for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["initial_lr"] = float(group["lr"])  # LambdaLR would start from what an earlier scheduler left there
    factors = LambdaLR(optimizer, lambda step: schedule(min(step / nb_steps, 1.0)))
    try:
        yield LRStepper(factors, "step")
    finally:
        for group, rate, initial in zip(optimizer.param_groups, factors.base_lrs, kept, strict=True):
            _restore(group, float(rate), initial)


def _restore(group: dict[str, Any], rate: float, initial: Any) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
    group["initial_lr"] = initial
    if initial is None:
        del group["initial_lr"]
