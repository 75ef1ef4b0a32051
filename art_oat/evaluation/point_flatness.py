"""The flatness of one network: losses at displaced weights, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import nn

from art_oat.condition import OperatingPoint
from art_oat.evaluation.displacement import Displacements, RobustLoss, average_losses, landscape, worst_losses


@dataclass(frozen=True, eq=False)
class PointFlatness:
    """The robust loss around the weights at one operating point, in nats, a mean over the samples each.

    Attributes:
        lam: Of the point.
        width: Likewise.
        loss: At the weights themselves.
        average_losses: At random displacements, ``[D]``.
        worst_losses: The largest that each search found, ``[R]``.
        landscape: At each distance along each direction, ``[D, S]``.
    """

    lam: float
    width: float
    loss: float
    average_losses: NDArray[np.float64]
    worst_losses: NDArray[np.float64]
    landscape: NDArray[np.float64]

    @property
    def average(self) -> float:
        """Average-case flatness: how much the loss rises at random displacements; the less, the flatter."""
        return float(np.mean(self.average_losses - self.loss))

    @property
    def average_interval(self) -> tuple[float, float]:
        """95% t interval of ``average`` over the directions; samples are taken as given."""
        margin = t_margin(self.average_losses)
        return self.average - margin, self.average + margin

    @property
    def worst(self) -> float:
        """Worst-case flatness: how much the loss rises at the worst displacement found; a lower bound."""
        return float(self.worst_losses.max() - self.loss)

    @property
    def worst_of_least_search(self) -> float:
        """The same of the search that found least: where it is much less than ``worst``, steps are too few."""
        return float(self.worst_losses.min() - self.loss)


def t_margin(values: NDArray[np.float64]) -> float:
    """Return half of the width of the 95% t interval of a mean of independent values, ``[n]`` with ``n >= 2``."""
    error = float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return float(student.ppf(0.975, len(values) - 1)) * float(error)


def flatness_at(
    loss: RobustLoss, weights: Sequence[nn.Parameter], point: OperatingPoint, moves: Displacements, seed: int
) -> PointFlatness:
    """Move the weights of one plain network; afterwards they are what they were.

    Args:
        loss: That of the network.
        weights: What is moved; it has a gradient.
        point: What is written on the result.
        moves: How far, and how often.
        seed: What displacements and directions are drawn from.
    """
    average, worst, along = (it(loss, weights, moves, seed) for it in (average_losses, worst_losses, landscape))
    return PointFlatness(point.lam, point.width, loss(), average, worst, along)
