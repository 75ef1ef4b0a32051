"""Owns the measurement of a trade-off: every operating point against every attack."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from art_oat.attacks import Norm, is_correct
from art_oat.checks import Array, as_array, class_indices, count_faults, refuse
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.evaluation.cost import Cost, measure_costs
from art_oat.evaluation.evaluate import as_module, checked_points, plan, seed_faults
from art_oat.evaluation.report import RobustnessReport
from art_oat.evaluation.suite import Judge
from art_oat.frontier import Frontier, MeasuredPoint
from art_oat.model import OATModel
from art_oat.surgery import fold

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TradeoffCurve(Frontier):
    """Clean and robust accuracy, and cost, of one network at its operating points.

    Args:
        points: One per operating point.
        eps: Radius of the attacks, in units of ``x``.
        norm: Norm of the attacks.
        latency_batch_size: How many samples make up the batch that a point's ``latency`` is of.
        reports: What every attack found at every point, sample by sample; empty for a curve that was read from a file.
    """

    eps: float
    norm: Norm = "Linf"
    latency_batch_size: int = 1
    reports: tuple[RobustnessReport, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def measure(
        cls,
        classifier: OATClassifier,
        x: Array,
        y: Array,
        *,
        eps: float,
        attack: Judge | Sequence[Judge] | Mapping[str, Judge] = "autoattack",
        norm: Norm = "Linf",
        lambdas: Iterable[float] | None = None,
        widths: Iterable[float] | None = None,
        nb_robust: int | None = None,
        shard_size: int = 250,
        carries_examples: bool = True,
        state: str | Path | None = None,
        seed: int = 0,
        nb_workers: int = 1,
        latency_batch_size: int = 1,
        allow_large_eps: bool = False,
        verbose: bool = True,
    ) -> Self:
        """Measure every combination of lam and width.

        Every sample that is called robust at a point was attacked there, by every attack, on the pinned network with
        the classifier's preprocessing. The robust accuracy is the share of samples that stand all of them, and so the
        minimum over the attacks, sample by sample; each attack's own figure is kept beside it.

        A sample need not be attacked again where an adversarial example of the same attack at another point breaks
        it: these are tried first, from the largest lam down.

        What a width costs is measured first, while no attack runs: of the folded network, which is what one ships,
        on its device and with torch's number of threads.

        Args:
            classifier: What is measured; its ``clip_values`` bound the attacks.
            x: Inputs, ``(N, *input_shape)``, finite and within ``clip_values``.
            y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
            eps: Radius of the attacks, in units of ``x``.
            attack: As :func:`evaluate` takes it, or several: a list, or a mapping of names to attacks.
            norm: ``"Linf"``, ``"L2"`` or ``"L1"``.
            lambdas: Where to measure; None for the trained lams.
            widths: Where to measure; None for the trained widths.
            nb_robust: Attack a subset of this size, drawn with the class shares of ``y``; None for all. Clean
                accuracy is measured on all.
            shard_size: How many samples are attacked at once, and kept together, see :func:`evaluate`.
            carries_examples: Whether examples found at one point are tried first at the next.
            state: Folder where what is done is kept, and gone on from, see :func:`evaluate`.
            seed: What the subset and the attacks are drawn from; the same seed gives the same accuracies.
            nb_workers: How many shards to judge at once, each in a process of its own; worth it on a CPU, where
                AutoAttack on a small network leaves cores idle.
            latency_batch_size: How many samples make up the batch that is timed at each width.
            allow_large_eps: Whether ``eps`` may be half the range of ``x``, or more, see :func:`evaluate`.
            verbose: Whether to show progress.

        Raises:
            TypeError: If ``classifier`` is not an ``OATClassifier``.
            ValueError: If an argument is not as above; names every fault.
            RuntimeError: If an attack leaves its ball.
        """
        if not isinstance(classifier, OATClassifier):
            raise TypeError(f"classifier must be an OATClassifier, got {type(classifier).__name__}.")
        x, y = as_array(x), as_array(y)
        counts = {"nb_workers": nb_workers, "latency_batch_size": latency_batch_size}
        faults = [*count_faults(counts), *_subset_faults(nb_robust, len(x) if x.ndim else 0)]
        points, point_faults = _points(classifier.model, lambdas, widths)
        faults += [*classifier.data_faults(x, y), *point_faults]
        faults += seed_faults(seed)
        attacked = np.arange(0) if faults else subset(class_indices(y, classifier.nb_classes), nb_robust, seed)
        evaluation, plan_faults = plan(
            classifier,
            *((x, y) if faults else (x[attacked], y[attacked])),
            eps=eps,
            attack=attack,
            norm=norm,
            points=_order(points),
            shard_size=shard_size,
            seed=seed,
            carries_examples=carries_examples,
            index=attacked,
            allow_large_eps=allow_large_eps,
        )
        refuse(list(dict.fromkeys([*faults, *plan_faults])))
        costs = _costs(classifier, x, points, latency_batch_size)
        reports = evaluation.run(state, nb_workers=nb_workers, verbose=verbose)
        by_point = {point: [report for report in reports if report.point == point] for point in points}
        inputs, labels = classifier.as_tensors(x, y)
        measured = [
            _measured(is_correct(as_module(classifier, point), inputs, labels), found, costs[point.width])
            for point, found in by_point.items()
        ]
        ordered = tuple(itertools.chain.from_iterable(by_point.values()))
        return cls(tuple(measured), eps, norm, latency_batch_size, ordered)

    def _header(self) -> dict[str, str | float]:
        return {"eps": self.eps, "norm": self.norm, "latency_batch_size": self.latency_batch_size}

    @classmethod
    def _from_rows(cls, rows: Sequence[dict[str, str]]) -> Self:
        norm = rows[0]["norm"]
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {get_args(Norm)}, got {norm!r}.")
        points = Frontier._from_rows(rows).points
        latency_batch_size = int(rows[0].get("latency_batch_size") or 1)  # from before latency was measured: none
        return cls(points, float(rows[0]["eps"]), norm, latency_batch_size)  # type: ignore[arg-type]

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the trade-off: both accuracies against lam, and against each other, with standard errors.

        Args:
            path: Where to save the figure; the ending gives the format, PNG without one. None for nowhere.

        Returns:
            The Matplotlib figure.
        """
        from art_oat.evaluation.plots import plot_tradeoff  # Matplotlib is slow to import

        return plot_tradeoff(self, None if path is None else Path(path))


