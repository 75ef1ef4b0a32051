"""Bounds on what a point reaches and costs, and what is said where no point meets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from art_oat.checks import refuse
from art_oat.frontier.point import MeasuredPoint
from art_oat.numbers import number_faults, plain


@dataclass(frozen=True)
class Requirement:
    """A bound: ``min_robust`` is a floor for the share ``robust``, ``max_macs`` a ceiling for the cost ``macs``."""

    name: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name} = {self.bound:g}"

    @property
    def quantity(self) -> str:
        """What is bounded: a number that points hold."""
        return self.name[len("min_") :]

    @property
    def is_floor(self) -> bool:
        """Whether it is a floor, of a share, or else a ceiling, of a cost."""
        return self.name.startswith("min_")

    def faults(self, points: Sequence[MeasuredPoint]) -> list[str]:
        """Say why it cannot be asked of points: the bound is none, or they were not measured."""
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
        """Return what a point has of the quantity."""
        return float(getattr(point, self.quantity))

    def shortfall(self, point: MeasuredPoint) -> float:
        """By how much a point misses it, as a share of all samples or of the cost; at most 0 where it is met."""
        lack = self.bound - self.value(point)
        return lack if self.is_floor else -lack / self.bound

    def is_met(self, point: MeasuredPoint) -> bool:
        """Whether a point meets it."""
        return self.shortfall(point) <= 0

    def written(self, value: float) -> str:
        """Write a value of the quantity for people."""
        return f"{value:.3f}" if self.is_floor else f"{value:.3g}"


def fitting(
    points: Sequence[MeasuredPoint], bounds: Mapping[str, Any], faults: Sequence[str] = ()
) -> list[MeasuredPoint]:
    """Return the points that meet every requirement.

    Args:
        points: At least one.
        bounds: By the names of the requirements; a ceiling of None is none.
        faults: What else is wrong, to be refused together with the bounds.

    Raises:
        ValueError: If a bound cannot be one, or of what was not measured, or no point meets all; says which
            requirements fail and by how much.
    """
    given = {name: plain(it) for name, it in bounds.items() if it is not None or name.startswith("min_")}
    requirements = [Requirement(name, bound) for name, bound in given.items()]
    refuse([*faults, *(fault for requirement in requirements for fault in requirement.faults(points))])
    found = [point for point in points if all(requirement.is_met(point) for requirement in requirements)]
    if not found:
        raise ValueError(_refusal(points, requirements))
    return found


def _refusal(points: Sequence[MeasuredPoint], requirements: Sequence[Requirement]) -> str:
    """Say what no point meets, and by how much; or, where each is met somewhere, which point comes closest."""
    missed = [it for it in requirements if not all(map(it.is_met, points))]
    reasons = [_miss(points, it) for it in missed if not any(map(it.is_met, points))]
    if not reasons:
        closest = min(points, key=lambda point: max(it.shortfall(point) for it in missed))
        has = " and ".join(f"{it.quantity} {it.written(it.value(closest))}" for it in missed)
        reasons.append(
            f"each is met somewhere, but not together: the closest, lam {closest.lam:g} at width "
            f"{closest.width:g}, has {has}."
        )
    return f"no point has {' and '.join(map(str, missed))}. {' '.join(reasons)}"


def _miss(points: Sequence[MeasuredPoint], requirement: Requirement) -> str:
    best = min(points, key=requirement.shortfall)
    reached, where = requirement.value(best), f"lam {best.lam:g}, width {best.width:g}"
    lack, value = (requirement.written(it) for it in (abs(reached - requirement.bound), reached))
    return f"{requirement} is missed by {lack}: the best is {value} at {where}."
