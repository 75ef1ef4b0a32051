"""Stepping learning rates: any scheduler with ``step()``, and schedules by torch's LambdaLR."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from art_oat.numbers import is_finite_number
from art_oat.training.schedule import Schedule


class Scheduler(Protocol):
    """Anything with ``step()``, such as every scheduler of torch."""

    def step(self) -> Any:
        """Advance the schedule by one epoch, or one step."""
        ...


@dataclass(frozen=True)
class PerStep:
    """A scheduler whose ``step()`` is called after every step of the training, rather than every epoch."""

    scheduler: Scheduler


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
    """Advances a scheduler, if there is one, once per ``"epoch"`` or once per ``"step"``."""

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
def scaled_rates(optimizer: Optimizer, factor: float) -> Iterator[None]:
    """Within the block, let the learning rates be a factor of what they are; no scheduler ever sees that."""
    if factor == 1:
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


@contextmanager
def scheduled(
    optimizer: Optimizer, scheduler: Scheduler | Schedule | None, interval: str, nb_steps: int | None
) -> Iterator[LRStepper]:
    """Give what advances a scheduler; the learning rates that a schedule changed come back after the block.

    Step ``i`` of ``nb_steps`` is taken at the rate that the optimizer had before, times ``schedule(i / nb_steps)``.
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
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
            group["initial_lr"] = initial
            if initial is None:
                del group["initial_lr"]
