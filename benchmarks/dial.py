"""What an attacker gains who knows the dial, and whether turning it at random is a defense.

    python -m benchmarks.dial --data digits                          # 2 minutes on one core
    python -m benchmarks.dial --data cifar10 --data-folder FOLDER    # 10 minutes on one core
    python -m benchmarks.dial --smoke                                # seconds; writes nothing

The one network of ``tradeoff.py`` (its first seed and fold; trained if --runs does not hold it) is attacked by PGD-50
at every lam and at all of them at once, and answers each result at every lam; see ``TransferMatrix``. Results go to
results/dial_DATA.csv, which keeps every answer, and docs/dial_DATA.png.
"""

import tempfile
from pathlib import Path

import numpy as np

from art_oat import TransferMatrix
from benchmarks.arguments import command, parser
from benchmarks.configs import CONFIGS, Config
from benchmarks.methods import train
from benchmarks.record import RESULTS, environment, write


def measure(config: Config, runs: Path) -> TransferMatrix:
    part = next(config.parts())
    model = train("oat", config, part, runs / part.name / "oat").model
    x, y = part.data.test
    index = config.attacked(part)
    classifier = config.recipe.classifier(model, part.data)
    return TransferMatrix.measure(classifier, x[index], y[index], eps=config.recipe.method.eps)


def summary(matrix: TransferMatrix) -> dict[str, str]:
    """What an attacker leaves, by what he knows, in percent of images; and what drawing lam brings."""
    figures = {
        "images": matrix.right.shape[-1],
        "knows lam, mean over lams": np.diag(matrix.robust).mean(),
        "does not know lam, mean over lams": matrix.robust.mean(axis=1).min(),
        "best fixed lam": matrix.worst_case.max(),
        "lam drawn for every query": matrix.random_dial,
        "gain of drawing": matrix.random_dial_gain,
        "gain of drawing s.e.": matrix.random_dial_gain_error,
        "lam drawn, asked again": matrix.random_dial_asked_again,
        "worst fixed lam": matrix.worst_case.min(),
    }
    return {name: f"{value if name == 'images' else 100 * value:.4g}" for name, value in figures.items()}


def main() -> None:
    given = parser(__doc__).parse_args()
    config = CONFIGS[given.data, "small"].in_folder(given.data_folder)
    if given.smoke:
        with tempfile.TemporaryDirectory() as scratch:
            print(measure(config.shortened(), Path(scratch)).table())
        return
    matrix = measure(config, given.runs / f"{given.data}-small")
    print(matrix.table())
    matrix.to_csv(RESULTS / f"dial_{given.data}.csv")
    made_by = environment(command("dial", given), config.seeds[:1])
    write(RESULTS / f"dial_{given.data}_summary.csv", [summary(matrix)], made_by)
    matrix.plot(Path(__file__).parents[1] / "docs" / f"dial_{given.data}.png")


if __name__ == "__main__":
    main()