def _subset_faults(nb_robust: int | None, nb_samples: int) -> list[str]:
    if nb_robust is None:
        return []
    if faults := count_faults({"nb_robust": nb_robust}):
        return faults
    is_fitting = nb_robust <= nb_samples
    return [] if is_fitting else [f"nb_robust must be at most {nb_samples}, the number of samples, got {nb_robust}."]


def _points(
    model: OATModel, lambdas: Iterable[float] | None, widths: Iterable[float] | None
) -> tuple[list[OperatingPoint], list[str]]:
    try:
        pairs = list(
            itertools.product(model.lambdas if lambdas is None else lambdas, model.widths if widths is None else widths)
        )
    except TypeError:
        return [], [f"lambdas and widths must each be several numbers, or None, got {lambdas} and {widths}."]
    if not pairs:
        return [], ["lambdas and widths must each hold at least one number, got none."]
    return checked_points(model, pairs)


def _order(points: Sequence[OperatingPoint]) -> list[OperatingPoint | None]:
    """In which order examples are carried on: from the most robust answers down, the widest first."""
    return [*sorted(points, key=lambda point: (-point.width, -point.lam))]


def _costs(classifier: OATClassifier, x: Array, points: Sequence[OperatingPoint], batch_size: int) -> dict[float, Cost]:
    """What each width costs; lam changes numbers in the folded network, not its size."""
    widths, model = dict.fromkeys(point.width for point in points), classifier.model
    networks = {width: fold(model, OperatingPoint(points[0].lam, width)) for width in widths}
    one = torch.as_tensor(x[:1]).to(model.encoding.table)
    as_network_sees_it = classifier.preprocessed(nn.Identity())(one)
    return measure_costs(networks, as_network_sees_it.shape[1:], batch_size=batch_size)


def subset(y: NDArray[np.int64], size: int | None, seed: int) -> NDArray[np.int64]:
    """Indices of a stratified subset, ascending: every so-many-th of the samples in random order within each class."""
    if size is None:
        return np.arange(len(y))
    order = np.random.default_rng(seed).permutation(len(y))
    by_class = order[np.argsort(y[order], kind="stable")]
    positions = ((np.arange(size) + 0.5) * len(y) / size).astype(np.int64)
    indices: NDArray[np.int64] = np.sort(by_class[positions])
    return indices


def _measured(is_clean: Tensor, reports: Sequence[RobustnessReport], cost: Cost) -> MeasuredPoint:
    """Bring together what was found at one point."""
    point = reports[0].point
    assert point is not None
    is_robust = np.all([report.is_robust for report in reports], axis=0)
    return MeasuredPoint(
        point.lam,
        point.width,
        clean=float(is_clean.double().mean()),
        robust=float(is_robust.mean()),
        nb_clean=len(is_clean),
        nb_robust=len(is_robust),
        by_attack={report.attack: report.robust for report in reports},
        **asdict(cost),
        warnings=tuple(f"{report.attack}: {warning}" for report in reports for warning in report.warnings),
    )
