"""A set of measured points: their area, the choice among them, their CSV."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from art_oat.condition import OperatingPoint
from art_oat.frontier.point import COSTS, MeasuredPoint
from art_oat.frontier.requirement import fitting
from art_oat.numbers import is_finite_number, is_name_in, number_faults, plain, shown
from art_oat.storage import parse_csv, write_rows

_ATTACK_PREFIX = "robust:"
_SEPARATOR = " | "


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
        threat: float = 0.0,
        min_clean: float = 0.0,
        min_robust: float = 0.0,
        max_macs: float | None = None,
        max_parameters: float | None = None,
        max_latency_ms: float | None = None,
    ) -> OperatingPoint:
        """Return the operating point of the highest expected accuracy among those that meet every requirement.

        It is ``(1 - threat) clean + threat robust``, where a share ``threat`` of the samples is attacked: the clean
        accuracy at 0, the robust one at 1. Among equals it is the point with the highest sum of both accuracies, then
        with the smallest width.

        Args:
            threat: What to maximize; in ``[0, 1]``.
            min_clean: Clean accuracy to keep, in ``[0, 1]``.
            min_robust: Robust accuracy to keep, in ``[0, 1]``.
            max_macs: Multiply-accumulates that one sample may take, above 0; None for any number.
            max_parameters: How many numbers the plain network may hold, 4 bytes each in float32, above 0; None for any.
            max_latency_ms: Milliseconds that one batch may take, above 0; None for any time.

        Raises:
            ValueError: If an argument is not as above, or bounds a cost that was not measured, or no point meets all
                requirements; says which fail and by how much.
        """
        bounds: dict[str, float | None] = {"min_clean": min_clean, "min_robust": min_robust}
        bounds |= {"max_macs": max_macs, "max_parameters": max_parameters, "max_latency_ms": max_latency_ms}
        faults = number_faults({"threat": threat}, "lie in [0, 1]", lambda share: 0 <= share <= 1)
        points, share = fitting(self.points, bounds, faults), plain(threat)
        return max(points, key=lambda point: gain(point, threat=share)).operating_point

    def pareto(self, *, costs: Iterable[str] | None = None) -> Self:
        """Return the points that no other beats: is as good as in everything that counts, and better in something.

        Both accuracies count, and costs. Equals do not beat each other. The most accurate point comes first, then the
        more robust, the narrower, the one of smaller lam, whatever the order was before.

        Args:
            costs: Which count, of ``"macs"``, ``"parameters"`` and ``"latency"``; none for accuracies alone; None for
                all that every point has.

        Raises:
            ValueError: If one is unknown, or was not measured at every point.
        """
        names = self._costs(costs)
        values = np.array([[p.clean, p.robust, *(-getattr(p, name) for name in names)] for p in self.points])
        is_as_good = (values[:, None] >= values).all(axis=2)  # [other, point]
        is_beaten = (is_as_good & (values[:, None] > values).any(axis=2)).any(axis=0)
        kept = [self.points[index] for index in np.flatnonzero(~is_beaten)]
        return self._of(sorted(kept, key=lambda p: (-p.clean, -p.robust, p.width, p.lam)))

    def _costs(self, given: Iterable[str] | None) -> list[str]:
        """Return which costs count, checked."""
        known = [name for name in COSTS if all(getattr(point, name) is not None for point in self.points)]
        if given is None:
            return known
        names = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else None
        if names is None or not all(is_name_in(name, known) for name in names):
            raise ValueError(
                f"costs must be some of what was measured at every point, {tuple(known)}, got {shown(given)}."
            )
        return names

    def _of(self, points: Iterable[MeasuredPoint]) -> Self:
        """Return the same with some of the points."""
        return dataclasses.replace(self, points=tuple(points))

    def to_csv(self, path: str | Path) -> None:
        """Write one row per point; an attack's own accuracy is the column ``robust:NAME``.

        Costs and warnings have columns where there are any, and the last column is a digest of all rows.
        """
        write_rows(Path(path), self.rows(), last=["warnings"], is_signed=True)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per point, with the columns of :meth:`to_csv`."""
        always = ("lam", "width", "clean", "robust", "nb_clean", "nb_robust")
        known = [name for name in COSTS if any(getattr(point, name) is not None for point in self.points)]
        has_warnings = any(point.warnings for point in self.points)
        rows = []
        for point in self.points:
            row = self._header() | {name: getattr(point, name) for name in (*always, *known)}
            row |= {_ATTACK_PREFIX + name: share for name, share in point.by_attack.items()}
            rows.append(row | ({"warnings": _SEPARATOR.join(point.warnings)} if has_warnings else {}))
        return rows

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


def gain(point: MeasuredPoint, *, threat: float) -> tuple[float, ...]:
    """Return what is compared first, and what decides among equals."""
    expected = (1 - threat) * point.clean + threat * point.robust
    return expected, point.clean + point.robust, point.robust, -point.width


def _point(row: Mapping[str, str]) -> MeasuredPoint:
    shares = {name: float(row[name]) for name in ("lam", "width", "clean", "robust")}
    counts = {name: int(row[name]) for name in ("nb_clean", "nb_robust")}
    costs = {name: kind(row[name]) for name, kind in COSTS.items() if row.get(name)}
    attacks = {name: value for name, value in row.items() if name and name.startswith(_ATTACK_PREFIX) and value}
    by_attack = {name.removeprefix(_ATTACK_PREFIX): float(value) for name, value in attacks.items()}
    warnings = tuple(row["warnings"].split(_SEPARATOR)) if row.get("warnings") else ()
    return MeasuredPoint(**shares, **counts, **costs, by_attack=by_attack, warnings=warnings)  # type: ignore[arg-type]
