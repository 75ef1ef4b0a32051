"""What carrying adversarial examples from lam to lam saves, and what the quick screen costs and misses.

    python -m benchmarks.judges --data digits                          # 15 minutes on one core
    python -m benchmarks.judges --data cifar10 --data-folder FOLDER    # 60 minutes on one core

The one network of ``tradeoff.py`` (its first seed and fold; trained if --runs does not hold it) is judged at every lam
by AutoAttack (standard) and by the screen (its APGD-CE and targeted APGD-DLR), each with and without examples carried
on. Times are processor seconds of one process. Differences are from the standard one from scratch, in points.
"""

import argparse
import time
from dataclasses import replace

import numpy as np

from art_oat import TradeoffCurve
from art_oat.evaluation import EvaluationOptions
from benchmarks.arms import one_network
from benchmarks.configs import asked
from benchmarks.study import Found, data_options, run
from benchmarks.tables import Row

STANDARD = "AutoAttack, from scratch"
VARIANTS = {
    STANDARD: ("autoattack", False),
    "AutoAttack, carried on": ("autoattack", True),
    "screen, from scratch": ("screen", False),
    "screen, carried on": ("screen", True),
}


def row_of(name: str, curves: dict[str, TradeoffCurve], seconds: dict[str, float]) -> Row:
    curve = curves[name]
    robust, reference = (np.array([point.robust for point in it.points]) for it in (curve, curves[STANDARD]))
    return {
        "judge": name,
        "seconds": f"{seconds[name]:.1f}",
        "ratio of times": f"{seconds[name] / seconds[STANDARD]:.3f}",
        "broken": sum(int((report.is_clean & ~report.is_robust).sum()) for report in curve.reports),
        "broken by a carried example": sum(report.nb_carried for report in curve.reports),
        "mean difference": f"{100 * (robust - reference).mean():+.2f}",
        "largest difference": f"{100 * max(robust - reference, key=abs):+.2f}",
        **{f"robust@{point.lam:g}": f"{100 * point.robust:.2f}" for point in curve.points},
        "answers": curve.points[0].nb_robust,
    }


def measure(given: argparse.Namespace) -> Found:
    config = asked(given)
    config = replace(config, nb_robust=4 if given.smoke else given.nb_robust or config.nb_robust)
    part, classifier = one_network(config, given.runs / f"{given.data}-small")
    curves, seconds = {}, {}
    for name, (attack, carries) in VARIANTS.items():
        options = EvaluationOptions(shard_size=500, carries_examples=carries, nb_robust=config.nb_robust)
        started = time.process_time()
        curves[name] = TradeoffCurve.measure(
            classifier, *part.data.test, eps=config.recipe.method.eps, attack=attack, options=options
        )
        seconds[name] = time.process_time() - started
        print(name, round(seconds[name], 1), [point.robust for point in curves[name].points], flush=True)
    return Found({f"judges_{given.data}": [row_of(name, curves, seconds) for name in VARIANTS]}, config.seeds[:1])


OPTIONS = {**data_options("tradeoff"), "--nb-robust": {"type": int, "help": "test images to attack"}}

if __name__ == "__main__":
    run("judges", __doc__, measure, OPTIONS)
