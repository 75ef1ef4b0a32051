"""Is the robust loss flatter around weights that were trained with AWP, and at which lam?

    python -m benchmarks.flatness        # 5 minutes of one core

The small CNN of ``ablation.py`` on digits, by the same recipe (PGD-7, eps 0.2) but for its epochs, 24, without AWP and
with it; seeds 0 to 2, each with its own split, both arms of a seed from the same start. Judged on the same 100 test
images of each seed, at lam 0, 0.2 and 1, see ``art_oat.evaluation.Flatness``; the same random directions for both arms.

A row is an arm at a lam: means over seeds, and differences to "none" paired by seed with a 95% t interval over the
seeds (two degrees of freedom). Rows of every seed are in results/flatness_digits_seeds.csv. How far weights are moved
was looked at with seed 100 and fixed before the seeds above were run.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from art_oat.evaluation import Displacements, EvaluationOptions, Flatness
from art_oat.evaluation.point_flatness import PointFlatness, t_margin
from benchmarks import ablation
from benchmarks.arms import train
from benchmarks.configs import Config, Part
from benchmarks.flatness_figure import plot
from benchmarks.study import Found, kept, run
from benchmarks.tables import DOCS, Row

ARMS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "AWP": {"weight_perturbation": 0.01},
}
SEEDS = (0, 1, 2)
LAMBDAS = (0.0, 0.2, 1.0)
NB_EPOCHS = 24
MOVES = Displacements(
    0.25,
    0.01,  # as far as AWP moves them
    nb_directions=6,
    nb_restarts=1,
    distances=(-0.5, -0.3, -0.15, 0.0, 0.15, 0.3, 0.5),
    nb_attack_steps=10,
)
NB_IMAGES = 100
FIGURES = ("loss", "average", "worst")
Measured = Mapping[str, Sequence[Flatness]]
"""By arm, of every seed."""


def config_of(seeds: Sequence[int]) -> Config:
    """Return what is trained: the recipe of ``ablation.py``, each seed with one split."""
    base = ablation.CONFIGS["digits"]
    recipe = base.recipe.changed(nb_epochs=NB_EPOCHS)
    changes = {"variants": ARMS, "seeds": tuple(seeds), "nb_robust": NB_IMAGES}
    return replace(base, recipe=recipe, nb_folds=None, nb_held_out=0, **changes)


def measured(name: str, config: Config, part: Part, runs: Path, moves: Displacements) -> Flatness:
    """Train an arm on a part and measure it; what is kept of either is not done again."""
    folder, eps = runs / part.name / name, config.recipe.method.eps

    def points() -> list[dict[str, Any]]:
        model = train(name, config, part, folder).model
        classifier = config.recipe.classifier(model, part.data.input_shape, part.data.nb_classes)
        x, y = (values[config.attacked(part)] for values in part.data.test)
        options = EvaluationOptions(shard_size=500, verbose=False)
        found = Flatness.measure(classifier, x, y, eps=eps, lambdas=LAMBDAS, displacements=moves, options=options)
        return [{key: np.asarray(value).tolist() for key, value in vars(it).items()} for it in found.points]

    nb_images = len(config.attacked(part))
    settings = {"eps": eps, "nb_epochs": config.recipe.nb_epochs, "nb_images": nb_images, **asdict(moves)}
    rows = kept(folder / "flatness.json", settings, points)
    arrays = ({key: np.array(it) if isinstance(it, list) else it for key, it in row.items()} for row in rows)
    found = Flatness(tuple(PointFlatness(**it) for it in arrays), eps, config.recipe.method.norm, moves, nb_images)
    print(f"{part.name}, {name}\n{found}\n", flush=True)
    return found


def summary(found: Measured) -> list[Row]:
    """Return a row per arm and lam: means over seeds, and differences to "none"."""
    rows: list[Row] = []
    for name, of_seeds in found.items():
        for lam in LAMBDAS:
            row: Row = {"arm": name, "lam": f"{lam:g}"}
            for figure in FIGURES:
                own, base = (np.array([getattr(it.at(lam), figure) for it in found[arm]]) for arm in (name, "none"))
                row[figure] = f"{own.mean():.4f}"
                if name != "none":
                    row |= _difference(figure, own - base)
            rows.append(row | {"seeds counted": len(of_seeds)})
    return rows


def _difference(figure: str, values: Any) -> Row:
    margin = t_margin(values) if len(values) > 1 else float("inf")
    ends = {"": 0.0, " low": -margin, " high": margin}
    return {f"{figure} difference{name}": f"{values.mean() + end:+.4f}" for name, end in ends.items()}


def measure(given: argparse.Namespace) -> Found:
    config, moves = config_of(given.seeds), MOVES
    if given.smoke:
        config = config.shortened()
        moves = Displacements(nb_directions=2, nb_restarts=1, nb_steps=1, distances=(0.0, 0.5), nb_attack_steps=1)
    parts = list(config.parts())
    found = {name: [measured(name, config, part, given.runs, moves) for part in parts] for name in ARMS}
    every = [
        {"arm": name, "seed": part.seed, **row}
        for name, of_seeds in found.items()
        for part, it in zip(parts, of_seeds, strict=True)
        for row in it.rows()
    ]
    figures = {DOCS / "flatness.png": partial(plot, found, LAMBDAS)}
    tables = {"flatness_digits": summary(found), "flatness_digits_seeds": every}
    return Found(tables, config.seeds, figures, is_kept=tuple(given.seeds) == SEEDS)


OPTIONS = {
    "--runs": {"type": Path, "default": Path("runs") / "flatness", "help": "keeps what is trained"},
    "--seeds": {"nargs": "+", "type": int, "default": SEEDS, "help": "others write no result"},
}

if __name__ == "__main__":
    run("flatness", __doc__, measure, OPTIONS)
