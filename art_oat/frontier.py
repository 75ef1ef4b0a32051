"""Owns a set of measured points: their area, the choice among them, their CSV; not how they were measured."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self

from art_oat.condition import OperatingPoint
from art_oat.files import write_whole

_ATTACK_PREFIX = "robust:"


@dataclass(frozen=True)
class MeasuredPoint:
    """Accuracies at one operating point, all of them fractions.

    Attributes:
        lam: The point's lam.
        width: The point's width.
        clean: Accuracy without attack.
        robust: Share of samples that every attack tried at this point left right.
        nb_clean: On how many samples ``clean`` was measured.
        nb_robust: On how many samples ``robust`` was measured.
        by_attack: What each attack alone left right, on the same samples as ``robust``.

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

    def __post_init__(self) -> None:
        shares = {"clean": self.clean, "robust": self.robust, **self.by_attack}
        outside = {name: share for name, share in shares.items() if not 0 <= share <= 1}
        if outside or min(self.nb_clean, self.nb_robust) < 1:
            counts = (self.nb_clean, self.nb_robust)
            raise ValueError(f"accuracies must lie in [0, 1] and counts be at least 1, got {outside or counts}.")
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
class Frontier:
    """Measured points of one network.

    Args:
        points: At least one.

    Raises:
        ValueError: If there is none.
    """

    points: tuple[MeasuredPoint, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(self.points))
        if not self.points:
            raise ValueError("points must hold at least one measured point, got none.")

    def area(self, reference: tuple[float, float] = (0.0, 0.0)) -> float:
        """Return the hypervolume: the area of all (clean, robust) pairs that some point reaches in both.

        Args:
            reference: The corner (clean, robust) it is measured from; guessing among K classes is ``(1 / K, 0)``.
        """
        area, height = 0.0, reference[1]
        for point in sorted(self.points, key=lambda point: (-point.clean, -point.robust)):
            if point.robust > height and point.clean > reference[0]:
                area += (point.clean - reference[0]) * (point.robust - height)
                height = point.robust
        return area

    def select(self, *, min_robust: float = 0.0, min_clean: float = 0.0) -> OperatingPoint:
        """Return the best operating point among those that meet every requirement.

        Best is the highest clean accuracy; among equals the highest robust accuracy, then the smallest width.

        Args:
            min_robust: Robust accuracy to keep, in ``[0, 1]``.
            min_clean: Clean accuracy to keep, in ``[0, 1]``.

        Raises:
            ValueError: If a requirement is no fraction, or no point meets all; says which fails and by how much.
        """
        for name, value in (("min_robust", min_robust), ("min_clean", min_clean)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}.")
        fitting = [p for p in self.points if p.robust >= min_robust and p.clean >= min_clean]
        if not fitting:
            raise ValueError(self._shortfall(min_robust, min_clean))
        return max(fitting, key=lambda p: (p.clean, p.robust, -p.width)).operating_point

    def _shortfall(self, min_robust: float, min_clean: float) -> str:
        reasons = []
        for name, attribute, asked in (("min_robust", "robust", min_robust), ("min_clean", "clean", min_clean)):
            best = max(self.points, key=lambda point: float(getattr(point, attribute)))
            reached = getattr(best, attribute)
            if reached < asked:
                where = f"lam {best.lam:g}, width {best.width:g}"
                reasons.append(
                    f"{name} = {asked:g} is missed by {asked - reached:.3f}: the best is {reached:.3f} at {where}."
                )
        if not reasons:
            closest = max(self.points, key=lambda p: min(p.robust - min_robust, p.clean - min_clean))
            reasons.append(
                f"each is met somewhere, but not together: the closest, lam {closest.lam:g} at width "
                f"{closest.width:g}, has robust {closest.robust:.3f} and clean {closest.clean:.3f}."
            )
        return f"no point has min_robust = {min_robust:g} and min_clean = {min_clean:g}. " + " ".join(reasons)

    def to_csv(self, path: str | Path) -> None:
        """Write one row per point; an attack's own accuracy is the column ``robust:NAME``."""
        attacks = list(dict.fromkeys(name for point in self.points for name in point.by_attack))
        columns = [column.name for column in fields(MeasuredPoint) if column.name != "by_attack"]
        with write_whole(Path(path)) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*self._header(), *columns, *(_ATTACK_PREFIX + name for name in attacks)])
            for point in self.points:
                own = [getattr(point, column) for column in columns]
                writer.writerow([*self._header().values(), *own, *(point.by_attack.get(name, "") for name in attacks)])

    def _header(self) -> dict[str, str | float]:
        """Columns that are the same for all points."""
        return {}

    @classmethod
    def from_csv(cls, path: str | Path) -> Self:
        """Read what :meth:`to_csv` wrote.

        Raises:
            ValueError: If a column is missing or a value is no number.
        """
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        try:
            return cls._from_rows(rows)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"{path} must be a CSV that to_csv wrote, but reading it failed: {error!r}.") from error

    @classmethod
    def _from_rows(cls, rows: Sequence[dict[str, str]]) -> Self:
        return cls(tuple(_point(row) for row in rows))


def _point(row: dict[str, str]) -> MeasuredPoint:
    attacks = {name: value for name, value in row.items() if name.startswith(_ATTACK_PREFIX) and value}
    return MeasuredPoint(
        lam=float(row["lam"]),
        width=float(row["width"]),
        clean=float(row["clean"]),
        robust=float(row["robust"]),
        nb_clean=int(row["nb_clean"]),
        nb_robust=int(row["nb_robust"]),
        by_attack={name.removeprefix(_ATTACK_PREFIX): float(value) for name, value in attacks.items()},
    )
