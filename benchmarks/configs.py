"""What is compared on which data: the configurations of ``tradeoff.py``."""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, train_test_split

from art_oat import OATModel, StratifiedSampling
from art_oat.data import Dataset, Split, load
from art_oat.evaluation.tradeoff import subset
from art_oat.experiment.recipe import Recipe
from art_oat.training import Method
from benchmarks.baselines import BASELINES


class Part(NamedTuple):
    """What is trained on and tested on at once.

    Attributes:
        name: Tells it from the others of its configuration.
        seed: Of the split and the training.
        data: Its validation part is not looked at, but by the guard of one-step training.
        index: Which image of the configuration each test image is, the same for every seed.
    """

    name: str
    seed: int
    data: Dataset
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Config:
    """One comparison.

    Attributes:
        recipe: Of the one network; its seed is replaced by those of the study.
        nb_epochs_dedicated: Of every other network; all else is as in the recipe.
        seeds: Listed beforehand, and all of them counted.
        nb_folds: Of a cross-validation over all images; None to keep to the data set's own test images.
        nb_images: Of these, how many, in the classes' shares; None for all.
        nb_test: Test images for the clean accuracy, the first; None for all.
        nb_robust: How many of these to attack; None for all.
        attacks_first: Whether these are the first, rather than drawn in the classes' shares.
        judges: By what, the deciding one last.
        dedicated_to: Lams that get a network of their own; None for all that the one network is trained for.
        others: Arms beside the one network and the dedicated ones, see ``baselines.py``.
        variants: Changes to the recipe of the one network, by name.
        lambdas: Where networks are judged; None for the lams they are trained at.
        beyond: Lams above 1 where the one network is judged, too.
        nb_held_out: Training images of a fold that nothing is trained on, and that the guard of one-step training
            looks at.
        is_choosing: Whether these are judged in place of the test images.
    """

    recipe: Recipe
    nb_epochs_dedicated: int
    seeds: tuple[int, ...] = (0,)
    nb_folds: int | None = None
    nb_images: int | None = None
    nb_test: int | None = None
    nb_robust: int | None = None
    attacks_first: bool = False
    judges: tuple[str, ...] = ("pgd-20", "autoattack")
    dedicated_to: tuple[float, ...] | None = None
    others: tuple[str, ...] = ()
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lambdas: tuple[float, ...] | None = None
    beyond: tuple[float, ...] = ()
    nb_held_out: int = 0
    is_choosing: bool = False

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that is compared."""
        lams = self.recipe.lambdas if self.dedicated_to is None else self.dedicated_to
        return tuple(self.variants) or ("oat", *(f"lam-{lam:g}" for lam in lams), *self.others)

    def judged_at(self, model: OATModel) -> tuple[float, ...]:
        """Return the lams where a network is judged."""
        beyond = tuple(lam for lam in self.beyond if lam <= model.farthest)
        return (*(self.lambdas or model.lambdas), *beyond)

    def attacked(self, part: Part) -> NDArray[np.int64]:
        """Return which test images of a part are attacked."""
        nb_attacked = None if self.nb_robust is None else min(self.nb_robust, len(part.data.test.y))
        return (
            np.arange(len(part.data.test.y))[:nb_attacked]
            if self.attacks_first
            else subset(part.data.test.y, nb_attacked, 0)
        )

    def dedicated(self, lam: float) -> Recipe:
        """Return the recipe of the plain network for one lam: same loss, same steps, no condition."""
        return self.recipe.changed(
            lambdas=(lam,), film=None, nb_epochs=self.nb_epochs_dedicated, sampling=StratifiedSampling()
        )

    def in_folder(self, folder: str | None) -> "Config":
        """Return the same comparison with the images in a folder."""
        return replace(self, recipe=self.recipe.changed(data_folder=folder))

    def shortened(self) -> "Config":
        """Return the same comparison of one seed, one epoch and a few images, to try the code with."""
        few = {"batch_size": 64} if self.nb_folds else {"nb_train": 32, "batch_size": 16}
        short = {"recipe": self.recipe.changed(nb_epochs=1, **few), "nb_epochs_dedicated": 1, "seeds": self.seeds[:1]}
        images = {"nb_images": 180, "nb_held_out": min(self.nb_held_out, 20), "nb_test": 20, "nb_robust": 12}
        return replace(self, **short, **images, nb_folds=self.nb_folds and 2, judges=("pgd-1", "pgd-2"))

    def parts(self) -> Iterator[Part]:
        """Go through the trainings and tests of every seed."""
        for seed in self.seeds:
            if self.nb_folds is None:
                data = self.recipe.changed(seed=seed).dataset()
                test = Split(*(part[: self.nb_test] for part in (data.validation if self.is_choosing else data.test)))
                yield Part(f"seed-{seed}", seed, data._replace(test=test), np.arange(len(test.x)))
            else:
                yield from self._folds(seed, self.nb_folds)

    def _folds(self, seed: int, nb_folds: int) -> Iterator[Part]:
        every = load(self.recipe.data, seed=seed)
        x, y = (np.concatenate(arrays) for arrays in zip(*every, strict=True))
        order = np.lexsort((*x.reshape(len(x), -1).T, y))  # the same for every seed
        few = order[:: 1 if self.nb_images is None else len(order) // self.nb_images]
        x, y = x[few], y[few]
        folds = StratifiedKFold(nb_folds, shuffle=True, random_state=seed).split(x, y)
        for number, (known, test) in enumerate(folds):
            train = held_out = known
            if self.nb_held_out:
                train, held_out = train_test_split(known, test_size=self.nb_held_out, stratify=y[known], random_state=0)
            judged = held_out if self.is_choosing else test
            data = Dataset(*(Split(x[index], y[index]) for index in (train, held_out, judged)))
            yield Part(f"seed-{seed}-fold-{number}", seed, data, judged)


DIGITS_RECIPE = Recipe(
    data="digits",
    network="small-16-32-64",
    method=Method(eps=0.2, eps_step=0.05, sampling=StratifiedSampling({1.0: 3.3})),
    nb_epochs=60,
    learning_rate=0.2,
    weight_decay=3e-3,
    exempt=(),
)
"""Chosen on validation data, by an earlier form of ``demo_recipe.py``: results/digits_recipe.csv."""

DIGITS = Config(
    # chosen on images held out of the training parts of seed 100; epochs so that the one network takes a third of the
    # time of the dedicated ones, which do not gain from the smaller weight decay of 5e-4 or from fewer epochs
    DIGITS_RECIPE.changed(nb_epochs=75, ema=0.99, sampling=StratifiedSampling({1.0: 5.0})),
    nb_epochs_dedicated=60,
    seeds=(0, 1, 2),
    nb_folds=3,
    nb_robust=300,
)
_CIFAR10 = Recipe(data="cifar10", nb_epochs=30, learning_rate=0.2, channels_last=True, method=Method.dial())
"""All on CIFAR-10 are trained by the recipe "dial"."""
CIFAR10_SMALL = Config(
    # chosen on validation images of seed 100, see ``screens.py``; half of the epochs are clean for every network, and
    # the one network takes less than a third of the time of all the dedicated ones
    _CIFAR10.changed(network="wrn-10-1", nb_train=4000),
    nb_epochs_dedicated=18,
    seeds=(0, 1, 2),
    nb_robust=250,
    beyond=(1.3, 1.6),
)
CIFAR10_EQUAL = replace(CIFAR10_SMALL, nb_epochs_dedicated=30, dedicated_to=(0.0, 1.0), seeds=(0,))
"""Dedicated networks that are each trained for as many epochs as the one network: they take six times as long."""


def full_size(network: str) -> Config:
    """Return a comparison on all of CIFAR-10, for a GPU: 30 epochs each, AutoAttack on 1,000 test images."""
    recipe = _CIFAR10.changed(network=network, ema=0.999, precision="bf16")
    judges = ("pgd-20", "pgd-50", "autoattack")
    return Config(
        recipe, nb_epochs_dedicated=30, nb_robust=1000, attacks_first=True, judges=judges, others=tuple(BASELINES)
    )


CONFIGS: dict[tuple[str, str], Config] = {
    ("digits", "small"): DIGITS,
    ("digits", "baselines"): replace(DIGITS, seeds=(0,), others=tuple(BASELINES)),
    ("cifar10", "small"): CIFAR10_SMALL,
    ("cifar10", "equal"): CIFAR10_EQUAL,
    ("cifar10", "resnet18"): full_size("resnet18"),
    ("cifar10", "wrn-16-8"): full_size("wrn-16-8"),
}
"""By data and name."""


def asked(given: argparse.Namespace, name: str = "small") -> Config:
    """Return the comparison that a command line asks for."""
    config = CONFIGS[given.data, name].in_folder(given.data_folder)
    return config.shortened() if given.smoke else config
