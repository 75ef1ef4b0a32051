"""What was measured at one operating point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from art_oat.checks import refuse
from art_oat.condition import OperatingPoint
from art_oat.numbers import count_faults, is_finite_number, number_faults, plain, plain_fields

COSTS: Mapping[str, type[int] | type[float]] = {"macs": int, "parameters": int, "latency": float}
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
        costs = {name: cost for name in COSTS if (cost := getattr(self, name)) is not None}
        if not all(is_finite_number(cost) and cost >= 0 for cost in costs.values()) or costs.get("latency") == 0:
            raise ValueError(f"macs and parameters must be at least 0 and latency above 0, or None, got {costs}.")
        _ = self.operating_point  # refuses a lam or width outside its range

    @property
    def operating_point(self) -> OperatingPoint:
        """The setting of both dials."""
        return OperatingPoint(self.lam, self.width)

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds per batch."""
        return None if self.latency is None else 1000 * self.latency

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
