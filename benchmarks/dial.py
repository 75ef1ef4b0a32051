"""What an attacker gains who knows the dial, and whether turning it at random is a defense.

    python -m benchmarks.dial --data digits                          # 2 minutes on one core
    python -m benchmarks.dial --data cifar10 --data-folder FOLDER    # 10 minutes on one core
    python -m benchmarks.dial --smoke                                # seconds; writes nothing

The one network of ``tradeoff.py`` (its first seed and fold; trained if --runs does not hold it) is attacked by PGD-50
at every lam and at all of them at once, and answers each result at every lam; see ``TransferMatrix``. Results go to
results/dial_DATA.csv, which keeps every answer, and docs/dial_DATA.png.
"""

import argparse
import tempfile
from pathlib import Path

from art_oat import TransferMatrix
from art_oat.evaluation.tradeoff import subset
from benchmarks.configs import CONFIGS, Config
from benchmarks.methods import train
from benchmarks.record import RESULTS


def measure(config: Config, runs: Path) -> TransferMatrix:
    part = next(config.parts())
    model = train("oat", config, part, runs / part.name / "oat").model
    x, y = part.data.test
    index = subset(y, config.nb_robust, 0)
    classifier = config.recipe.classifier(model, part.data)
    return TransferMatrix.measure(classifier, x[index], y[index], eps=config.recipe.eps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--data-folder", help="where CIFAR-10 lies")
    parser.add_argument("--runs", type=Path, default=Path("runs/tradeoff"), help="keeps what is trained")
    parser.add_argument("--smoke", action="store_true", help="one epoch, a few images, nothing written")
    given = parser.parse_args()
    config = CONFIGS[given.data, "small"].in_folder(given.data_folder)
    if given.smoke:
        with tempfile.TemporaryDirectory() as scratch:
            print(measure(config.shortened(), Path(scratch)).table())
        return
    matrix = measure(config, given.runs / f"{given.data}-small")
    print(matrix.table())
    matrix.to_csv(RESULTS / f"dial_{given.data}.csv")
    matrix.plot(Path(__file__).parents[1] / "docs" / f"dial_{given.data}.png")


if __name__ == "__main__":
    main()
