"""Why the demo trains as it does: its recipe against single changes of it, on validation data.

    python -m benchmarks.demo_recipe            # about 6 minutes on one core; writes results/demo_recipe.csv
    python -m benchmarks.demo_recipe --smoke    # one epoch, few images; writes nothing

Every variant is trained on the seeds listed below, each with a split of its own. One seed cannot tell variants apart
that differ by less than about 2 points of clean accuracy or 6 of robust. A row holds the clean accuracy on all
540 validation images and the robust one on 200 of them, at one lam. The attack is AutoAttack without
FAB and its square attack: in the demo, on seeds 0 to 2, these two broke one of 3,000 answers that the others had left.
Test images are not looked at.
"""

import argparse
from collections.abc import Iterable, Mapping
from time import process_time

import numpy as np

from art_oat import StratifiedSampling, TradeoffCurve
from art_oat.evaluation import EvaluationOptions
from art_oat.experiment.build import train
from art_oat.experiment.demo import RECIPE
from art_oat.experiment.recipe import Recipe
from benchmarks.record import RESULTS, environment, text, write

SEEDS = (0,)
NB_ROBUST = 200
VARIANTS: Mapping[str, Recipe] = {
    "recipe": RECIPE,
    "eps 0.15": RECIPE.changed(eps=0.15),
    "uniform lams": RECIPE.changed(sampling=StratifiedSampling()),
    "clean epochs first": RECIPE.changed(nb_epochs=14, clean_share=0.2),
}


def rows_of(name: str, recipe: Recipe, *, nb_robust: int) -> list[dict[str, object]]:
    """Train a variant and return a row per lam."""
    data = recipe.dataset()
    started = process_time()
    classifier = train(recipe, data, keeps_best=False, verbose=False)
    seconds = process_time() - started
    curve = TradeoffCurve.measure(
        classifier,
        *data.validation,
        eps=recipe.method.eps,
        attack="screen",
        options=EvaluationOptions(nb_robust=nb_robust, verbose=False),
    )
    made_by = {"variant": name, "seed": recipe.seed, "eps": f"{recipe.method.eps:.4f}", "seconds": f"{seconds:.0f}"}
    return [
        {**made_by, "lam": point.lam, "clean": f"{point.clean:.4f}", "robust": f"{point.robust:.4f}"}
        for point in curve.points
    ]


def means(rows: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return clean and robust accuracy of every variant and lam, over the seeds."""
    found: dict[tuple[object, object], list[list[float]]] = {}
    for row in rows:
        pair = [float(str(row[name])) for name in ("clean", "robust")]
        found.setdefault((row["variant"], row["lam"]), []).append(pair)
    return [
        {
            "variant": variant,
            "lam": lam,
            **dict(zip(("clean", "robust"), np.round(np.mean(pairs, axis=0), 3), strict=True)),
        }
        for (variant, lam), pairs in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one epoch, few images; nothing written")
    is_smoke = parser.parse_args().smoke
    changes = {"nb_epochs": 1, "nb_train": 100} if is_smoke else {}
    rows = []
    for name, variant in VARIANTS.items():
        for seed in SEEDS:
            recipe = variant.changed(seed=seed, **changes)  # type: ignore[arg-type]
            rows += rows_of(name, recipe, nb_robust=4 if is_smoke else NB_ROBUST)
            print(text(rows[-len(recipe.lambdas) :]), flush=True)
    print(text(means(rows)))
    if not is_smoke:
        write(RESULTS / "demo_recipe.csv", rows, environment("python -m benchmarks.demo_recipe", SEEDS))


if __name__ == "__main__":
    main()
