"""Count what becomes of random networks (``tests/fuzz.py``): right, refused, or wrong.

Run from the checkout: ``python -m benchmarks.fuzz`` (5 to 10 minutes on one core). Seeds 0 to 499, float64.
"""

from __future__ import annotations

import csv
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from art_oat.storage import write_whole
from tests.fuzz import check

RESULTS = Path(__file__).parent / "results" / "fuzz.csv"
NB_SEEDS = 500


def outcome(seed: int) -> str:
    """Return what becomes of the network of a seed; one that is wrong, or raises what it should not, with its seed."""
    try:
        return check(seed)
    except Exception as error:  # noqa: BLE001 - a network that fails is a result
        return f"wrong: seed {seed}, {type(error).__name__}: {str(error).splitlines()[0][:120]}"


def main() -> None:
    """Write ``benchmarks/results/fuzz.csv``."""
    counts = Counter(outcome(seed) for seed in tqdm(range(NB_SEEDS), unit="network"))
    with write_whole(RESULTS) as file:
        file.write(
            f"# python -m benchmarks.fuzz; seeds 0 to {NB_SEEDS - 1}, float64, lams 0, 0.3 and 1, two steps; "
            f"torch {version('torch')}\n"
        )
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("outcome", "networks"), *counts.most_common()])
    print(f"{counts['right']} of {NB_SEEDS} right, see {RESULTS}")


if __name__ == "__main__":
    main()
