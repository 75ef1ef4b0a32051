"""The trade-off of one network: every operating point against every attack, and what it costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from art_oat.attacks import Norm, display_name, format_eps, is_correct
from art_oat.checks import Array, as_array, class_indices, refuse
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.evaluation.cost import Cost, measure_costs
from art_oat.evaluation.evaluate import checked_points
from art_oat.evaluation.options import DEFAULTS, EvaluationOptions, ThreatModel, options_faults
from art_oat.evaluation.report import RobustnessReport
from art_oat.evaluation.runner import Evaluation, as_module
from art_oat.evaluation.suite import Attacks, AttackSuite, suites_of
from art_oat.evaluation.text import accuracy_columns, deciding_attack, latency_columns, width_labels
from art_oat.frontier import Frontier, MeasuredPoint
from art_oat.group import Group
from art_oat.surgery import fold
from art_oat.table import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BATCH_SIZE = 250
_BARS = "bars: one standard error"


@dataclass(frozen=True)
class TradeoffCurve(Frontier, Tabular):
    """Clean and robust accuracy, and cost, of one network at its operating points.

    Every sample that is called robust at a point was attacked there, by every attack, on the pinned network behind the
    classifier's preprocessing. The robust accuracy is the share of samples that no attack broke; each attack's own
    share is kept beside it. Costs are those of the folded network, which is what one ships.

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
        eps: float | ThreatModel,
        attack: Attacks = "autoattack",
        lambdas: Iterable[float] | None = None,
        widths: Iterable[float] | None = None,
        options: EvaluationOptions = DEFAULTS,
    ) -> Self:
        """Measure every combination of lam and width.

        Args:
            classifier: What is measured; its ``clip_values`` bound the attacks.
            x: Inputs, ``(N, *input_shape)``, finite and within ``clip_values``; uint8 is as in :mod:`art_oat.levels`.
            y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
            eps: Radius in Linf, in units of ``x``; or a :class:`~art_oat.evaluation.ThreatModel`, for another norm.
            attack: As :func:`evaluate` takes it, or several: a list, or a mapping of names to attacks.
            lambdas: Where to measure; None for the trained lams.
            widths: Where to measure; None for the trained widths.
            options: How the evaluation runs, and on how many samples; the same seed gives the same accuracies.

        Raises:
            TypeError: If ``classifier`` is not an ``OATClassifier``.
            ValueError: If an argument is not as above; names every fault.
            RuntimeError: If an attack leaves its ball.
        """
        x, y, threat = as_array(x, "x"), as_array(y, "y"), ThreatModel.of(eps)
        points, suites = checked(classifier, (x, y), threat, attack, (lambdas, widths), options)
        costs = options.group().first(lambda: _costs(classifier, x, points, options))  # before attacks slow the machine
        index = subset(class_indices(y, classifier.nb_classes), options.nb_robust, options.seed)
        attacked = (x, y) if options.nb_robust is None else (x[index], y[index])
        found = Evaluation(classifier, *attacked, carrying_order(points), suites, threat, options, index).run()
        reports = [[report for report in found if report.point == point] for point in points]
        shares = _clean_shares(classifier, x, y, points, options.group())
        measured = (_measured(own, len(x), costs, clean) for own, clean in zip(reports, shares, strict=True))
        flat = tuple(itertools.chain.from_iterable(reports))
        return cls(tuple(measured), threat.eps, threat.norm, options.latency_batch_size, flat)

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

    def _of(self, points: Iterable[MeasuredPoint]) -> Self:
        kept = tuple(points)
        own = {point.operating_point for point in kept}
        return replace(self, points=kept, reports=tuple(report for report in self.reports if report.point in own))

    def table(self) -> str:
        """Return the accuracies as text, a row per point; where widths differ, also what they cost."""
        return str(replace(self.as_table(), title=""))

    def as_table(self) -> Table:
        """Return the accuracies with a title that says by what they were measured."""
        nb_broken = sum(int((report.is_clean & ~report.is_robust).sum()) for report in self.reports)
        nb_carried = sum(report.nb_carried for report in self.reports)
        saved = f"{nb_carried} of {nb_broken} broken answers needed no attack"
        notes = [f"{saved}: an example from another point breaks them."] if nb_carried else []
        columns = accuracy_columns(self.points) | latency_columns(self.points, self.latency_batch_size)
        return Table(columns, f"Accuracy in percent, {self._threat()}", notes)

    def plot(self, path: str | Path | None = None, *, subject: str = "One network") -> Figure:
        """Draw the trade-off: both accuracies against lam, and against each other, with standard errors.

        Several widths get a column each.

        Args:
            path: Where to save the figure; the ending gives the format, such as ``.svg`` or ``.pdf``, PNG without one.
                None for nowhere.
            subject: What the title says of the network and its data, such as ``"ResNet-20 on CIFAR-10"``.
        """
        from art_oat.evaluation.plots import Line, plot_tradeoff  # Matplotlib is slow to import

        widest_first = sorted(self.points, key=lambda point: (-point.width, point.lam))
        groups = [list(group) for _, group in itertools.groupby(widest_first, key=lambda point: point.width)]
        names = ("lam", "clean", "clean_error", "robust", "robust_error")
        labels = width_labels([group[0] for group in groups], self.latency_batch_size)
        lines = [
            Line(label, *([getattr(point, name) for point in group] for name in names))
            for label, group in zip(labels, groups, strict=True)
        ]
        others = {display_name(it): [point.by_attack[it] for point in groups[0]] for it in self.points[0].by_attack}
        others = {name: shares for name, shares in others.items() if shares != lines[0].robust}
        deciding, path = deciding_attack(self.points), None if path is None else Path(path)
        return plot_tradeoff(lines, title=self._title(subject), attack=deciding, others=others, path=path)

    def _title(self, subject: str) -> str:
        widths, point = {point.width for point in self.points}, self.points[0]
        network = subject if len(widths) > 1 or widths == {1.0} else f"{subject} at width {min(widths):g}"
        return f"{network}. {self._threat()} on {point.nb_robust} images, clean on {point.nb_clean}; {_BARS}"

    def _threat(self) -> str:
        attacks = " and ".join(display_name(name) for name in self.points[0].by_attack)
        return f"{attacks} at eps {format_eps(self.eps)} ({self.norm})"


