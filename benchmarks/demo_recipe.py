"""Why the demo trains as it does: its recipe against single changes of it, on validation data.

    python benchmarks/demo_recipe.py            # about 10 minutes on two cores; writes results/demo_recipe.csv
    python benchmarks/demo_recipe.py --smoke    # one epoch, one seed; writes nothing

Every variant is trained on the seeds listed below, each with a split of its own; the figures are clean and PGD-50
accuracy on the 135 validation images, averaged over the lams named in the column. Test images are not looked at.
"""

import argparse
import csv
import dataclasses
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from art_oat import TradeoffCurve
from art_oat.demo import RECIPE
from art_oat.files import write_whole
from art_oat.recipe import Recipe, train

RESULTS = Path(__file__).parent / "results" / "demo_recipe.csv"
SEEDS = (0, 1, 2)
VARIANTS = {
    "recipe": RECIPE,
    "published attack step": dataclasses.replace(RECIPE, eps_step=None),
    "uniform lams": dataclasses.replace(RECIPE, weight_of_one=1.0),
    "weight decay 5e-4": dataclasses.replace(RECIPE, weight_decay=5e-4),
    "half the epochs": dataclasses.replace(RECIPE, nb_epochs=RECIPE.nb_epochs // 2),
}


def measure(recipe: Recipe) -> dict[str, float]:
    data = recipe.dataset()
    started = time.perf_counter()
    classifier = train(recipe, data, keeps_best=False, verbose=False)
    seconds = time.perf_counter() - started
    curve = TradeoffCurve.measure(classifier, *data.validation, eps=recipe.eps, attack="pgd-50", verbose=False)
    accurate, *others = curve.points
    return {
        "clean@0": accurate.clean,
        "robust@0": accurate.robust,
        "clean@0.1..1": float(np.mean([point.clean for point in others])),
        "robust@0.1..1": float(np.mean([point.robust for point in others])),
        "seconds": round(seconds, 1),
    }


def rows(seeds: tuple[int, ...], is_smoke: bool) -> Iterator[dict[str, object]]:
    for name, variant in VARIANTS.items():
        for seed in seeds:
            recipe = dataclasses.replace(variant, seed=seed, **({"nb_epochs": 1} if is_smoke else {}))
            row = {"variant": name, "seed": seed, **measure(recipe)}
            print(row, flush=True)
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one epoch, one seed, nothing written")
    is_smoke = parser.parse_args().smoke
    measured = list(rows(SEEDS[:1] if is_smoke else SEEDS, is_smoke))
    for name in VARIANTS:
        robust = [row["robust@0.1..1"] for row in measured if row["variant"] == name]
        print(f"{name:>24}: robust at lam >= 0.1 {np.mean(robust):.3f} over {len(robust)} seeds")
    if is_smoke:
        return
    environment = {
        "command": "python benchmarks/demo_recipe.py",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    with write_whole(RESULTS) as file:
        writer = csv.DictWriter(file, [*measured[0], *environment], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **environment} for row in measured)


if __name__ == "__main__":
    main()
