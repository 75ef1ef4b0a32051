"""Records: what a training did, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from art_oat.frontier import Frontier, MeasuredPoint
from art_oat.storage import write_rows
from art_oat.table import Table, Tabular


@dataclass
class EpochMetrics:
    """Sums over the steps of an epoch, in training mode; their means are what is shown and recorded."""

    loss_sum: float = 0.0
    nb_samples: int = 0
    nb_correct: int = 0
    nb_attacked: int = 0
    nb_robust: int = 0

    def add(self, loss: float, nb_samples: int, nb_correct: int, nb_attacked: int, nb_robust: int) -> None:
        """Count one batch, by its mean loss and its :meth:`counts`."""
        self.loss_sum += loss * nb_samples
        self.nb_samples += nb_samples
        self.nb_correct += nb_correct
        self.nb_attacked += nb_attacked
        self.nb_robust += nb_robust

    @staticmethod
    def counts(is_correct: Tensor, is_robust: Tensor) -> tuple[int, int, int, int]:
        """Return the counts of samples ``[N]``, and of those that were attacked ``[A]``."""
        return len(is_correct), int(is_correct.sum()), len(is_robust), int(is_robust.sum())

    @property
    def loss(self) -> float:
        """Mean loss, in nats."""
        return self.loss_sum / max(self.nb_samples, 1)

    @property
    def clean(self) -> float:
        """Share of all samples answered right."""
        return self.nb_correct / max(self.nb_samples, 1)

    @property
    def robust(self) -> float:
        """Share of attacked samples answered right; NaN where there is none."""
        return self.nb_robust / self.nb_attacked if self.nb_attacked else math.nan

    def shown(self) -> dict[str, str]:
        """Return the figures for a progress bar."""
        return {name: f"{getattr(self, name):.3f}" for name in ("loss", "clean", "robust")}


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training did.

    Attributes:
        epoch: Counts from 1 over all calls of ``fit``; the run that follows one that was undone has its number.
        seconds: Time spent training, and attacking held-out samples for the sake of the ``fallback``.
        validation_seconds: Time spent measuring.
        learning_rate: Of the optimizer's first group, after the epoch's scheduler step, as steps are taken with it.
        loss: Mean of the objective over the samples, and over the widths they were trained at, in nats; like the next
            two at the perturbed weights where weights are perturbed.
        clean: Accuracy on the training batches in training mode, a fraction.
        robust: The same on the attacked samples; NaN where none was.
        holdout_robust: Accuracy on held-out samples under the ``fallback``, with the weights as trained, not averaged,
            where the network does worst; NaN where there is no fallback, or it is what trains by now.
        validation: Clean and robust accuracy at every trained lam and width; empty where none was measured.
        area: Under the trade-off of ``validation``, from the corner (1 / K, 0) that guessing
            reaches, averaged over the widths; NaN where none was measured. Where lam 0 alone is trained, robust
            accuracies count as 1.
        is_best: Whether ``area`` is the largest since ``fit`` was called.
        is_undone: Whether robustness collapsed in this epoch, so that it was undone and run again by the ``fallback``;
            or training diverged. No callback is told of such an epoch.
        is_diverged: Whether training diverged in this epoch, so that it was undone and run again at half the learning
            rate; its ``loss`` is NaN then.
    """

    epoch: int
    seconds: float
    validation_seconds: float
    learning_rate: float
    loss: float
    clean: float
    robust: float
    holdout_robust: float = math.nan
    validation: tuple[MeasuredPoint, ...] = ()
    area: float = math.nan
    is_best: bool = False
    is_undone: bool = False
    is_diverged: bool = False

    def row(self) -> dict[str, float]:
        """Return the record as flat columns.

        ``val_clean@0.1`` is the clean validation accuracy at lam 0.1, ``val_clean@0.1x0.5`` that at width 0.5.
        """
        columns = {name: value for name, value in vars(self).items() if name != "validation"}
        columns |= {name: int(columns[name]) for name in ("is_best", "is_undone", "is_diverged")}
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


class TrainingHistory(list[EpochRecord], Tabular):
    """One record per epoch, and the table of them."""

    __str__ = Tabular.__str__

    def rows(self) -> list[dict[str, float]]:
        """Return the records as flat columns, see :meth:`EpochRecord.row`."""
        return [record.row() for record in self]

    def as_table(self) -> Table:
        """Return an epoch a row, accuracies in percent; columns without a figure are left out."""
        columns = {
            "epoch": [f"{it.epoch} (undone)" if it.is_undone else str(it.epoch) for it in self],
            "seconds": [f"{it.seconds:.1f}" for it in self],
            "learning rate": [f"{it.learning_rate:.3g}" for it in self],
            "loss": [_written(it.loss, "{:.4f}") for it in self],
        }
        for name in ("clean", "robust", "holdout_robust"):
            columns[name.replace("_", " ")] = [_written(100 * getattr(it, name), "{:.1f}") for it in self]
        columns["area"] = [_written(it.area, "{:.4f}") + " (best)" * it.is_best for it in self]
        return Table({name: cells for name, cells in columns.items() if any(cells) or not self})

    def to_csv(self, path: str | Path) -> None:
        """Write a row per epoch."""
        write_rows(Path(path), self.rows())


def _written(value: float, form: str) -> str:
    return "" if math.isnan(value) else form.format(value)


def mean_area(points: Sequence[MeasuredPoint], nb_classes: int) -> float:
    """Mean over widths of the area under the trade-off, from the corner that guessing reaches; NaN without points.

    Of a network that was trained for lam 0 alone, no robustness is wanted: the clean accuracy alone counts.
    """
    if points and {point.lam for point in points} == {0.0}:
        points = [replace(point, robust=1.0) for point in points]
    widths = dict.fromkeys(point.width for point in points)
    areas = [Frontier(tuple(p for p in points if p.width == width)).area((1 / nb_classes, 0.0)) for width in widths]
    return sum(areas) / len(areas) if areas else math.nan
