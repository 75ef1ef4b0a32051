"""What of a layer norm should depend on lam: its weights, the table of FiLM, or both; on a small ConvNeXt and ViT.

    python -m benchmarks.norms --data digits                         # an hour on one core
    python -m benchmarks.norms --data cifar10 --data-folder FOLDER   # an hour on one core

"dropout" and "matched dropout" (``--dropout``; digits, ConvNeXt alone) drop a tenth of the values and branches; if
matched, clean and attacked pass of a step draw alike. The ViT on CIFAR-10 is compared with dedicated networks alone.

"both" is the one network as ``to_conditional`` makes it: two sets of weights per norm, and FiLM. "table" has one set
of weights, "two weights" no FiLM. "lam-0" and "lam-1" are dedicated networks, plain, with the same optimizer, schedule
and batches, and as many epochs as the one network.

Judged after the last epoch at all three lams: clean on all test images, AutoAttack (standard) on some. Differences to
"both" are paired by image, means over the lams, with 95% bootstrap intervals over images, which leave out what another
training would change.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from art_oat import StratifiedSampling
from art_oat.attacks import format_eps
from art_oat.experiment.recipe import Recipe
from art_oat.models import ConvNeXt
from art_oat.storage import read_rows
from art_oat.training import Method
from benchmarks.comparison import compare
from benchmarks.configs import Config
from benchmarks.figures import plot, points_of
from benchmarks.frontiers import Arm, accuracies, area, at, resampled
from benchmarks.study import Found, data_options, run
from benchmarks.tables import DOCS, RESULTS, Row
from benchmarks.tradeoff import TITLES

LAMBDAS = (0.0, 0.2, 1.0)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "both": {},
    "table": {"statistics": "single"},
    "two weights": {"film": None},
}
DROPPING: Mapping[str, Mapping[str, Any]] = {
    "dropout": {"network": "benchmarks.norms:dropping"},
    "matched dropout": {"network": "benchmarks.norms:dropping", "matches_dropout": True},
}
DEDICATED = ("lam-0", "lam-1")
METHOD = Method(sampling=StratifiedSampling({1.0: 2.0}), clean_share=0.25, clip_grad_norm=1.0)
"""Lam 1 is drawn twice as often as the other lam above 0; a quarter of the epochs are clean, for every network."""

_RECIPE = Recipe(
    data="digits",
    lambdas=LAMBDAS,
    method=METHOD,
    optimizer="adamw",
    learning_rate=2e-3,
    schedule="cosine",
    lr_warmup=0.1,
    batch_size=64,
)
_DIGITS = _RECIPE.changed(nb_epochs=20, eps=0.2, eps_step=0.05)
_CIFAR10 = _RECIPE.changed(data="cifar10", nb_train=2000, nb_epochs=15)
NETWORKS = {
    data: {name.partition("-")[0]: recipe.changed(network=name) for name in ("convnext-16-32-64", "vit-64-4")}
    for data, recipe in (("digits", _DIGITS), ("cifar10", _CIFAR10))
}
"""The learning rate was looked at with seed 100 on validation images, once for each, and not tuned further."""


def dropping(in_channels: int, nb_classes: int) -> ConvNeXt:
    """Return the ConvNeXt with dropout and stochastic depth."""
    sizes = {"in_channels": in_channels, "nb_classes": nb_classes, "patch_size": 1}
    return ConvNeXt((2, 2, 2), (16, 32, 64), dropout=0.1, drop_path=0.1, **sizes)


def config_of(recipe: Recipe, seeds: Sequence[int]) -> Config:
    """Return what is compared of one network."""
    return Config(
        recipe,
        nb_epochs_dedicated=recipe.nb_epochs,
        seeds=tuple(seeds),
        nb_robust=50 if recipe.network.startswith("vit") else 100,  # attention is dear to attack
        judges=("autoattack",),
        variants={**VARIANTS, **DROPPING},
    )


def arms_of(data: str, network: str, *, has_dropout: bool) -> tuple[str, ...]:
    """Return what is compared there: all of it takes long."""
    if (data, network) == ("cifar10", "vit"):
        return ("both", *DEDICATED)
    is_dropping = has_dropout and (data, network) == ("digits", "convnext")
    return (*VARIANTS, *DEDICATED, *(DROPPING if is_dropping else ()))


def rows(network: str, found: Sequence[Arm]) -> list[Row]:
    """Return a row per arm and lam: accuracies in percent, and differences to "both" in points."""
    by_name, result = {arm.name: arm for arm in found}, []
    for arm in found:
        shares, errors = accuracies(arm)
        base = at(by_name["both"], arm.lambdas)
        overall = {
            f"{what} difference": resampled(
                arm, base, lambda a, b, place=place: 100 * float((a[place] - b[place]).mean())
            )
            for what, place in (("clean", 0), ("robust", -1))
        }
        for place, lam in enumerate(arm.lambdas):
            row: Row = {"network": network, "arm": arm.name, "lam": f"{lam:g}"}
            for what, judge in (("clean", 0), ("autoattack", -1)):
                row[what] = f"{100 * shares[judge, place]:.1f}"
                row[f"{what} s.e."] = f"{100 * errors[judge, place]:.1f}"
            row["hypervolume"] = f"{area(shares, arm.lambdas):.4f}" if len(arm.lambdas) > 1 else ""
            for name, found_difference in overall.items():
                row |= {f"{name} {key}".removesuffix(" value"): value for key, value in found_difference.items()}
            row |= {"seconds": f"{arm.seconds:.0f}", "clock": arm.clock, "bytes": arm.nb_bytes}
            result.append(row | {"trained at": arm.commits})
    return result


def draw(data: str, network: str, path: Path) -> None:
    """Draw the frontiers of a network in a kept table."""
    recipe = NETWORKS[data][network]
    rows = [row for row in read_rows(RESULTS / f"norms_{data}.csv") if row["network"] == network]
    eps = format_eps(recipe.method.eps)
    title = f"{recipe.network} on {TITLES[data]}, AutoAttack at eps {eps} (Linf), labels: lam; bars: one standard error"
    plot(points_of(rows, "arm", "both"), title, path)


def measure(given: argparse.Namespace) -> Found:
    table: list[Row] = []
    figures = {}
    for name, recipe in NETWORKS[given.data].items():
        if given.networks and name not in given.networks:
            continue
        config = config_of(recipe, given.seeds).in_folder(given.data_folder)
        config = config.shortened() if given.smoke else config
        found = compare(config, arms_of(given.data, name, has_dropout=given.dropout), given.runs / given.data / name)
        table += rows(name, found)
        figures[DOCS / f"norms_{given.data}_{name}.png"] = partial(draw, given.data, name)
    return Found({f"norms_{given.data}": table}, given.seeds, figures, key=("network", "arm", "lam"))


OPTIONS = {
    **data_options("norms"),
    "--dropout": {"action": "store_true", "help": "with the two arms that drop values (digits, ConvNeXt)"},
    "--seeds": {"nargs": "+", "type": int, "default": (0, 1)},
    "--networks": {"nargs": "+", "choices": ("convnext", "vit"), "help": "these alone; rows of the other stay"},
}

if __name__ == "__main__":
    run("norms", __doc__, measure, OPTIONS)
