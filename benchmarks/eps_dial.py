"""What lam should set: the weight of the adversarial loss, or the radius of the attack, at equal cost.

    python -m benchmarks.eps_dial --data digits                          # an hour on one core
    python -m benchmarks.eps_dial --data cifar10 --data-folder FOLDER    # 90 minutes on one core

Two networks per seed and fold, alike but for ``Method(dials=...)``: the same epochs, lams, attack steps and start. Both
are judged at lam 0, 0.1, 0.3 and 1, within a quarter, a half and all of the largest radius they are trained for: by
AutoAttack on 40 images of every fold, on CIFAR-10 by its APGD-CE and APGD-T on 100 of every seed. (All of AutoAttack
took 20 minutes for each network and radius there; of the weight dial of seed 0, within 2/255, FAB and Square broke
none of the 181 answers at four lams that these two had left.)

Beside the accuracies stand the areas that each dial covers (hypervolume), and their differences with 95% bootstrap
intervals, paired by image over all seeds. Results go to results/eps_dial_DATA.csv and eps_dial_DATA_summary.csv.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from art_oat.evaluation import ThreatModel
from benchmarks.arms import train
from benchmarks.configs import Part, asked
from benchmarks.dials import Judgment, Right
from benchmarks.study import Found, data_options, run

SHARES = (0.25, 0.5, 1.0)
"""Of the largest radius of the training."""

DIALS = ("weight", "eps")
JUDGED = (0.0, 0.1, 0.3, 1.0)
JUDGES = {"digits": ("autoattack", 40), "cifar10": ("screen", 100)}
"""By what, and on how many images."""


def measure(given: argparse.Namespace) -> Found:
    variants = {dials: {"dials": dials} for dials in DIALS}
    config = replace(asked(given), variants=variants, lambdas=JUDGED, beyond=())
    judge, nb_robust = JUDGES[given.data]
    config = config if given.smoke else replace(config, judges=(judge,), nb_robust=nb_robust)
    balls = [ThreatModel(share * config.recipe.method.eps) for share in SHARES]
    nb_resamples = 20 if given.smoke else 1000
    judgment = Judgment(config, list(config.parts()), balls, nb_resamples=nb_resamples)

    def right(dials: str) -> Right:
        def folder(part: Part) -> Path:
            return given.runs / f"{given.data}-{part.name}-{dials}"

        return judgment.right((train(dials, config, part, folder(part)).model, folder(part)) for part in judgment.parts)

    by_dial = {dials: right(dials) for dials in DIALS}
    tables = {
        f"eps_dial_{given.data}": [row for dials, found in by_dial.items() for row in judgment.rows(dials, found)],
        f"eps_dial_{given.data}_summary": judgment.summary(by_dial, "eps"),
    }
    return Found(tables, config.seeds)


if __name__ == "__main__":
    run("eps_dial", __doc__, measure, data_options("eps-dial"))
