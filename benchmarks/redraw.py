"""Draw pictures of ``docs`` and ``results`` anew from the tables that are kept, without measuring again.

python -m benchmarks.redraw                  # all of them
python -m benchmarks.redraw tradeoff scale   # some, by the names of their files
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from art_oat import TradeoffCurve
from art_oat.evaluation import TransferMatrix
from art_oat.experiment.pretrained import WEIGHTS_FOLDER
from art_oat.storage import read_rows, write_rows
from benchmarks import ablation, neighborhood, norms, scale_page, tradeoff, transfer
from benchmarks.tables import DOCS, RESULTS

Draw = Callable[[Path], object]


def curve(table: Path, subject: str, path: Path, seed: str = "") -> None:
    """Draw a measured trade-off; of several seeds, one."""
    rows = [row for row in read_rows(table) if row.get("seed", "") == seed]
    with tempfile.TemporaryDirectory() as scratch:
        write_rows(Path(scratch) / "curve.csv", rows)
        TradeoffCurve.from_csv(Path(scratch) / "curve.csv").plot(path, subject=subject)


def matrix(data: str, path: Path) -> None:
    """Draw what attacks at one lam leave at another."""
    TransferMatrix.from_csv(RESULTS / f"dial_{data}.csv").plot(path, subject=tradeoff.subject(data, "small"))


FIGURES: Mapping[Path, Draw] = {
    DOCS / "tradeoff.png": partial(curve, RESULTS / "demo.csv", "A small CNN on textured digits", seed="0"),
    DOCS / "cifar10.png": partial(
        curve, RESULTS / "cifar10_small.csv", "WRN-10-2 on 10,000 images of CIFAR-10 (JPEG-75)"
    ),
    DOCS / "cifar10_pretrained.png": partial(
        curve, WEIGHTS_FOLDER / "cifar10" / "tradeoff.csv", "WRN-10-2 on CIFAR-10 (JPEG-75)"
    ),
    **{DOCS / f"frontiers_{data}_small.png": partial(tradeoff.draw, data, "small") for data in ("digits", "cifar10")},
    **{DOCS / f"dial_{data}.png": partial(matrix, data) for data in ("digits", "cifar10")},
    **{
        DOCS / f"norms_{data}_{network}.png": partial(norms.draw, data, network)
        for data, network in (("digits", "convnext"), ("cifar10", "convnext"), ("cifar10", "vit"))
    },
    DOCS / "ablation.png": ablation.draw,
    **{DOCS / f"neighborhood_{data}.png": partial(neighborhood.draw, data) for data in ("digits", "cifar10")},
    DOCS / "scale.png": scale_page.plot,
    **{RESULTS / f"transfer_{data}.png": partial(transfer.draw, data) for data in ("digits", "cifar10")},
}


def main(names: Sequence[str]) -> None:
    known = {path.stem: (path, draw) for path, draw in FIGURES.items()}
    if unknown := set(names) - set(known):
        raise SystemExit(f"Names must be some of {', '.join(known)}, got {', '.join(sorted(unknown))}.")
    for name in names or known:
        path, draw = known[name]
        draw(path)
        print(path.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of files, without their endings; all if none is given")
    main(parser.parse_args().names)
