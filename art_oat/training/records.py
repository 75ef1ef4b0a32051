"""Owns the record of a training, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from art_oat.frontier import MeasuredPoint
from art_oat.storage import write_rows


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training did.

    Attributes:
        epoch: Counts from 1 over all calls of ``fit``; the run that follows one that was undone has its number.
        seconds: Time spent training, and attacking held-out samples for the sake of the ``fallback``.
        validation_seconds: Time spent measuring.
        learning_rate: Of the optimizer's first group, after the epoch's scheduler step.
        loss: Mean of the objective over the samples, and over the widths they were trained at, in nats; like the next
            two at the perturbed weights where weights are perturbed.
        clean: Accuracy on the training batches in training mode, a fraction.
        robust: The same on the attacked samples; NaN where none was.
        standing: Share of some held-out samples that stand after the trainer's ``fallback``, with the weights as
            trained, not averaged, where they do worst; NaN where there is no such attack, or it is what trains by now.
        validation: Clean and robust accuracy at every trained lam and width; empty where none was measured.
        area: Under the trade-off of ``validation``, from the corner (1 / K, 0) that guessing
            reaches, averaged over the widths; NaN where none was measured.
        is_best: Whether ``area`` is the largest since ``fit`` was called.
        is_undone: Whether robustness collapsed in this epoch, so that it was undone and run again by the ``fallback``.
            No callback is told of such an epoch.
    """

    epoch: int
    seconds: float
    validation_seconds: float
    learning_rate: float
    loss: float
    clean: float
    robust: float
    standing: float = math.nan
    validation: tuple[MeasuredPoint, ...] = ()
    area: float = math.nan
    is_best: bool = False
    is_undone: bool = False

    def row(self) -> dict[str, float]:
        """Return the record as flat columns.

        ``val_clean@0.1`` is the clean validation accuracy at lam 0.1, ``val_clean@0.1x0.5`` that at width 0.5.
        """
        columns = {name: value for name, value in vars(self).items() if name != "validation"}
        columns |= {"is_best": int(self.is_best), "is_undone": int(self.is_undone)}
        for point in self.validation:
            where = f"{point.lam:g}" if point.width == 1 else f"{point.lam:g}x{point.width:g}"
            columns[f"val_clean@{where}"] = point.clean
            columns[f"val_robust@{where}"] = point.robust
        return columns

    def state_dict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the record of which this is the :meth:`state_dict`."""
        points = tuple(MeasuredPoint(**point) for point in state["validation"])
        return cls(**{**state, "validation": points})


def write_history(history: Sequence[EpochRecord], path: Path) -> None:
    """Write all epochs as CSV; a reader never sees half a file."""
    write_rows(path, [record.row() for record in history])