def checked(
    classifier: Any,
    data: tuple[Array, Array],
    threat: ThreatModel,
    attack: Attacks,
    dials: tuple[Iterable[float] | None, Iterable[float] | None],
    options: EvaluationOptions,
) -> tuple[list[OperatingPoint], list[AttackSuite]]:
    """Return where and by what to attack; see :meth:`TradeoffCurve.measure`."""
    if not isinstance(classifier, OATClassifier):
        raise TypeError(f"classifier must be an OATClassifier, got {type(classifier).__name__}.")
    points, point_faults = checked_points(classifier.model, *dials)
    suites, attack_faults = suites_of(attack, classifier, **asdict(threat))
    faults = [*classifier.data_faults(*data), *options_faults(options), *_subset_faults(options, data[0])]
    refuse([*faults, *point_faults, *attack_faults])
    return points, suites


def _subset_faults(options: EvaluationOptions, x: Array) -> list[str]:
    nb_samples, size = (len(x) if x.ndim else 0), options.nb_robust
    is_fitting = not isinstance(size, int) or size <= nb_samples
    return [] if is_fitting else [f"nb_robust must be at most {nb_samples}, the number of samples, got {size}."]


def carrying_order(points: Sequence[OperatingPoint]) -> list[OperatingPoint | None]:
    """In which order examples are carried from point to point: from the most robust answers down, the widest first."""
    return [*sorted(points, key=lambda point: (-point.width, -point.lam))]


def _costs(
    classifier: OATClassifier, x: Array, points: Sequence[OperatingPoint], options: EvaluationOptions
) -> dict[float, Cost]:
    """What each width costs; lam changes numbers in the folded network, not its size."""
    widths, model = dict.fromkeys(point.width for point in points), classifier.model
    networks = {width: fold(model, lam=points[0].lam, width=width) for width in widths}
    one = torch.as_tensor(x[:1]).to(model.encoding.table)
    as_network_sees_it = classifier.preprocessed(nn.Identity())(one)
    return measure_costs(networks, as_network_sees_it.shape[1:], batch_size=options.latency_batch_size)


def subset(y: NDArray[np.int64], size: int | None, seed: int) -> NDArray[np.int64]:
    """Indices of a stratified subset, ascending: every so-many-th of the samples in random order within each class."""
    if size is None:
        return np.arange(len(y))
    order = np.random.default_rng(seed).permutation(len(y))
    by_class = order[np.argsort(y[order], kind="stable")]
    positions = ((np.arange(size) + 0.5) * len(y) / size).astype(np.int64)
    indices: NDArray[np.int64] = np.sort(by_class[positions])
    return indices


def _clean_shares(
    classifier: OATClassifier, x: Array, y: Array, points: Sequence[OperatingPoint], group: Group
) -> list[float]:
    """Return the accuracy at each point on all samples, of which each process answers its share of the batches."""
    inputs, labels = classifier.kept_tensors(x, y)
    starts = range(0, len(x), _BATCH_SIZE)
    parts = [slice(start, start + _BATCH_SIZE) for start in starts[group.share(len(starts))]]
    networks = [as_module(classifier, point) for point in points]
    correct = [sum(int(is_correct(it, inputs[part], labels[part]).sum()) for part in parts) for it in networks]
    return [nb / len(x) for nb in group.sums(correct)]


def _measured(
    reports: Sequence[RobustnessReport], nb_clean: int, costs: Mapping[float, Cost], clean: float
) -> MeasuredPoint:
    """Bring together what was found at one point, with the clean accuracy on all samples."""
    point = reports[0].point
    assert point is not None
    is_robust = np.all([report.is_robust for report in reports], axis=0)
    return MeasuredPoint(
        point.lam,
        point.width,
        clean=clean,
        robust=float(is_robust.mean()),
        nb_clean=nb_clean,
        nb_robust=len(is_robust),
        by_attack={report.attack: report.robust for report in reports},
        **asdict(costs[point.width]),
        warnings=tuple(f"{report.attack}: {warning}" for report in reports for warning in report.warnings),
    )
