"""Robust self-training: pseudo labels, by a naturally trained network (Carmon et al., arXiv:1905.13736).

Where the recipe takes some images of many (CIFAR-10), as many others come without labels; else (digits) the labels of
two thirds of the images are hidden. All three trainings take the steps of the base.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from art_oat import OATTrainer, StratifiedSampling
from art_oat.data import Dataset
from art_oat.data.dataset import Split, draw
from art_oat.experiment.recipe import Recipe
from benchmarks.arms import fit
from benchmarks.neighbors.neighbor import Neighbor
from benchmarks.neighbors.turns import Turns, loader

_SHARE = 1 / 3
"""Of the images that keep their labels, where no others are at hand."""


class Images(NamedTuple):
    """Images with labels, and others whose labels nothing is to be learned from."""

    labeled: Split
    others: Split


def images(data: Dataset, recipe: Recipe) -> Images:
    """Return the training images, and others: further ones, or those whose labels are hidden.

    Raises:
        ValueError: If the training images are not those that the recipe keeps.
    """
    x, y = data.train
    if recipe.nb_train is None:
        labeled = draw(y, round(_SHARE * len(y)), recipe.seed)
        return Images(Split(x[labeled], y[labeled]), Split(np.delete(x, labeled, axis=0), np.delete(y, labeled)))
    every = recipe.changed(nb_train=None).dataset().train
    own = draw(every.y, recipe.nb_train, recipe.seed)
    if not np.array_equal(every.x[own], x):
        raise ValueError("the training images must be those that the recipe keeps of its data set.")
    rest = np.setdiff1d(np.arange(len(every.y)), own)
    further = rest[draw(every.y[rest], min(recipe.nb_train, len(rest)), recipe.seed)]  # in the classes' shares
    return Images(data.train, Split(every.x[further], every.y[further]))


def natural(recipe: Recipe, nb_images: int, nb_labeled: int) -> Recipe:
    """Return the natural training of the plain network on fewer images, in as many steps as the recipe's."""
    nb_epochs = round(recipe.nb_epochs * nb_images / nb_labeled)
    plain = {"lambdas": (0.0,), "film": None, "sampling": StratifiedSampling(), "nb_epochs": nb_epochs}
    return recipe.changed(**plain, weight_perturbation=None, fallback=None, clean_share=0.0, eps_warmup=0.0)


def pseudo_labels(data: Dataset, recipe: Recipe, found: Images) -> NDArray[np.int64]:
    """Return the classes that a naturally trained network gives to the images without labels, ``[M]``."""
    own = natural(recipe, len(data.train.y), len(found.labeled.y))
    classifier = fit(own, data._replace(train=found.labeled))
    classes: NDArray[np.int64] = classifier.predict(found.others.x, lam=0.0).argmax(axis=1)
    return classes


def joined(found: Images, labels: NDArray[np.int64]) -> Split:
    """Return all images, the others with the labels that are given."""
    return Split(np.concatenate([found.labeled.x, found.others.x]), np.concatenate([found.labeled.y, labels]))


def pseudo(_: OATTrainer, data: Dataset, recipe: Recipe) -> DataLoader[tuple[Tensor, Tensor]]:
    """Train on all images, the others with pseudo labels."""
    found = images(data, recipe)
    return _loader(joined(found, pseudo_labels(data, recipe, found)), data, recipe)


def alone(_: OATTrainer, data: Dataset, recipe: Recipe) -> DataLoader[tuple[Tensor, Tensor]]:
    """Train on images with labels alone."""
    return _loader(images(data, recipe).labeled, data, recipe)


def known(_: OATTrainer, data: Dataset, recipe: Recipe) -> DataLoader[tuple[Tensor, Tensor]]:
    """Train on all images, with their own labels."""
    found = images(data, recipe)
    return _loader(joined(found, found.others.y), data, recipe)


def _loader(split: Split, data: Dataset, recipe: Recipe) -> DataLoader[tuple[Tensor, Tensor]]:
    return loader(split, Turns(len(split.y), len(data.train.y), recipe.batch_size, recipe.seed))


_SOURCE = "arXiv:1905.13736"
_ALONE = "pseudo labels, without"
NEIGHBORS = {
    "pseudo labels": Neighbor(
        "images without labels, with those of a naturally trained network",
        _SOURCE,
        prepare=pseudo,
        code=(Images, images, natural, pseudo_labels, joined, pseudo, Turns, loader),
        rival=_ALONE,
    ),
    _ALONE: Neighbor("the images with labels alone, as many steps", _SOURCE, prepare=alone),
    "pseudo labels, true ones": Neighbor(
        "all images with their own labels, as many steps", _SOURCE, prepare=known, rival=_ALONE
    ),
}
