"""What carrying adversarial examples from lam to lam saves, and what the quick screen costs and misses.

    python -m benchmarks.judges --data digits                          # 15 minutes on one core
    python -m benchmarks.judges --data cifar10 --data-folder FOLDER    # 60 minutes on one core
    python -m benchmarks.judges --smoke                                # a minute; writes nothing

The one network of ``tradeoff.py`` (its first seed and fold; trained if --runs does not hold it) is judged at every lam
by AutoAttack (standard) and by the screen (its APGD-CE and targeted APGD-DLR), each with and without examples carried
on. Times are processor seconds of one process. Differences are from the standard one from scratch, in points.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from art_oat import TradeoffCurve
from art_oat.evaluation import EvaluationOptions
from benchmarks.arguments import command, parser
from benchmarks.configs import CONFIGS, Config
from benchmarks.methods import train
from benchmarks.record import RESULTS, environment, text, write

VARIANTS = {
    "AutoAttack, from scratch": ("autoattack", False),
    "AutoAttack, carried on": ("autoattack", True),
    "screen, from scratch": ("screen", False),
    "screen, carried on": ("screen", True),
}


def measure(config: Config, runs: Path) -> list[dict[str, object]]:
    part = next(config.parts())
    model = train("oat", config, part, runs / part.name / "oat").model
    classifier = config.recipe.classifier(model, part.data)
    curves, seconds = {}, {}
    for name, (attack, carries) in VARIANTS.items():
        started = time.process_time()
        curves[name] = TradeoffCurve.measure(
            classifier,
            *part.data.test,
            eps=config.recipe.method.eps,
            attack=attack,
            options=EvaluationOptions(shard_size=500, carries_examples=carries, nb_robust=config.nb_robust),
        )
        seconds[name] = time.process_time() - started
        print(name, round(seconds[name], 1), [point.robust for point in curves[name].points], flush=True)
    standard = curves["AutoAttack, from scratch"]
    return [
        _row(name, curve, standard, seconds[name], seconds["AutoAttack, from scratch"])
        for name, curve in curves.items()
    ]


def _row(
    name: str, curve: TradeoffCurve, standard: TradeoffCurve, seconds: float, standard_seconds: float
) -> dict[str, object]:
    robust, reference = (np.array([point.robust for point in it.points]) for it in (curve, standard))
    nb_broken = sum(int((report.is_clean & ~report.is_robust).sum()) for report in curve.reports)
    nb_carried = sum(report.nb_carried for report in curve.reports)
    return {
        "judge": name,
        "seconds": f"{seconds:.1f}",
        "ratio of times": f"{seconds / standard_seconds:.3f}",
        "broken": nb_broken,
        "broken by a carried example": nb_carried,
        "mean difference": f"{100 * (robust - reference).mean():+.2f}",
        "largest difference": f"{100 * max(robust - reference, key=abs):+.2f}",
        **{f"robust@{point.lam:g}": f"{100 * point.robust:.2f}" for point in curve.points},
        "answers": curve.points[0].nb_robust,
    }


def main() -> None:
    asking = parser(__doc__)
    asking.add_argument("--nb-robust", type=int, help="test images to attack")
    given = asking.parse_args()
    config = CONFIGS[given.data, "small"].in_folder(given.data_folder)
    if given.smoke:
        with tempfile.TemporaryDirectory() as scratch:
            print(text(measure(replace(config.shortened(), nb_robust=4), Path(scratch))))
        return
    config = replace(config, nb_robust=given.nb_robust or config.nb_robust)
    measured = measure(config, given.runs / f"{given.data}-small")
    print(text(measured))
    size = [] if given.nb_robust is None else [f"--nb-robust {given.nb_robust}"]
    made_by = environment(command("judges", given, *size), config.seeds[:1])
    write(RESULTS / f"judges_{given.data}.csv", measured, made_by)


if __name__ == "__main__":
    main()
