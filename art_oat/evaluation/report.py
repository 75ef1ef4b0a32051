"""What attacks found at one operating point, sample by sample."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from art_oat.attacks import Norm, display_name, format_eps
from art_oat.condition import OperatingPoint
from art_oat.evaluation.shards import CARRIED, ROBUST, WRONG, ShardResult
from art_oat.evaluation.text import percent
from art_oat.storage import write_rows
from art_oat.table import Table, Tabular

_SQUARE_SHARE = 0.002
"""From which share on AutoAttack takes the success of its random search for a warning."""
_ZERO_GRADIENTS = re.compile(r"there are (\d+) points with zero gradient")


@dataclass(frozen=True, eq=False)
class RobustnessReport(Tabular):
    """What one suite of attacks found at one operating point, sample by sample.

    Attributes:
        attack: Name of the suite.
        eps: Radius of its ball, in units of ``x``.
        norm: Norm of its ball.
        point: Where it attacked; None for a plain network.
        broken_by: What broke each sample first, ``[N]``: the name of an attack of the suite, ``"no attack"`` for a
            sample that is answered wrongly as it is, ``"carried"`` for one that an example found at another point
            breaks, and ``""`` for one that is robust.
        seconds: How long it took.
        warnings: What AutoAttack warns of: its figure may be too high.
        index: Which of the samples given these are, ``[N]``, where a subset was attacked.
        distances: How far from its input lies what broke each sample, ``[N]``, in units of ``x``: 0 for one that is
            answered wrongly as it is, infinite for one that is robust; None if not known.
    """

    attack: str
    eps: float
    norm: Norm
    point: OperatingPoint | None
    broken_by: NDArray[np.str_]
    seconds: float
    warnings: tuple[str, ...] = ()
    index: NDArray[np.int64] | None = None
    distances: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.index is None:
            object.__setattr__(self, "index", np.arange(len(self.broken_by)))

    @classmethod
    def joined(
        cls,
        attack: str,
        eps: float,
        norm: Norm,
        point: OperatingPoint | None,
        results: Sequence[ShardResult],
        *,
        attacks: Sequence[str] = (),
        index: NDArray[np.int64] | None = None,
    ) -> RobustnessReport:
        """Join the results of all shards, in their order; ``attacks`` names those of the suite, in order."""
        broken_by = np.concatenate([result.broken_by for result in results])
        seconds = sum(result.seconds for result in results)
        warnings = (*_summed(results), *_square_notices(broken_by, attacks))
        known = [result.distances for result in results if result.distances is not None]
        distances = np.concatenate(known) if len(known) == len(results) else None
        return cls(attack, eps, norm, point, broken_by, seconds, warnings, index, distances)

    @property
    def is_clean(self) -> NDArray[np.bool_]:
        """Which samples are answered right without an attack, ``[N]``."""
        return np.not_equal(self.broken_by, WRONG)

    @property
    def is_robust(self) -> NDArray[np.bool_]:
        """Which samples nothing broke, ``[N]``."""
        return np.equal(self.broken_by, ROBUST)

    @property
    def clean(self) -> float:
        """Share of samples answered right without an attack."""
        return float(self.is_clean.mean())

    @property
    def robust(self) -> float:
        """Share of samples that nothing broke."""
        return float(self.is_robust.mean())

    @property
    def robust_error(self) -> float:
        """Standard error of ``robust``: ``sqrt(p (1 - p) / N)``."""
        return math.sqrt(self.robust * (1 - self.robust) / len(self.broken_by))

    @property
    def nb_broken_by(self) -> dict[str, int]:
        """How many samples each attack broke first, most first."""
        names, counts = np.unique(self.broken_by[~self.is_robust], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {str(names[place]): int(counts[place]) for place in order}

    @property
    def nb_carried(self) -> int:
        """How many samples needed no attack, because an example from another point broke them."""
        return int((self.broken_by == CARRIED).sum())

    def __str__(self) -> str:
        """Say what was found in a few lines."""
        lines = [
            f"{self._title()}:",
            f"  robust {100 * self.robust:.1f}% +- {100 * self.robust_error:.1f}, clean {100 * self.clean:.1f}%",
            *(f"  broken by {name}: {count}" for name, count in self.nb_broken_by.items()),
            *(f"  warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def _title(self) -> str:
        where = "" if self.point is None else f" at lam {self.point.lam:g}, width {self.point.width:g}"
        ball = f"eps {format_eps(self.eps)} ({self.norm})"
        return f"{display_name(self.attack)}{where}, {ball}, {len(self.broken_by)} samples"

    def as_table(self) -> Table:
        """Return what became of the samples: how many are robust, and how many each attack broke first."""
        total, counts = len(self.broken_by), {"robust": int(self.is_robust.sum())}
        known = {WRONG: "wrong without attack", CARRIED: "broken by an example from another point"}
        counts |= {known.get(name, f"broken by {name}"): count for name, count in self.nb_broken_by.items()}
        shares = [percent(count / total, math.sqrt(count * (total - count) / total**3)) for count in counts.values()]
        columns = {"outcome": [*counts], "samples": [*map(str, counts.values())], "percent": shares}
        return Table(columns, self._title(), [f"Warning: {warning}" for warning in self.warnings])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row per sample."""
        assert self.index is not None
        lam, width = ("", "") if self.point is None else self.point
        for sample, is_clean, is_robust, name in zip(
            self.index, self.is_clean, self.is_robust, self.broken_by, strict=True
        ):
            where = {"lam": lam, "width": width, "attack": self.attack, "sample": sample}
            yield {**where, "is_clean": int(is_clean), "is_robust": int(is_robust), "broken_by": name}

    def to_csv(self, path: str | Path) -> None:
        """Write one row per sample: where, by which suite, its index, whether it is robust, what broke it."""
        write_reports([self], path)


def write_reports(reports: Iterable[RobustnessReport], path: str | Path) -> None:
    """Write several reports into one CSV, one row per report and sample."""
    write_rows(Path(path), itertools.chain.from_iterable(report.rows() for report in reports))


def _summed(results: Sequence[ShardResult]) -> list[str]:
    """Return every notice once.

    Samples without a gradient are counted over all shards. Within a shard several attacks meet the same samples, so
    the largest count is that of the shard.
    """
    total = sum(max(map(_nb_zero_gradients, result.notices), default=0) for result in results)
    notices = [notice for result in results for notice in result.notices]
    unified = (_ZERO_GRADIENTS.sub(f"there are {total} points with zero gradient", notice) for notice in notices)
    return list(dict.fromkeys(unified))


def _nb_zero_gradients(notice: str) -> int:
    match = _ZERO_GRADIENTS.search(notice)
    return int(match[1]) if match else 0


def _square_notices(broken_by: NDArray[np.str_], attacks: Sequence[str]) -> list[str]:
    """Say what AutoAttack says where its random search beats its gradients; here it runs one attack at a time."""
    share = float((broken_by == "square").mean())
    if share <= _SQUARE_SHARE or "square" not in attacks[1:]:
        return []
    return [
        f"Square has broken {100 * share:.1f}% of the samples, which all attacks by gradients before it left: "
        "they may be unreliable on this network. Use more queries, or an adaptive attack."
    ]
