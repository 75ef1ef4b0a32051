"""A set of measured points: their area, the choice among them, their CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from art_oat.checks import refuse
from art_oat.condition import OperatingPoint
from art_oat.numbers import count_faults, is_finite_number, number_faults, plain, plain_fields, shown
from art_oat.storage import parse_csv, write_rows

_ATTACK_PREFIX = "robust:"
_SEPARATOR = " | "
_COSTS: Mapping[str, type[int] | type[float]] = {"macs": int, "parameters": int, "latency": float}
"""What a point may cost, and as what kind of number; None where it was not measured."""


@dataclass(frozen=True)
class MeasuredPoint:
    """Accuracies at one operating point, all of them fractions, and what its network costs where that is known.

    Attributes:
        lam: The point's lam.
        width: The point's width.
        clean: Accuracy without attack.
        robust: Share of samples that every attack tried at this point left right.
        nb_clean: On how many samples ``clean`` was measured.
        nb_robust: On how many samples ``robust`` was measured.
        by_attack: What each attack alone left right, on the same samples as ``robust``.
        macs: Multiply-accumulates of one sample; at least 0.
        parameters: How many numbers the parameters of the plain network at this width hold; at least 0.
        latency: Seconds per batch; above 0.
        warnings: Why ``robust`` may be too high, as far as an attack said so.

    Raises:
        ValueError: If a value is not as above.
    """

    lam: float
    width: float
    clean: float
    robust: float
    nb_clean: int
    nb_robust: int
    by_attack: Mapping[str, float] = field(default_factory=dict, hash=False)
    macs: int | None = None
    parameters: int | None = None
    latency: float | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        plain_fields(self)
        object.__setattr__(self, "by_attack", {name: plain(share) for name, share in self.by_attack.items()})
        shares = {"clean": self.clean, "robust": self.robust, **self.by_attack}
        faults = number_faults(shares, "lie in [0, 1]", lambda share: 0 <= share <= 1)
        refuse(faults + count_faults({"nb_clean": self.nb_clean, "nb_robust": self.nb_robust}))
        costs = {name: cost for name in _COSTS if (cost := getattr(self, name)) is not None}
        if not all(is_finite_number(cost) and cost >= 0 for cost in costs.values()) or costs.get("latency") == 0:
            raise ValueError(f"macs and parameters must be at least 0 and latency above 0, or None, got {costs}.")
        _ = self.operating_point  # refuses a lam or width outside its range

    @property
    def operating_point(self) -> OperatingPoint:
        """The setting of both dials."""
        return OperatingPoint(self.lam, self.width)

    @property
    def clean_error(self) -> float:
        """Standard error of ``clean``: ``sqrt(p (1 - p) / n)``."""
        return _standard_error(self.clean, self.nb_clean)

    @property
    def robust_error(self) -> float:
        """Standard error of ``robust``: ``sqrt(p (1 - p) / n)``."""
        return _standard_error(self.robust, self.nb_robust)


def _standard_error(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)


@dataclass(frozen=True)
class _Requirement:
    """A bound: ``min_robust`` is a floor for the share ``robust``, ``max_macs`` a ceiling for the cost ``macs``."""

    name: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name} = {self.bound:g}"

    @property
    def quantity(self) -> str:
        return self.name[len("min_") :]

    @property
    def is_floor(self) -> bool:
        return self.name.startswith("min_")

    def faults(self, points: Sequence[MeasuredPoint]) -> list[str]:
        bound = {self.name: self.bound}
        faults = (
            number_faults(bound, "lie in [0, 1]", lambda it: 0 <= it <= 1)
            if self.is_floor
            else number_faults(bound, "be a number above 0", lambda it: it > 0)
        )
        if faults:
            return faults
        nb_unknown = sum(getattr(point, self.quantity) is None for point in points)
        missing = f"{self.name} needs the {self.quantity} of every point, got {nb_unknown} of {len(points)} without."
        return [f"{missing} TradeoffCurve.measure measures it."] if nb_unknown else []

    def value(self, point: MeasuredPoint) -> float:
        return float(getattr(point, self.quantity))

    def shortfall(self, point: MeasuredPoint) -> float:
        """By how much a point misses it, as a share of all samples or of the cost; at most 0 where it is met."""
        lack = self.bound - self.value(point)
        return lack if self.is_floor else -lack / self.bound

    def is_met(self, point: MeasuredPoint) -> bool:
        return self.shortfall(point) <= 0

    def written(self, value: float) -> str:
        return f"{value:.3f}" if self.is_floor else f"{value:.3g}"


@dataclass(frozen=True)
class Frontier:
    """Measured points of one network.

    Args:
        points: At least one.

    Raises:
        ValueError: If there is none.
    """

    points: tuple[MeasuredPoint, ...]

    def __post_init__(self) -> None:
        given = tuple(self.points) if isinstance(self.points, Iterable) else (None,)
        if not all(isinstance(it, MeasuredPoint) for it in given):
            raise TypeError(f"points must hold measured points, got {shown(self.points)}.")
        object.__setattr__(self, "points", given)
        if not self.points:
            raise ValueError("points must hold at least one measured point, got none.")

    def area(self, reference: tuple[float, float] = (0.0, 0.0)) -> float:
        """Return the hypervolume: the area of all (clean, robust) pairs that some point reaches in both.

        Args:
            reference: The corner (clean, robust) to measure from; guessing among K classes is ``(1 / K, 0)``.

        Raises:
            ValueError: If ``reference`` is not two finite numbers.
        """
        is_pair = isinstance(reference, Sequence) and len(reference) == 2  # noqa: PLR2004 - clean and robust
        if not is_pair or not all(map(is_finite_number, reference)):
            raise ValueError(f"reference must be two finite numbers, clean and robust, got {shown(reference)}.")
        area, height = 0.0, reference[1]
        for point in sorted(self.points, key=lambda point: (-point.clean, -point.robust)):
            if point.robust > height and point.clean > reference[0]:
                area += (point.clean - reference[0]) * (point.robust - height)
                height = point.robust
        return area

    def select(
        self,
        *,
        min_robust: float = 0.0,
        min_clean: float = 0.0,
        max_macs: float | None = None,
        max_latency: float | None = None,
    ) -> OperatingPoint:
        """Return the operating point with the highest clean accuracy among those that meet every requirement.

        Among equals it is the one with the highest robust accuracy, then with the smallest width.

        Args:
            min_robust: Robust accuracy to keep, in ``[0, 1]``.
            min_clean: Clean accuracy to keep, in ``[0, 1]``.
            max_macs: Multiply-accumulates that one sample may take, above 0; None for any number.
            max_latency: Seconds that one batch may take, above 0; None for any time.

        Raises:
            ValueError: If a requirement is not as above, or bounds a cost that was not measured, or no point meets
                all; says which fails and by how much.
        """
        ceilings = {"max_macs": max_macs, "max_latency": max_latency}
        bounds = {"min_robust": min_robust, "min_clean": min_clean}
        bounds |= {name: bound for name, bound in ceilings.items() if bound is not None}
        requirements = [_Requirement(name, plain(bound)) for name, bound in bounds.items()]
        refuse([fault for requirement in requirements for fault in requirement.faults(self.points)])
        fitting = [point for point in self.points if all(requirement.is_met(point) for requirement in requirements)]
        if not fitting:
            raise ValueError(self._refusal(requirements))
        return max(fitting, key=lambda p: (p.clean, p.robust, -p.width)).operating_point

    def _refusal(self, requirements: Sequence[_Requirement]) -> str:
        """Say what no point meets, and by how much; or, where each is met somewhere, which point comes closest."""
        missed = [it for it in requirements if not all(map(it.is_met, self.points))]
        reasons = [self._miss(it) for it in missed if not any(map(it.is_met, self.points))]
        if not reasons:
            closest = min(self.points, key=lambda point: max(it.shortfall(point) for it in missed))
            has = " and ".join(f"{it.quantity} {it.written(it.value(closest))}" for it in missed)
            reasons.append(
                f"each is met somewhere, but not together: the closest, lam {closest.lam:g} at width "
                f"{closest.width:g}, has {has}."
            )
        return f"no point has {' and '.join(map(str, missed))}. {' '.join(reasons)}"

    def _miss(self, requirement: _Requirement) -> str:
        best = min(self.points, key=requirement.shortfall)
        reached, where = requirement.value(best), f"lam {best.lam:g}, width {best.width:g}"
        lack, value = (requirement.written(it) for it in (abs(reached - requirement.bound), reached))
        return f"{requirement} is missed by {lack}: the best is {value} at {where}."

    def to_csv(self, path: str | Path) -> None:
        """Write one row per point; an attack's own accuracy is the column ``robust:NAME``.

        Costs and warnings have columns where there are any, and the last column is a digest of all rows.
        """
        always = ("lam", "width", "clean", "robust", "nb_clean", "nb_robust")
        known = [name for name in _COSTS if any(getattr(point, name) is not None for point in self.points)]
        has_warnings = any(point.warnings for point in self.points)
        rows = []
        for point in self.points:
            row = self._header() | {name: getattr(point, name) for name in (*always, *known)}
            row |= {_ATTACK_PREFIX + name: share for name, share in point.by_attack.items()}
            rows.append(row | ({"warnings": _SEPARATOR.join(point.warnings)} if has_warnings else {}))
        write_rows(Path(path), rows, last=["warnings"], is_signed=True)

    def _header(self) -> dict[str, str | float]:
        """Columns that are the same for all points."""
        return {}

    @classmethod
    def from_csv(cls, path: str | Path) -> Self:
        """Read what :meth:`to_csv` wrote.

        Raises:
            ValueError: If a column is missing, a value is no number, or the digest in it is another.
        """
        return parse_csv(Path(path), cls._from_rows)

    @classmethod
    def _from_rows(cls, rows: Sequence[dict[str, str]]) -> Self:
        return cls(tuple(_point(row) for row in rows))


def _point(row: Mapping[str, str]) -> MeasuredPoint:
    shares = {name: float(row[name]) for name in ("lam", "width", "clean", "robust")}
    counts = {name: int(row[name]) for name in ("nb_clean", "nb_robust")}
    costs = {name: kind(row[name]) for name, kind in _COSTS.items() if row.get(name)}
    attacks = {name: value for name, value in row.items() if name and name.startswith(_ATTACK_PREFIX) and value}
    by_attack = {name.removeprefix(_ATTACK_PREFIX): float(value) for name, value in attacks.items()}
    warnings = tuple(row["warnings"].split(_SEPARATOR)) if row.get("warnings") else ()
    return MeasuredPoint(**shares, **counts, **costs, by_attack=by_attack, warnings=warnings)  # type: ignore[arg-type]
