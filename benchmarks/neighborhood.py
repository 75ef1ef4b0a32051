"""What does each part of related papers add to once-for-all adversarial training? One table, all else being equal.

    python -m benchmarks.neighborhood --data digits                          # hours on one core
    python -m benchmarks.neighborhood --data cifar10 --data-folder FOLDER    # likewise

"oat" is the base of ``ablation.py``, with its data, start, epochs and schedule; a neighbor changes what its line in
``neighbors`` says, and nothing else. Judged after the last epoch at lam 0, 0.2 and 1: clean on all test images,
AutoAttack (standard) on some. Gains are in points over "oat", paired by image, with 95% bootstrap intervals over
images, which leave out what another training would change. The hypervolume is measured from (1 / K, 0). Seconds are
processor seconds of one thread, without what is trained beforehand; "lines" are those of the part's own code, 0 for
what the library has.

A part is judged by its rival, which costs the same without it: the verdict is that of the interval of the ratio of
hypervolumes, "better" or "worse" where it leaves 1 out. Seeds come one after the other: what is worse on the first (on
digits three folds) is not trained with the others unless it is a rival, and "nb_seeds" says how many a row has.

What is finished is kept in --runs: the same command continues, and several may go side by side, each with its own
``--neighbors``; each replaces its own rows of the table. ``--lambdas`` judges at others, trained or not, in a table of
its own.
"""

import argparse
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from art_oat import OATModel
from art_oat.data import Dataset
from art_oat.experiment.recipe import Recipe
from art_oat.storage import read_rows
from art_oat.training import Validation
from art_oat.training.guard import NB_HELD_OUT
from benchmarks import ablation
from benchmarks.arms import natural_weights
from benchmarks.comparison import joint, judge
from benchmarks.configs import Config, Part
from benchmarks.figures import plot_parts
from benchmarks.frontiers import Arm, Shares, accuracies, area, ratio, resampled
from benchmarks.neighbors import (
    codes,
    conversion,
    coresets,
    latent,
    one_step,
    recipes,
    regional,
    reweighting,
    self_training,
    weight_noise,
)
from benchmarks.neighbors.neighbor import BASE, Neighbor
from benchmarks.study import Found, data_options, kept, run
from benchmarks.tables import DOCS, RESULTS, Row, commit, text

JUDGED = ablation.LAMBDAS
WORSE = "worse"
RATIO = "hypervolume, ratio to the rival"
SEEDS = (0, 1, 2)
NEIGHBORS: Mapping[str, Neighbor] = {
    BASE: Neighbor("PGD-7, the hybrid loss, six lams, one-hot codes, linear FiLM"),
    **codes.NEIGHBORS,
    **conversion.NEIGHBORS,
    **regional.NEIGHBORS,
    **reweighting.NEIGHBORS,
    **coresets.NEIGHBORS,
    **self_training.NEIGHBORS,
    **latent.NEIGHBORS,
    **weight_noise.NEIGHBORS,
    **one_step.NEIGHBORS,
    **recipes.NEIGHBORS,
}
"""By name; another part is one more file, and one more line here."""
RIVALS = {part.rival for part in NEIGHBORS.values()}


def train(neighbor: Neighbor, recipe: Recipe, data: Dataset) -> tuple[OATModel, float]:
    """Train by a recipe that has the changes of a part, and return the network, and the processor seconds it took."""
    trainer = neighbor.trainer(recipe, data)
    started = time.process_time()
    samples = data if neighbor.prepare is None else neighbor.prepare(trainer, data, recipe)
    given, sizes = (
        (samples.train, {"batch_size": recipe.batch_size}) if isinstance(samples, Dataset) else ((samples,), {})
    )
    held_out = (it[:NB_HELD_OUT] for it in data.validation)
    guarded = None if recipe.method.fallback is None else Validation(*held_out, interval=recipe.nb_epochs)
    options = {"scheduler": recipe.scheduler(), "validation_data": guarded, "verbose": False}
    trainer.fit(*given, nb_epochs=recipe.nb_epochs, **sizes, **options)
    return trainer.get_classifier().model, time.process_time() - started


def found_of(name: str, config: Config, part: Part, runs: Path) -> dict[str, Any]:
    """Train and judge on a part, or return what a folder holds of it: which answers are right, as digits per lam."""
    folder = runs / part.name / re.sub("[^a-z0-9.]+", "-", name.lower())
    recipe = NEIGHBORS[name].changed(config.recipe, seed=part.seed)
    own_names = {"data_folder": None, "pretrained": NEIGHBORS[name].recipe.get("pretrained")}  # no paths
    settings = recipe.as_values() | own_names | {"name": name, "judged at": config.lambdas}
    path = folder / "-".join(["answers", *map(str, config.lambdas or ())])

    def make() -> dict[str, Any]:
        own = recipe
        if recipe.pretrained is not None:
            own = recipe.changed(pretrained=str(natural_weights(config, part, runs / part.name / "lam-0")))
        model, seconds = train(NEIGHBORS[name], own, part.data)
        clean, (robust,) = judge(model, config, part, path)
        print(f"{name}, {part.name}: {seconds:.0f} s", flush=True)
        answers = {"clean": clean.astype(int).tolist(), "robust": robust.astype(int).tolist()}
        size = sum(parameter.numel() for parameter in model.parameters())
        return answers | {"seconds": seconds, "parameters": size, "commit": commit(Path(__file__).parent)}

    found: dict[str, Any] = kept(folder / f"{path.name}.json", settings, make)
    return found


