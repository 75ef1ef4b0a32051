"""Robustness in two norms from one network: lam 0 trains by no attack, 0.5 by one in L2, and 1 by one in Linf.

    python -m benchmarks.norm_dial --seeds 0 1    # 20 minutes on one core

Three networks per seed of the first of three folds of digits, alike but for what lam sets: by which attack a sample is
trained, or, as published, the weight of the loss under one attack, in Linf or in L2. All have the same epochs, lams,
attack steps and start. Each is judged by AutoAttack in both norms at its three lams, on 50 images a seed. Beside the
accuracies stand hypervolumes, and differences with 95% bootstrap intervals, paired by image over the seeds; "all of
them" counts answers that no attack in either norm breaks. Results go to results/norm_dial.csv and
norm_dial_summary.csv.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from art_oat import PGD, OATModel, StratifiedSampling
from art_oat.attacks import ByLam
from art_oat.evaluation import ThreatModel
from benchmarks.arms import fit
from benchmarks.configs import DIGITS
from benchmarks.dials import Judgment, Right
from benchmarks.study import Found, run

BALLS = (ThreatModel(0.2, "Linf"), ThreatModel(0.8, "L2"))
LAMBDAS = (0.0, 0.5, 1.0)
DIALS: dict[str, dict[str, str | float]] = {
    "L2, then Linf": {},
    "weight, Linf": {"eps": BALLS[0].eps, "norm": "Linf"},
    "weight, L2": {"eps": BALLS[1].eps, "norm": "L2"},
}
"""By name: what is exchanged in the recipe; nothing where lam sets the attack."""

BY_LAM = ByLam({0.5: PGD(BALLS[1].eps, norm="L2"), 1.0: PGD(BALLS[0].eps)})


def measure(given: argparse.Namespace) -> Found:
    recipe = DIGITS.recipe.changed(lambdas=LAMBDAS, nb_epochs=24, sampling=StratifiedSampling(), eps_step=None)
    config = replace(DIGITS, recipe=recipe, seeds=tuple(given.seeds), judges=("autoattack",), nb_robust=50)
    config = config.shortened() if given.smoke else config
    parts = [part for part in config.parts() if part.name.endswith("fold-0")]
    judgment = Judgment(config, parts, BALLS, in_all=True, nb_resamples=20 if given.smoke else 1000)

    def right(dial: str) -> Right:
        changes = DIALS[dial]

        def networks() -> Iterator[tuple[OATModel, Path]]:
            for part in judgment.parts:
                own = config.recipe.changed(seed=part.seed, **changes)
                model = fit(own, part.data, attack=None if changes else BY_LAM).model
                yield model, given.runs / f"{part.name}-{dial}"

        return judgment.right(networks())

    by_dial = {dial: right(dial) for dial in DIALS}
    tables = {
        "norm_dial": [row for dial, found in by_dial.items() for row in judgment.rows(dial, found)],
        "norm_dial_summary": judgment.summary(by_dial, "L2, then Linf"),
    }
    return Found(tables, config.seeds)


if __name__ == "__main__":
    runs = {"type": Path, "default": Path("runs") / "norm-dial", "help": "keeps what is finished"}
    run("norm_dial", __doc__, measure, {"--seeds": {"type": int, "nargs": "+", "default": [0, 1]}, "--runs": runs})
