"""A run of two widths that takes seconds."""

from pathlib import Path

from art_oat.experiment.measurement import Measurement
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.run import Run
from art_oat.training import Method

RECIPE = Recipe(
    data="digits",
    nb_train=200,
    network="small-8",
    lambdas=(0.0, 0.5, 1.0),
    widths=(0.5, 1.0),
    method=Method(attack="pgd-1", eps=0.15),
    nb_epochs=2,
)
MEASUREMENT = Measurement(attacks=("pgd-2", "pgd-1"), nb_robust=40)


def silent(_: str) -> None:
    """Say nothing."""


def trained(folder: Path) -> Run:
    run, data = Run(folder, silent, device_type="cpu"), RECIPE.dataset(keeps_levels=True)
    run.train(RECIPE, data)
    run.measure(MEASUREMENT, data, nb_workers=1)
    return run