def arm(name: str, config: Config, runs: Path) -> Arm:
    """Return a neighbor on all seeds and folds; ``nb_bytes`` are those of its parameters."""
    parts = list(config.parts())
    every = [found_of(name, config, part, runs) for part in parts]
    answers = [(np.array(found["clean"], float), np.array([found["robust"]], float)) for found in every]
    right = joint(config, parts, answers)
    seconds = sum(found["seconds"] for found in every) / len(every)
    commits = "/".join(dict.fromkeys(found["commit"] for found in every))
    return Arm(name, config.lambdas or (), right, seconds, "processor", 4 * every[0]["parameters"], commits)


def found_by_seeds(name: str, seeds: tuple[int, ...], judged: Callable[[str, tuple[int, ...]], Arm]) -> Row:
    """Judge a neighbor on the first seed, and on all of them unless it is worse there, and no rival of another."""
    for some in dict.fromkeys((seeds[:1], seeds)):
        row = row_of(*(judged(it, some) for it in (name, BASE, NEIGHBORS[name].rival))) | {"nb_seeds": len(some)}
        if row["verdict"] == WORSE and name not in RIVALS:
            break
    return row


def row_of(own: Arm, base: Arm, rival: Arm) -> Row:
    """Return what a neighbor gains over the base, and over its rival, and what it costs."""
    part, lambdas = NEIGHBORS[own.name], own.lambdas
    row: Row = {"part": own.name, "what": part.what, "source": part.source}
    shares, _ = accuracies(own)

    for place, (index, lam) in product((0, 1), enumerate(lambdas)):
        name = f"{('clean', 'AutoAttack')[place]} at {lam:g}"

        def gain(ours: Shares, theirs: Shares, place: int = place, index: int = index) -> float:
            return float(100 * (ours[place, index] - theirs[place, index]))

        row[name] = f"{100 * shares[place, index]:.1f}"
        row |= _with_interval(f"{name}, gain", resampled(own, base, gain), "+.1f")
    areas = resampled(own, rival, lambda ours, theirs: ratio(area(ours, lambdas), area(theirs, lambdas)))
    row |= {"hypervolume": f"{area(shares, lambdas):.4f}", "rival": rival.name}
    row |= _with_interval(RATIO, areas, ".3f")
    row |= {"seconds": f"{own.seconds:.1f}", "seconds, ratio": f"{own.seconds / base.seconds:.2f}"}
    row |= {"parameters": own.nb_bytes // 4, "lines": part.nb_lines, "verdict": verdict(areas)}
    return row | {"trained at": own.commits}


def _with_interval(name: str, found: Mapping[str, str], form: str) -> Row:
    value, low, high = (format(float(found[key]), form) for key in ("value", "low", "high"))
    return {name: value, f"{name}, 95%": f"{low} to {high}"}


def verdict(ratio: Mapping[str, str]) -> str:
    """Return what the interval of a ratio of hypervolumes says."""
    if float(ratio["low"]) > 1:
        return "better"
    return WORSE if float(ratio["high"]) < 1 else "no difference shown"


def measure(given: argparse.Namespace) -> Found:
    config = replace(ablation.CONFIGS[given.data].in_folder(given.data_folder), variants={}, seeds=tuple(given.seeds))
    config = replace(config.shortened() if given.smoke else config, lambdas=tuple(given.lambdas or JUDGED))
    config = replace(config, judges=config.judges[-1:])
    rows = []

    @cache
    def judged(name: str, seeds: tuple[int, ...]) -> Arm:
        return arm(name, replace(config, seeds=seeds), given.runs / given.data)

    for name in [BASE, *(name for name in given.neighbors or NEIGHBORS if name != BASE)]:
        rows.append(found_by_seeds(name, config.seeds, judged))
        print(text(rows[-1:]), flush=True)
    table = f"neighborhood_{given.data}" + "_lams" * bool(given.lambdas)
    figures = {} if given.lambdas else {DOCS / f"neighborhood_{given.data}.png": partial(draw, given.data)}
    return Found({table: rows}, config.seeds, figures, key=("part",))


def draw(data: str, path: Path) -> None:
    """Draw what is kept, the base but as a line: what the rest gains or loses over its rival, and over the base."""
    panels = {
        RATIO: ("hypervolume,\ntimes that of the rival", 1.0),
        "AutoAttack at 1, gain": ("AutoAttack at lam 1,\npoints over oat", 0.0),
        "clean at 0, gain": ("clean at lam 0,\npoints over oat", 0.0),
    }
    kept = {row["part"]: row for row in read_rows(RESULTS / f"neighborhood_{data}.csv")}
    rows = [kept[name] for name in NEIGHBORS if name in kept and name != BASE]
    plot_parts(rows, BASE, panels, f"Parts of related papers, {ablation.TITLES[data]}; bars: 95% over images", path)


OPTIONS = {
    **data_options("neighborhood"),
    "--neighbors": {"nargs": "+", "choices": NEIGHBORS, "help": "these alone, beside the base"},
    "--seeds": {"nargs": "+", "type": int, "default": SEEDS},
    "--lambdas": {"nargs": "+", "type": float, "help": "judge at these; writes a table of its own"},
}

if __name__ == "__main__":
    run("neighborhood", __doc__, measure, OPTIONS)
