"""Whether a network is as sure as it is right: the expected calibration error at every operating point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from art_oat.checks import Array, as_array, class_indices, refuse
from art_oat.classifier import OATClassifier
from art_oat.evaluation.evaluate import checked_points
from art_oat.evaluation.options import DEFAULTS, EvaluationOptions, options_faults
from art_oat.numbers import count_faults, plain
from art_oat.storage import write_rows
from art_oat.table import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNUSED = ("state", "nb_workers", "uses_group", "carries_examples", "nb_robust", "latency_batch_size")
_NB_RESAMPLES = 1000
NB_BINS = 15


@dataclass(frozen=True, eq=False)
class PointCalibration:
    """How sure a network is at one operating point, and whether it is right.

    Attributes:
        lam: Of the point.
        width: Likewise.
        confidence: The largest probability of each answer, in ``(0, 1]``, ``[N]``.
        is_right: Whether it is right, bool ``[N]``.
        nb_bins: Into how many bins of equal width confidences fall.
    """

    lam: float
    width: float
    confidence: NDArray[np.float64]
    is_right: NDArray[np.bool_]
    nb_bins: int = NB_BINS

    @property
    def accuracy(self) -> float:
        """Share of answers that are right."""
        return float(self.is_right.mean())

    @property
    def overconfidence(self) -> float:
        """Mean confidence minus accuracy: above 0 where the network is surer than it should be."""
        return float(self.confidence.mean() - self.accuracy)

    @property
    def error(self) -> float:
        """The expected calibration error, a fraction: ``sum_b n_b / N |accuracy_b - confidence_b|`` over the bins."""
        return float(self._errors(np.ones((1, len(self.confidence))))[0])

    @property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of ``error`` over samples (1,000 draws, seed 0).

        Noise within bins adds to an error, and drawing anew adds it once more: where errors are near 0, the interval
        lies above them.
        """
        generator, nb_samples = np.random.default_rng(0), len(self.confidence)
        counts = generator.multinomial(nb_samples, np.full(nb_samples, 1 / nb_samples), size=_NB_RESAMPLES)
        low, high = np.percentile(self._errors(counts), (2.5, 97.5))
        return float(low), float(high)

    def _errors(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Return the error where each sample counts so many times, ``[R, N]``, for each row."""
        bins = np.eye(self.nb_bins)[self._bins]
        excess: NDArray[np.float64] = counts * (self.is_right - self.confidence) @ bins
        errors: NDArray[np.float64] = np.abs(excess).sum(axis=1) / len(self.confidence)
        return errors

    @property
    def _bins(self) -> NDArray[np.int64]:
        """The bin of each sample: ``b`` for confidences in ``(b / B, (b + 1) / B]``."""
        index: NDArray[np.int64] = np.ceil(self.confidence * self.nb_bins).astype(np.int64) - 1
        return index.clip(0, self.nb_bins - 1)

    def reliability(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Return mean confidence, accuracy and count of every bin, ``[B]`` each; NaN where a bin is empty."""
        counts = np.bincount(self._bins, minlength=self.nb_bins)
        sums = (np.bincount(self._bins, it, self.nb_bins) for it in (self.confidence, self.is_right))
        confidence, accuracy = (np.where(counts > 0, it / np.maximum(counts, 1), np.nan) for it in sums)
        return confidence, accuracy, counts


@dataclass(frozen=True, eq=False)
class Calibration(Tabular):
    """The expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 5) at every operating point.

    Confidences are the largest softmax probabilities on inputs as they are, without temperature scaling.

    Attributes:
        points: What was found, by width and lam, ascending.
    """

    points: tuple[PointCalibration, ...]

    @classmethod
    def measure(
        cls,
        classifier: OATClassifier,
        x: Array,
        y: Array,
        *,
        lambdas: Iterable[float] | None = None,
        widths: Iterable[float] | None = None,
        nb_bins: int = NB_BINS,
        options: EvaluationOptions = DEFAULTS,
    ) -> Self:
        """Compare confidence with accuracy at every operating point.

        Args:
            classifier: What is measured; its predictions are scores before the softmax.
            x: Inputs, ``(N, *input_shape)``, finite and within ``clip_values``.
            y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
            lambdas: Where to measure; None for the trained lams.
            widths: Where to measure; None for the trained widths.
            nb_bins: Bins of equal width, at least 1.
            options: ``shard_size`` is how many samples are predicted at once.

        Raises:
            TypeError: If ``classifier`` is not an ``OATClassifier``.
            ValueError: If an argument is not as above; names every fault.
        """
        x, y = as_array(x, "x"), as_array(y, "y")
        if not isinstance(classifier, OATClassifier):
            raise TypeError(f"classifier must be an OATClassifier, got {type(classifier).__name__}.")
        points, faults = checked_points(classifier.model, lambdas, widths)
        faults = [*classifier.data_faults(x, y), *options_faults(options, unused=_UNUSED), *faults]
        refuse([*faults, *count_faults({"nb_bins": nb_bins})])
        labels, found = class_indices(y, classifier.nb_classes), []
        for lam, width in sorted(points, key=lambda point: (point.width, point.lam)):
            scores = classifier.predict(x, options.shard_size, lam=lam, width=width)
            probabilities = softmax(scores.astype(np.float64), axis=1)
            is_right = scores.argmax(axis=1) == labels
            found.append(PointCalibration(lam, width, probabilities.max(axis=1), is_right, plain(nb_bins)))
        return cls(tuple(found))

    def as_table(self) -> Table:
        """Return accuracies, confidences and errors, in percent."""
        points = self.points
        columns = {name: [f"{getattr(point, name):g}" for point in points] for name in ("lam", "width")}
        columns["accuracy"] = [f"{100 * point.accuracy:.1f}" for point in points]
        columns["confidence minus accuracy"] = [f"{100 * point.overconfidence:+.1f}" for point in points]
        columns["calibration error"] = [f"{100 * point.error:.1f}" for point in points]
        columns["95% interval"] = ["[{:.1f}, {:.1f}]".format(*(100 * it for it in point.interval)) for point in points]
        nb_samples, nb_bins = len(points[0].confidence), points[0].nb_bins
        return Table(columns, f"Expected calibration error in percent, {nb_bins} bins, on {nb_samples} samples")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row per point, fractions."""
        for point in self.points:
            low, high = point.interval
            row = {name: getattr(point, name) for name in ("lam", "width", "accuracy", "overconfidence", "error")}
            sizes = {"nb_bins": point.nb_bins, "nb_samples": len(point.confidence)}
            yield {**row, "error_low": low, "error_high": high, **sizes}

    def to_csv(self, path: str | Path) -> None:
        """Write :meth:`rows`; folders on the way are made."""
        write_rows(Path(path), self.rows())

    def plot(self, path: str | Path | None = None, *, subject: str = "One network") -> Figure:
        """Draw accuracy against confidence, a panel for every point; on the diagonal a network is calibrated.

        Args:
            path: Where to save the figure; the ending gives the format, PNG without one. None for nowhere.
            subject: What the title says of the network and its data.
        """
        from art_oat.evaluation.calibration_plots import plot_reliability  # Matplotlib is slow to import

        names = [f"lam {point.lam:g}, width {point.width:g}" for point in self.points]
        panels = {name: point.reliability() for name, point in zip(names, self.points, strict=True)}
        errors = {name: point.error for name, point in zip(names, self.points, strict=True)}
        return plot_reliability(panels, errors, title=subject, path=None if path is None else Path(path))
