"""Try the conversion on every family of networks in ``tests/zoo.py``: is each form of a network exact, also slimmed?

Run from the checkout: ``python -m benchmarks.zoo`` (20 to 40 minutes on two cores). Float64, seed 0, no downloads.
"""

from __future__ import annotations

import csv
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from art_oat.storage import write_whole
from tests.zoo import NOT_SLIMMABLE, QUICK, SLOW, Family, examine

EXACT = 1e-9  # attention and long products enlarge rounding from 1e-15 up to 2e-11
RESULTS = Path(__file__).parent / "results" / "zoo.csv"


def measure(family: Family) -> dict[str, object]:
    """Return one row of the table."""
    started = time.perf_counter()
    row: dict[str, object] = {"family": family.module, "network": family.constructor, "size": family.size}
    try:
        outcome = examine(family)
    except Exception as error:  # noqa: BLE001 - a family that fails is a result
        return row | {"verdict": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    figures = asdict(outcome)
    refusal = figures.pop("refusal")
    slimmable = f"no, it {NOT_SLIMMABLE.get(family.module, refusal[:120])}" if refusal else "yes"
    return (
        row
        | {"verdict": "exact" if outcome.worst < EXACT else "differs"}
        | {name: _shown(value) for name, value in figures.items()}
        | {"slimmable": slimmable, "seconds": round(time.perf_counter() - started, 1)}
    )


def _shown(value: float | None) -> object:
    """Write a difference (or a share) short, a number in full, and nothing for None."""
    if value is None:
        return ""
    return value if isinstance(value, int) else f"{value:.2g}"


def main() -> None:
    """Write ``benchmarks/results/zoo.csv``."""
    rows = [measure(family) for family in tqdm((*QUICK, *SLOW), unit="network")]
    with write_whole(RESULTS) as file:
        file.write(
            "# python -m benchmarks.zoo; float64, seed 0, lams 0 and 0.6 after a training step on changed weights; "
            "largest differences relative to the largest answer; slimmed, at width 0.5 and lam 0.6, also from the full "
            "network with the dropped channels masked; share of the parameters left there; "
            f"torch {version('torch')}, "
            f"pytorchcv {version('pytorchcv')}\n"
        )
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{sum(row['verdict'] == 'exact' for row in rows)} of {len(rows)} exact, see {RESULTS}")


if __name__ == "__main__":
    main()
