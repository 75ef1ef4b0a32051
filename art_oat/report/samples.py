"""What ``samples.csv`` tells: accuracies by class, and what broke which image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from art_oat.attacks import display_name
from art_oat.evaluation.shards import CARRIED, WRONG
from art_oat.storage import read_rows

_SHOWN = {WRONG: "wrong without an attack", CARRIED: "an example found at another point"}
_NB_EXAMPLES = 8


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracies on the attacked images of one class at one point, as fractions."""

    lam: float
    width: float
    label: int
    clean: float
    robust: float
    nb_samples: int


@dataclass(frozen=True)
class Breakage:
    """What one attack of a suite broke first at the points of one width.

    Attributes:
        suite: The suite, as people write it.
        attack: The attack, as the suite calls it; or in words what else broke a sample.
        width: The width.
        counts: How many samples it broke, by lam.
        examples: Some of the samples that it broke at the largest lam at which it broke any.
        lam: That lam.
    """

    suite: str
    attack: str
    width: float
    counts: Mapping[float, int]
    examples: tuple[int, ...]
    lam: float


@dataclass(frozen=True)
class Row:
    """A line of the file."""

    lam: float
    width: float
    suite: str
    sample: int
    is_clean: bool
    is_robust: bool
    broken_by: str


def read_samples(path: Path) -> list[Row]:
    """Return the lines of a ``samples.csv``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such file.
    """
    try:
        return [
            Row(
                float(row["lam"]),
                float(row["width"]),
                row["attack"],
                int(row["sample"]),
                row["is_clean"] == "1",
                row["is_robust"] == "1",
                row["broken_by"],
            )
            for row in read_rows(path)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must say what broke which image, but reading it failed: {error!r}.") from error


def by_class(rows: Iterable[Row], y: NDArray[np.int64]) -> list[ClassAccuracy]:
    """Return accuracies at each point on each class that was attacked; robust is what no suite broke.

    Args:
        rows: What was read.
        y: Classes of all test images, ``[N]``.
    """
    clean: dict[tuple[float, float, int], bool] = {}
    robust: dict[tuple[float, float, int], bool] = {}
    for row in rows:
        where = (row.width, row.lam, row.sample)
        clean[where] = row.is_clean
        robust[where] = robust.get(where, True) and row.is_robust
    groups: dict[tuple[float, float, int], list[tuple[float, float, int]]] = {}
    for width, lam, sample in clean:
        groups.setdefault((width, lam, int(y[sample])), []).append((width, lam, sample))
    return [
        ClassAccuracy(
            lam,
            width,
            label,
            clean=sum(clean[one] for one in own) / len(own),
            robust=sum(robust[one] for one in own) / len(own),
            nb_samples=len(own),
        )
        for (width, lam, label), own in sorted(groups.items())
    ]


def breakages(rows: Sequence[Row]) -> list[Breakage]:
    """Return what broke images: by suite and width, the attack that broke most first."""
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        if not row.is_robust:
            groups.setdefault((row.suite, row.width, row.broken_by), []).append(row)
    found = [_breakage(suite, width, name, own) for (suite, width, name), own in groups.items()]
    order = list(dict.fromkeys(display_name(row.suite) for row in rows))
    return sorted(found, key=lambda it: (-it.width, order.index(it.suite), -sum(it.counts.values())))


def _breakage(suite: str, width: float, name: str, rows: Sequence[Row]) -> Breakage:
    lam = max(row.lam for row in rows)
    examples = tuple(row.sample for row in rows if row.lam == lam)[:_NB_EXAMPLES]
    shown = _SHOWN.get(name, display_name(name))
    return Breakage(display_name(suite), shown, width, Counter(row.lam for row in rows), examples, lam)
