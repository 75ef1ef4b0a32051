"""What an attacker gains who knows the dial, and whether turning it at random is a defense.

    python -m benchmarks.dial --data digits                          # 2 minutes on one core
    python -m benchmarks.dial --data cifar10 --data-folder FOLDER    # 10 minutes on one core

The one network of ``tradeoff.py`` (its first seed and fold; trained if --runs does not hold it) is attacked by PGD-50
at every lam and at all of them at once, and answers each result at every lam; see ``TransferMatrix``. Results go to
results/dial_DATA.csv, which keeps every answer, and docs/dial_DATA.png.
"""

import argparse
from functools import partial

import numpy as np

from art_oat import TransferMatrix
from benchmarks.arms import one_network
from benchmarks.configs import asked
from benchmarks.study import Found, data_options, run
from benchmarks.tables import DOCS, RESULTS, Row
from benchmarks.tradeoff import subject


def summary(matrix: TransferMatrix) -> Row:
    """What an attacker leaves, by what he knows, in percent of images; and what drawing lam brings."""
    shares = {
        "knows lam, mean over lams": np.diag(matrix.robust).mean(),
        "does not know lam, mean over lams": matrix.robust.mean(axis=1).min(),
        "best fixed lam": matrix.worst_case.max(),
        "lam drawn for every query": matrix.random_dial,
        "gain of drawing": matrix.random_dial_gain,
        "gain of drawing s.e.": matrix.random_dial_gain_error,
        "lam drawn, asked again": matrix.random_dial_asked_again,
        "worst fixed lam": matrix.worst_case.min(),
    }
    return {"images": matrix.nb_images, **{name: f"{100 * share:.4g}" for name, share in shares.items()}}


def measure(given: argparse.Namespace) -> Found:
    config = asked(given)
    part, classifier = one_network(config, given.runs / f"{given.data}-small")
    x, y = (values[config.attacked(part)] for values in part.data.test)
    matrix = TransferMatrix.measure(classifier, x, y, eps=config.recipe.method.eps)
    print(matrix.table())
    draw = partial(matrix.plot, subject=subject(given.data, "small"))
    files = {RESULTS / f"dial_{given.data}.csv": matrix.to_csv, DOCS / f"dial_{given.data}.png": draw}
    return Found({f"dial_{given.data}_summary": [summary(matrix)]}, config.seeds[:1], files)


if __name__ == "__main__":
    run("dial", __doc__, measure, data_options("tradeoff"))
