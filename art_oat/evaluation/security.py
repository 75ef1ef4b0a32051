"""Accuracy under attack at every radius, at every operating point, from one run of an attack for the nearest error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from art_oat.attacks import Attack, Norm, display_name, format_eps
from art_oat.checks import Array, as_array, refuse
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.evaluation.nearest import Nearest, Search
from art_oat.evaluation.options import DEFAULTS, EvaluationOptions, ThreatModel
from art_oat.evaluation.text import percent
from art_oat.frontier import Frontier, MeasuredPoint
from art_oat.numbers import is_finite_number, shown
from art_oat.storage import parse_csv, write_rows
from art_oat.table import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NORMAL_95 = 1.959963984540054
_NB_COLUMNS = 4


@dataclass(frozen=True, eq=False)
class SecurityCurve(Tabular):
    """How near the next wrong answer to each sample lies, at every operating point: accuracy over the radius.

    ``accuracy(eps) = share of samples whose nearest wrong answer lies farther than eps``, an upper bound of what is
    left under the best attack. At radii that were checked it is at most what the attacks of the check leave.

    Args:
        points: Where it was measured, ``[P]``.
        nearest: Distance of the nearest wrong answer, ``[P, N]``, in units of ``x``: 0 for a sample that is answered
            wrongly as it is, infinite where none was found within ``eps_max``.
        eps_max: The largest radius that was searched.
        norm: Norm of the distances.
        attack: Name of the attack that searched.
        searched: What the attack found before the check, ``[P, N]``; None for ``nearest``.
        check: Name of the attacks that checked; empty for none.
        check_eps: Where they checked.
        index: Which of the samples given these are, ``[N]``; None for all.

    Raises:
        ValueError: If the arrays do not fit each other.
    """

    points: tuple[OperatingPoint, ...]
    nearest: NDArray[np.float64]
    eps_max: float
    norm: Norm = "Linf"
    attack: str = "fmn"
    searched: NDArray[np.float64] | None = None
    check: str = ""
    check_eps: tuple[float, ...] = ()
    index: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.nearest.ndim != 2 or len(self.nearest) != len(self.points) or not self.nearest.size:  # noqa: PLR2004
            raise ValueError(f"nearest must hold distances [{len(self.points)}, N], got {list(self.nearest.shape)}.")
        if self.searched is None:
            object.__setattr__(self, "searched", self.nearest)
        if self.index is None:
            object.__setattr__(self, "index", np.arange(self.nearest.shape[1]))

    @classmethod
    def measure(  # noqa: PLR0913 - those of TradeoffCurve.measure, and the check
        cls,
        classifier: OATClassifier,
        x: Array,
        y: Array,
        *,
        eps_max: float | ThreatModel,
        attack: str | Attack = "fmn-100x10",
        check_eps: Sequence[float] = (),
        check: str | Attack = "autoattack",
        lambdas: Iterable[float] | None = None,
        widths: Iterable[float] | None = None,
        options: EvaluationOptions = DEFAULTS,
    ) -> Self:
        """Look for the nearest wrong answer to each sample at every combination of lam and width.

        Args:
            classifier: What is measured; its ``clip_values`` bound the attacks.
            x: Inputs, ``(N, *input_shape)``, as :meth:`TradeoffCurve.measure` takes them.
            y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
            eps_max: Largest radius in Linf, in units of ``x``; or a :class:`ThreatModel`, for another norm.
            attack: What searches: ``"fmn-KxR"``, ``"ddn-K"``, an attack of adv-lib or secml-torch for the smallest norm
                (``"advlib:ddn"``), ``"search:NAME"`` for one of a single radius (``"search:pgd-20"``), or an object or
                function that looks for the nearest error; what it finds beyond ``eps_max`` does not count. In L2, too,
                the default finds nearer errors than DDN does in the same time, see the results.
            check_eps: Radii at which ``check`` attacks, too; what it breaks counts as broken there.
            check: Likewise as ``evaluate`` takes it.
            lambdas: Where to measure; None for the trained lams.
            widths: Where to measure; None for the trained widths.
            options: How the evaluation runs, and on how many samples. Examples are carried from point to point in the
                check alone.

        Raises:
            TypeError: If ``classifier`` is not an ``OATClassifier``.
            ValueError: If an argument is not as above; names every fault.
        """
        search = Search(classifier, as_array(x, "x"), as_array(y, "y"), ThreatModel.of(eps_max), options)
        found = search.run(attack, check, check_eps, (lambdas, widths))
        return cls._of(found, search.threat, tuple(check_eps))

    @classmethod
    def _of(cls, found: Nearest, threat: ThreatModel, check_eps: tuple[float, ...]) -> Self:
        return cls(
            found.points,
            found.nearest,
            threat.eps,
            threat.norm,
            found.attack,
            found.searched,
            found.check,
            check_eps,
            found.index,
        )

    def accuracy(self, eps: float | Sequence[float]) -> NDArray[np.float64]:
        """Return the accuracy under attack at a radius at every point, ``[P]``; at several radii ``[P, E]``.

        Raises:
            ValueError: If a radius is not in ``[0, eps_max]``, beyond which nothing was searched.
        """
        radii = np.asarray(eps, dtype=np.float64)
        if not bool(((radii >= 0) & (radii <= self.eps_max)).all()):
            raise ValueError(f"eps must lie in [0, {format_eps(self.eps_max)}], which was searched, got {shown(eps)}.")
        is_right = self.nearest[..., None] > radii.reshape(-1)
        shares: NDArray[np.float64] = is_right.mean(axis=1).reshape(len(self.points), *radii.shape)
        return shares

    def interval(self, eps: float | Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower and upper end of the 95% Wilson interval of :meth:`accuracy`, which is never ``[p, p]``."""
        share, nb = self.accuracy(eps), self.nearest.shape[1]
        weight = _NORMAL_95**2 / nb
        middle = (share + weight / 2) / (1 + weight)
        half = np.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
        return middle - half, middle + half

    def expected(self, over: float | Mapping[float, float] | None = None) -> NDArray[np.float64]:
        """Return the expected accuracy where the attacker's radius is random, at every point, ``[P]``.

        Args:
            over: Uniform in ``[0, over]``, the area below the curve over its width; None for ``eps_max``. Or weights by
                radius, of which the shares count.

        Raises:
            ValueError: If a radius was not searched, or weights are negative or sum to 0.
        """
        if isinstance(over, Mapping):
            weights = np.array([*over.values()], dtype=np.float64)
            if not (weights >= 0).all() or not 0 < weights.sum() < math.inf:
                raise ValueError(f"over must hold weights of at least 0, and not of 0 alone, got {shown(over)}.")
            weighted: NDArray[np.float64] = self.accuracy([*over]) @ (weights / weights.sum())
            return weighted
        largest = self.eps_max if over is None else over
        is_searched = is_finite_number(largest) and 0 < largest <= self.eps_max
        refuse([] if is_searched else [f"over must lie in (0, {format_eps(self.eps_max)}], got {shown(over)}."])
        area: NDArray[np.float64] = np.minimum(self.nearest, largest).mean(axis=1) / largest
        return area

    def at(self, eps: float) -> Frontier:
        """Return the trade-off at one radius; clean accuracy is that of the samples attacked."""
        shares, clean, nb = self.accuracy(eps), self.accuracy(0.0), self.nearest.shape[1]
        name = self.check if eps in self.check_eps else self.attack
        measured = zip(self.points, clean.tolist(), shares.tolist(), strict=True)
        return Frontier(
            tuple(
                MeasuredPoint(point.lam, point.width, good, left, nb, nb, {name: left})
                for point, good, left in measured
            )
        )

    def select(self, *, eps: float, min_robust: float = 0.0, threat: float = 0.0) -> OperatingPoint:
        """Return which point to dial where attackers reach ``eps``: :meth:`Frontier.select` of the trade-off there.

        Args:
            eps: The radius expected, in ``[0, eps_max]``.
            min_robust: Accuracy under attack to keep there; of the points that do, the most accurate is returned.
            threat: Share of the samples that is attacked: with 1, the most robust point at ``eps``.

        Raises:
            ValueError: If an argument is not as above, or no point keeps that much.
        """
        return self.at(eps).select(min_robust=min_robust, threat=threat)

    def missed(self) -> NDArray[np.int64]:
        """Return how many samples the check broke where the attack had found nothing so near, ``[P, checks]``."""
        assert self.searched is not None
        radii = np.array(self.check_eps)
        is_missed = (self.searched[..., None] > radii) & (self.nearest[..., None] <= radii)
        counts: NDArray[np.int64] = is_missed.sum(axis=1)
        return counts

    def as_table(self) -> Table:
        """Return the accuracy at some radii, those that were checked among them, and the expected one, in percent."""
        even = {self.eps_max * part / _NB_COLUMNS for part in range(_NB_COLUMNS + 1)}
        radii, nb = sorted(even | {*self.check_eps}), self.nearest.shape[1]
        columns = {name: [f"{getattr(point, name):g}" for point in self.points] for name in ("lam", "width")}
        for eps, shares in zip(radii, self.accuracy(radii).T.tolist(), strict=True):
            head = f"eps {format_eps(eps)}" + (" (checked)" if eps in self.check_eps else "")
            columns[head] = [percent(share, math.sqrt(share * (1 - share) / nb)) for share in shares]
        columns["expected"] = [f"{100 * share:.1f}" for share in self.expected()]
        notes = [f"expected: the attacker's eps is anywhere from 0 to {format_eps(self.eps_max)}."]
        for eps, counts in zip(self.check_eps, self.missed().T.tolist(), strict=True):
            at_most = f"at most {max(counts)} of {nb} samples at a point that the search had not"
            notes.append(f"At eps {format_eps(eps)}, {display_name(self.check)} broke {at_most}.")
        return Table(columns, f"Accuracy in percent, {self.title()}", notes)

    def title(self) -> str:
        """Say by what it was measured, and on how much."""
        nb = self.nearest.shape[1]
        return f"{display_name(self.attack)} up to eps {format_eps(self.eps_max)} ({self.norm}), {nb} samples"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row per point and sample."""
        assert self.searched is not None and self.index is not None  # noqa: PT018
        head = {"eps_max": self.eps_max, "norm": self.norm, "attack": self.attack, "check": self.check}
        head["check_eps"] = " ".join(map(repr, self.check_eps))
        for point, near, before in zip(self.points, self.nearest.tolist(), self.searched.tolist(), strict=True):
            for sample, *values in zip(self.index.tolist(), near, before, strict=True):
                where = {"lam": point.lam, "width": point.width, "sample": sample}
                yield {**head, **where, "nearest": values[0], "searched": values[1]}

    def to_csv(self, path: str | Path) -> None:
        """Write one row per point and sample, and a digest of all rows."""
        write_rows(Path(path), self.rows(), is_signed=True)

    @classmethod
    def from_csv(cls, path: str | Path) -> Self:
        """Read what :meth:`to_csv` wrote.

        Raises:
            ValueError: If a column is missing, a value is no number, or the digest in it is another.
        """
        return parse_csv(Path(path), cls._from_rows)

    @classmethod
    def _from_rows(cls, rows: Sequence[dict[str, str]]) -> Self:
        groups = itertools.groupby(rows, key=lambda row: OperatingPoint(float(row["lam"]), float(row["width"])))
        by_point, first = {point: list(own) for point, own in groups}, rows[0]
        if first["norm"] not in get_args(Norm):
            raise ValueError(f"norm must be one of {get_args(Norm)}, got {first['norm']!r}.")
        nearest, searched = (
            np.array([[float(row[name]) for row in own] for own in by_point.values()])
            for name in ("nearest", "searched")
        )
        index = np.array([int(row["sample"]) for row in next(iter(by_point.values()))])
        check_eps = tuple(map(float, first["check_eps"].split()))
        ball: tuple[float, Any, str] = (float(first["eps_max"]), first["norm"], first["attack"])
        return cls(tuple(by_point), nearest, *ball, searched, first["check"], check_eps, index)

    def plot(self, path: str | Path | None = None, *, subject: str = "One network", eps: float | None = None) -> Figure:
        """Draw accuracy over the radius, a line for each lam, in a panel for each width; dots where it was checked.

        Args:
            path: Where to save the figure; the ending gives the format, PNG without one. None for nowhere.
            subject: What the title says of the network and its data, such as ``"ResNet-20 on CIFAR-10"``.
            eps: Radius of the training, which a vertical line marks; None for no line.
        """
        from art_oat.evaluation.security_plots import Steps, plot_security  # Matplotlib is slow to import

        lines = [
            Steps(point.lam, point.width, np.sort(near), share)
            for point, near, share in zip(self.points, self.nearest, self.accuracy(self.check_eps), strict=True)
        ]
        marks = (eps, self.check_eps)
        title, path = f"{subject}. {self.title()}", None if path is None else Path(path)
        return plot_security(lines, eps_max=self.eps_max, marks=marks, title=title, path=path)
