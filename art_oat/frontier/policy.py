"""Which operating point answers the next batch, by the measured curve and what the caller measures meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from art_oat.checks import as_array, refuse
from art_oat.condition import OperatingPoint
from art_oat.frontier.frontier import Frontier, gain
from art_oat.frontier.point import MeasuredPoint
from art_oat.frontier.requirement import fitting
from art_oat.numbers import is_finite_number, number_faults, plain, plain_fields, shown


@dataclass(frozen=True)
class AdaptivePolicy:
    """Chooses the operating point of every batch from how much of it is attacked, and how long it may take.

    Where a share ``threat`` of the samples is attacked as in the measurement of the curve, a point answers
    ``(1 - threat) clean + threat robust`` of them correctly. The policy takes the point where this is highest. So only
    the corners of the upper convex hull of the curve are ever taken, ever more robust ones as the threat rises.

    **This is no defense.** It is at best as good as a point chosen by someone who knows the share, and an attack that
    the detector does not see is answered at the point for calm. What holds against every attack is ``min_robust``.

    Args:
        curve: What was measured, such as a :class:`~art_oat.TradeoffCurve`.
        min_clean: Clean accuracy that every point taken has, in ``[0, 1]``.
        min_robust: Robust accuracy that every point taken has, in ``[0, 1]``: what is kept where the detector fails.
        mean_scores: Mean score that the detector gives to clean and to attacked samples, two different numbers,
            measured on samples of which it is known. None where scores are probabilities.

    Raises:
        TypeError: If ``curve`` is no ``Frontier``, or another argument of another kind.
        ValueError: If an argument is not as above, or no point meets both requirements.
    """

    curve: Frontier
    min_clean: float = 0.0
    min_robust: float = 0.0
    mean_scores: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.curve, Frontier):
            raise TypeError(f"curve must be a Frontier, such as a TradeoffCurve, got {shown(self.curve)}.")
        plain_fields(self)
        if self.mean_scores is not None:
            object.__setattr__(self, "mean_scores", _checked_means(self.mean_scores))
        self.point()  # refuses what no point meets

    def point(self, *, threat: float | ArrayLike = 0.0, max_latency_ms: float | None = None) -> OperatingPoint:
        """Return where to answer the next batch.

        Args:
            threat: Share of samples that are attacked, in ``[0, 1]``; or what a detector says of each of some samples,
                ``(N,)``, see :meth:`share`.
            max_latency_ms: Milliseconds that a batch of the curve's ``latency_batch_size`` may take; None for any time.

        Raises:
            ValueError: If an argument is not as above, or no point is fast enough.
        """
        return self.curve.select(
            threat=self.share(threat),
            min_clean=self.min_clean,
            min_robust=self.min_robust,
            max_latency_ms=max_latency_ms,
        )

    def share(self, threat: float | ArrayLike) -> float:
        """Estimate the share of samples that are attacked, in ``[0, 1]``.

        The mean score of samples of which a share ``p`` is attacked is ``(1 - p) clean + p attacked``, with the two
        ``mean_scores``. It is solved for ``p`` and kept in ``[0, 1]``: false alarms and misses cancel on average.
        Of few samples it is rough: for flags, its standard error is up to ``0.5 / sqrt(N) / |attacked - clean|``.

        Args:
            threat: The share itself, which is given back; or the scores ``(N,)`` of a detector, or its flags, as
                ``detect`` of ART's detectors returns them. Probabilities in ``[0, 1]``, or any numbers where the
                policy has ``mean_scores``.

        Raises:
            TypeError: If it is no number and no array of numbers.
            ValueError: If it is not as above.
        """
        number = plain(threat)
        if isinstance(number, int | float | str):
            refuse(number_faults({"threat": number}, "lie in [0, 1]", lambda share: 0 <= share <= 1))
            return float(number)
        scores = as_array(threat, "threat")
        if scores.dtype.kind not in "fiub":
            raise TypeError(f"threat must be a number or an array of numbers, got {shown(threat)}.")
        if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
            raise ValueError(f"threat must hold one finite score per sample, (N,), got {shown(threat)}.")
        if self.mean_scores is None and not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError(
                f"threat must hold probabilities in [0, 1], got {shown(threat)}. "
                "For other scores give the policy mean_scores, their means over clean and over attacked samples."
            )
        clean, attacked = self.mean_scores or (0.0, 1.0)
        return float(np.clip((scores.mean(dtype=np.float64) - clean) / (attacked - clean), 0, 1))

    def steps(self, *, max_latency_ms: float | None = None) -> tuple[tuple[float, OperatingPoint], ...]:
        """Return from which threat on which point is taken: the corners of the upper convex hull, ascending from 0.

        Two corners are equally good at ``(c - c') / ((c - c') + (r' - r))``, with their clean and robust accuracies.

        Args:
            max_latency_ms: As :meth:`point` takes it.

        Raises:
            ValueError: As :meth:`point` does.
        """
        bounds = {"min_clean": self.min_clean, "min_robust": self.min_robust, "max_latency_ms": max_latency_ms}
        points = fitting(self.curve.points, bounds)
        last = max(points, key=lambda point: gain(point, threat=0))
        found = [(0.0, last.operating_point)]
        while more_robust := [point for point in points if point.robust > last.robust]:
            threat, last = _next(last, more_robust)
            found.append((threat, last.operating_point))
        return tuple(found)


def _next(last: MeasuredPoint, more_robust: Sequence[MeasuredPoint]) -> tuple[float, MeasuredPoint]:
    """Return which point is the first to be better as the threat rises, and from where on; of several the last."""

    def balance(point: MeasuredPoint) -> float:
        loss = last.clean - point.clean
        return loss / (loss + point.robust - last.robust)

    found = min(more_robust, key=lambda point: (balance(point), -point.robust, point.width))
    return balance(found), found


def _checked_means(means: Sequence[float]) -> tuple[float, float]:
    is_pair = isinstance(means, Sequence) and len(means) == 2  # noqa: PLR2004 - clean and attacked
    if not is_pair or not all(map(is_finite_number, means)) or plain(means[0]) == plain(means[1]):
        raise ValueError(f"mean_scores must be two different numbers, clean and attacked, got {shown(means)}.")
    return plain(means[0]), plain(means[1])
