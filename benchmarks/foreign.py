"""Train every network of ``tests/foreign.py`` for two steps in every dtype and layout: which convert and train?

Run from the checkout: ``python -m benchmarks.foreign`` (10 to 20 minutes on two cores). Seed 0, no downloads.
"""

from __future__ import annotations

import csv
import itertools
import tempfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

from joblib import Parallel, delayed
from tqdm import tqdm

from art_oat.storage import write_whole
from tests.foreign import DTYPES, LAYOUTS, QUICK, SLOW, Foreign, train, untrainable_layers

RESULTS = Path(__file__).parent / "results" / "foreign.csv"
RIGHT = "trains"
REFUSED = "refused, as torch would train it wrong"


def measure(foreign: Foreign, dtype: str, layout: str) -> dict[str, object]:
    """Return one row of the table."""
    row = {"network": foreign.name, "source": foreign.source, "dtype": dtype, "layout": layout}
    try:
        with tempfile.TemporaryDirectory() as folder:
            trained = train(foreign, DTYPES[dtype], LAYOUTS[layout], Path(folder))
    except Exception as error:  # noqa: BLE001 - a network that fails is a result
        return row | {"verdict": _verdict(error, foreign, dtype, layout)}
    return row | {
        "verdict": "; ".join(trained.faults(foreign.exact(dtype))) or RIGHT,
        "norms": trained.nb_norms,
        "parameters": trained.nb_plain,
        "difference": f"{max(trained.pinned, trained.folded, trained.loaded):.1e}",
        "seconds": f"{trained.seconds / 2:.3f}",
    }


def _verdict(error: Exception, foreign: Foreign, dtype: str, layout: str) -> str:
    paths = untrainable_layers(foreign.build(DTYPES[dtype], LAYOUTS[layout]), DTYPES[dtype], LAYOUTS[layout])
    if paths and all(path in str(error) for path in ("channels last", *paths)):
        return REFUSED
    return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"


def nb_right(rows: list[dict[str, object]]) -> tuple[int, int]:
    """Count the networks that train wherever torch can train them, and all networks."""
    verdicts = defaultdict(list)
    for row in rows:
        verdicts[row["source"], row["network"]].append(row["verdict"])
    right = [set(found) <= {RIGHT, REFUSED} and RIGHT in found for found in verdicts.values()]
    return sum(right), len(right)


def main() -> None:
    """Write ``benchmarks/results/foreign.csv``."""
    cases = [(foreign, *rest) for foreign in (*QUICK, *SLOW) for rest in itertools.product(DTYPES, LAYOUTS)]
    found = Parallel(n_jobs=-1, return_as="generator")(delayed(measure)(*case) for case in cases)
    rows = list(tqdm(found, total=len(cases), unit="training"))
    sources = ("torch", "torchvision", "timm", "transformers", "pytorchcv")
    with write_whole(RESULTS) as file:
        file.write(
            "# python -m benchmarks.foreign; seed 0, default conversion at lams 0, 0.3 and 1, two steps on 12 images "
            "by PGD-2; largest difference of pinned, folded and loaded from the conditional network relative to the "
            "largest answer, seconds of a step on a processor beside other work; "
            f"{', '.join(f'{name} {version(name)}' for name in sources)}\n"
        )
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("{} of {} convert and train, see {}".format(*nb_right(rows), RESULTS))


if __name__ == "__main__":
    main()
