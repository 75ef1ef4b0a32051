"""Try the conversion on every family of networks in ``tests/zoo.py``: is each form of a network exact?

Run from the checkout: ``python -m benchmarks.zoo`` (15 to 30 minutes on two cores). Float64, seed 0, no downloads.
"""

from __future__ import annotations

import csv
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from art_oat.files import write_whole
from tests.zoo import QUICK, SLOW, Family, examine

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
    differences = {name: value if name == "nb_norms" else f"{value:.1e}" for name, value in asdict(outcome).items()}
    return (
        row
        | {"verdict": "exact" if outcome.worst < EXACT else "differs", **differences}
        | {"seconds": round(time.perf_counter() - started, 1)}
    )


def main() -> None:
    """Write ``benchmarks/results/zoo.csv``."""
    rows = [measure(family) for family in tqdm((*QUICK, *SLOW), unit="network")]
    with write_whole(RESULTS) as file:
        file.write(
            "# python -m benchmarks.zoo; float64, seed 0, lams 0 and 0.6 after a training step on changed weights; "
            f"largest differences relative to the largest answer; torch {version('torch')}, "
            f"pytorchcv {version('pytorchcv')}\n"
        )
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{sum(row['verdict'] == 'exact' for row in rows)} of {len(rows)} exact, see {RESULTS}")


if __name__ == "__main__":
    main()
