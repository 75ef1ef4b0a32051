"""The small networks that come with the library: trained, measured and packed into ``art_oat/weights``.

    python -m benchmarks.pretrained digits                          # 5 minutes on one core
    python -m benchmarks.pretrained cifar10 --data-folder FOLDER    # an hour and a half

Trainings and measurements that were cut short go on; what is complete is reused, as by ``art-oat train`` and
``art-oat evaluate``.
"""

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from art_oat.evaluation import CardFacts, TradeoffCurve, write_card
from art_oat.experiment.demo import RECIPE
from art_oat.experiment.ledger import Ledger
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.pretrained import WEIGHTS_FOLDER
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.run import Run
from art_oat.model_files import DESCRIPTION, WEIGHTS
from art_oat.training import Method

RECIPES: Mapping[str, Recipe] = {
    "digits": replace(RECIPE, nb_epochs=30),
    "cifar10": Recipe(
        data="cifar10",
        network="wrn-10-2",
        method=Method.dial(attack="n-fgsm", fallback="pgd-7", clean_share=0.43, ema=0.999),
        nb_epochs=14,
        learning_rate=0.2,
        channels_last=True,
    ),
}
"""The demo's with more epochs; and the fastest attack, so that all of CIFAR-10 is learned in an hour on one core."""
IMAGES = {"cifar10": "CIFAR-10, every image encoded anew as JPEG of quality 75"}
"""What was trained on, where a name does not say all."""
MEASUREMENTS: Mapping[str, Measurement] = {
    "digits": Measurement(attacks=("pgd-20", "autoattack"), nb_robust=600),
    "cifar10": Measurement(attacks=("pgd-20", "screen"), nb_robust=500),
}
"""All of AutoAttack for 500 images of CIFAR-10 would take two hours; its parts of 100 steps take a fifth of that."""


def pack(run: Run, folder: Path) -> None:
    """Copy what a user needs of a run: no path of this machine, no log, no picture."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in (WEIGHTS, DESCRIPTION, "tradeoff.csv"):
        shutil.copyfile(run.folder / name, folder / name)
    recipe = replace(run.recipe, data_folder=None)
    Ledger(folder / "run.json").keep("recipe", recipe.as_values())
    version = Ledger(run.folder / "run.json").settings("training").get("version")
    facts = CardFacts(
        data=IMAGES.get(recipe.data, recipe.data), license="mit", recipe=recipe.as_values(), version=version
    )
    write_card(folder, TradeoffCurve.from_csv(folder / "tradeoff.csv"), facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data-folder", help="where CIFAR-10 lies")
    parser.add_argument("--runs", type=Path, default=Path("runs/pretrained"), help="where trainings are kept")
    given = parser.parse_args()
    recipe = replace(RECIPES[given.name], data_folder=given.data_folder)
    run, data = Run(given.runs / given.name, print), recipe.dataset(keeps_levels=True)
    run.train(recipe, data)
    run.measure(MEASUREMENTS[given.name], data)
    pack(run, WEIGHTS_FOLDER / given.name)


if __name__ == "__main__":
    main()
