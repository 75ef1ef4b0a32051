"""A few digits, and what trains on them."""

from art_oat import OATTrainer
from art_oat.data import Dataset, Split, load
from art_oat.experiment.build import trainer_for
from benchmarks.configs import DIGITS_RECIPE

RECIPE = DIGITS_RECIPE.changed(network="small-4", attack="pgd-2", nb_epochs=1, batch_size=16)


def few_digits(nb_samples: int = 60) -> Dataset:
    return Dataset(*(Split(part.x[:nb_samples], part.y[:nb_samples]) for part in load("digits", seed=0)))


def trainer(data: Dataset, **changes: object) -> OATTrainer:
    return trainer_for(RECIPE.changed(**changes), data)
