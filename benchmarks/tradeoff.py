"""One network for all lams against a dedicated network for each, and against the baselines of ART.

    python -m benchmarks.tradeoff --data digits                          # 90 minutes on one core
    python -m benchmarks.tradeoff --data cifar10 --data-folder FOLDER    # 110 minutes on one core
    python -m benchmarks.tradeoff --data cifar10 --config resnet18 --data-folder FOLDER    # full size: one GPU
    python -m benchmarks.tradeoff --data digits --check                  # what docs/results.md says of the results

Every network is trained by the same function (``arms.py``) from the same initial weights, with the same optimizer,
schedule, augmentation, batch size and attack; the dedicated network of a lam is plain, and its loss is mixed at that
lam for every sample. What is trained, and every shard that is judged, is kept in --runs: the same command continues.

Judged by PGD-20 and AutoAttack (standard) at the radius of the training, after the last epoch. Differences are paired
by image; intervals are 95% bootstrap intervals over images, which leave out what another training would change.
Hypervolumes are measured from (1 / K, 0). Times are processor seconds on a CPU, as other work beside slows the clock on
the wall more, and wall seconds on a GPU or where a training was cut.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from art_oat.attacks import format_eps
from art_oat.storage import read_rows
from benchmarks.arms import arms
from benchmarks.comparison import compare, rows
from benchmarks.configs import CONFIGS, asked
from benchmarks.figures import plot, points_of
from benchmarks.frontiers import joined, summary
from benchmarks.study import Found, data_options, run
from benchmarks.tables import DOCS, RESULTS

TITLES = {"digits": "scikit-learn's digits", "cifar10": "CIFAR-10 (JPEG-75)"}


@dataclass(frozen=True)
class Claim:
    """What docs/results.md says of a result; ``figure`` is a row of the summary, of which both bounds hold."""

    figure: str
    low: float = -math.inf
    high: float = math.inf

    def is_kept(self, figures: Mapping[str, float]) -> bool:
        """Whether the figure lies within the bounds."""
        return self.low <= figures[self.figure] <= self.high


CLAIMS: Mapping[tuple[str, str], Sequence[Claim]] = {
    ("digits", "small"): (
        Claim("hypervolume ratio", low=0.98),
        Claim("ratio of training times", high=1 / 3),
        Claim("robust difference at lam 1", low=-0.02, high=0.0),
        Claim("clean difference, mean over lams", low=0.0),
    ),
    ("cifar10", "small"): (
        Claim("hypervolume ratio", low=0.9),
        Claim("ratio of training times", high=1 / 3),
        Claim("robust difference at lam 1", low=-0.03),
        Claim("clean range ratio, with lams beyond 1", low=2 / 3),
    ),
}


def check(data: str, name: str) -> bool:
    """Compare the kept summary with what docs/results.md says; say which claims hold.

    Raises:
        ValueError: If there is no result, or docs/results.md claims nothing of it.
    """
    path = RESULTS / f"tradeoff_{data}_{name}_summary.csv"
    if not path.exists() or (data, name) not in CLAIMS:
        known = ", ".join(f"--data {it[0]} --config {it[1]}" for it in CLAIMS)
        raise ValueError(f"--check needs a result that docs/results.md speaks of, {known}, got {data} and {name}.")
    figures = {row["figure"]: float(row["value"]) for row in read_rows(path)}
    for claim in CLAIMS[data, name]:
        verdict = "holds" if claim.is_kept(figures) else "FAILS"
        print(f"{verdict}: {claim.figure} in [{claim.low:.4g}, {claim.high:.4g}], measured {figures[claim.figure]:.4g}")
    return all(claim.is_kept(figures) for claim in CLAIMS[data, name])


def names_of(given: argparse.Namespace) -> Sequence[str]:
    """Return the arms that are asked for.

    Raises:
        SystemExit: If there is no such comparison or arm.
    """
    if (given.data, given.config) not in CONFIGS:
        sys.exit(f"--data and --config must be one of {', '.join(map(' '.join, CONFIGS))}.")
    config = CONFIGS[given.data, given.config]
    known = arms(config.recipe.lambdas)
    if unknown := set(given.methods or ()) - known.keys():
        sys.exit(f"--methods must be some of {', '.join(known)}, got {', '.join(sorted(unknown))}.")
    return given.methods or config.arms


def measure(given: argparse.Namespace) -> Found:
    names = names_of(given)
    if given.check:
        sys.exit(not check(given.data, given.config))
    config, name = asked(given, given.config), f"{given.data}_{given.config}"
    found = compare(config, names, given.runs / f"{given.data}-{given.config}", given.nb_workers)
    by_name = {arm.name: arm for arm in found}
    dedicated = [by_name[it] for lam in config.recipe.lambdas if (it := f"lam-{lam:g}") in by_name]
    tables = {f"tradeoff_{name}": rows(found, config)}
    if "oat" in by_name and len(dedicated) == len(config.recipe.lambdas):
        tables[f"tradeoff_{name}_summary"] = summary(by_name["oat"], joined(dedicated), 10)
    figures = {DOCS / f"frontiers_{name}.png": partial(draw, given.data, given.config)}
    return Found(tables, config.seeds, figures, is_kept=not given.methods)


def subject(data: str, name: str) -> str:
    """Say which network learned which data."""
    return f"{CONFIGS[data, name].recipe.network} on {TITLES[data]}"


def draw(data: str, name: str, path: Path) -> None:
    """Draw the frontiers of a kept table."""
    eps = format_eps(CONFIGS[data, name].recipe.method.eps)
    title = f"{subject(data, name)}, AutoAttack at eps {eps} (Linf), labels: lam; bars: one standard error"
    plot(points_of(read_rows(RESULTS / f"tradeoff_{data}_{name}.csv")), title, path)


OPTIONS = {
    **data_options("tradeoff"),
    "--config": {"choices": sorted({name for _, name in CONFIGS}), "default": "small"},
    "--methods": {"nargs": "+", "help": "train and judge these alone, of arms.py; writes no result"},
    "--nb-workers": {"type": int, "default": 1, "help": "shards to judge at once"},
    "--check": {"action": "store_true", "help": "compare the kept results with docs/results.md"},
}

if __name__ == "__main__":
    run("tradeoff", __doc__, measure, OPTIONS)
