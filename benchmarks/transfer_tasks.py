"""From where to where features go in ``transfer.py``: source tasks, and draws of target tasks with few images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch.nn import functional as F

from art_oat.data import Dataset, Split, digits
from art_oat.data.dataset import draw
from art_oat.experiment.recipe import Recipe
from art_oat.training import Method
from benchmarks.configs import DIGITS_RECIPE, Config


class Target(NamedTuple):
    """One draw of a target task; ``index`` says which image of all each test image is."""

    data: Dataset
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """Where features come from and go to.

    Attributes:
        title: For people.
        sources: How both kinds of sources are trained, and the seeds.
        source: Data of the source task, by seed.
        target: A draw of the target task, by number.
        lambdas: Source lams to try.
        dialed: Lams at which a network that keeps its dial is judged; none for no such network.
        eps: Radius of AutoAttack on the target task, Linf; where the dial is kept, training has that of the source.
        nb_epochs: Of the training of whole networks.
        batch_size: Likewise.
        nb_robust: Test images to attack, the first.
        nb_draws: Of the target task, for each source.
        judge: By what attack networks are judged on test images.
    """

    title: str
    sources: Config
    source: Callable[[Recipe], Dataset]
    target: Callable[[int], Target]
    lambdas: tuple[float, ...]
    dialed: tuple[float, ...]
    eps: float
    nb_epochs: int
    batch_size: int
    nb_robust: int
    nb_draws: int
    judge: str = "autoattack"

    def shortened(self) -> "Task":
        """Return the same task of one seed, one epoch and few images."""
        few = {"lambdas": (0.0, 1.0), "dialed": (0.0, 1.0), "nb_epochs": 1, "nb_robust": 8, "nb_draws": 1}
        return replace(self, sources=self.sources.shortened(), judge="pgd-2", **few)  # type: ignore[arg-type]


def of_classes(split: Split, first: int, last: int) -> Split:
    """Return the images of some classes, counted from 0."""
    kept = (split.y >= first) & (split.y <= last)
    return Split(split.x[kept], split.y[kept] - first)


def lower_digits(recipe: Recipe) -> Dataset:
    """Return the digits 0 to 4."""
    return Dataset(*(of_classes(split, 0, 4) for split in digits(recipe.seed)))


def every_digit() -> Split:
    """Return all digits, in scikit-learn's order."""
    bunch = load_digits()
    return Split((bunch.images[:, np.newaxis] / 16).astype(np.float32), bunch.target.astype(np.int64))


def few(split: Split, nb_train: int, nb_validation: int, seed: int) -> Target:
    """Draw training and validation images by class; all others are test images."""
    known = draw(split.y, nb_train + nb_validation, seed)
    is_train = np.isin(np.arange(len(known)), draw(split.y[known], nb_train, seed))
    rest = np.setdiff1d(np.arange(len(split.y)), known)
    rest = np.random.default_rng(seed).permutation(rest)  # so that the first, which are attacked, are of all classes
    parts = (Split(split.x[index], split.y[index]) for index in (known[is_train], known[~is_train], rest))
    return Target(Dataset(*parts), rest)


def higher_digits(seed: int) -> Target:
    """Return the digits 5 to 9, 50 to train on."""
    return few(of_classes(every_digit(), 5, 9), 50, 100, seed)


def colored(split: Split, seed: int = 0) -> Split:
    """Return digits of 32x32 pixels in a random light color on a random dark one, channels 0.2 apart or more."""
    generator = torch.Generator().manual_seed(seed)
    x = F.interpolate(torch.from_numpy(split.x), size=(32, 32), mode="bilinear")
    ground = 0.4 * torch.rand((len(x), 3, 1, 1), generator=generator)
    figure = 1 - 0.4 * torch.rand(ground.shape, generator=generator)
    return Split((ground + x * (figure - ground)).numpy(), split.y)


def colored_digits(seed: int) -> Target:
    """Return all digits in color, 200 to train on."""
    return few(colored(every_digit()), 200, 200, seed)


_DIGITS = DIGITS_RECIPE.changed(weight_decay=5e-4, exempt=("norm", "film", "bias"), batch_size=64)
"""With its decay of 3e-3 on all weights, features of natural training are of lower rank, and transfer worse."""

_CIFAR10 = Recipe(
    data="cifar10",
    network="small-32-64-128",
    nb_train=10000,
    nb_epochs=15,
    learning_rate=0.2,
    method=Method(precision="bf16"),
    channels_last=True,
)
_SEEDS = (0, 1, 2)
TASKS = {
    "digits": Task(
        "digits 0-4 to digits 5-9 (50 images)",
        Config(_DIGITS, nb_epochs_dedicated=_DIGITS.nb_epochs, seeds=_SEEDS),
        lower_digits,
        higher_digits,
        lambdas=(0.0, 0.1, 0.2, 0.4, 1.0),
        dialed=(0.0, 0.2, 1.0),
        eps=0.1,
        nb_epochs=60,
        batch_size=10,
        nb_robust=80,
        nb_draws=2,
    ),
    "cifar10": Task(
        "CIFAR-10 (JPEG-75, 10,000 images) to digits in color (200 images)",
        Config(_CIFAR10, nb_epochs_dedicated=_CIFAR10.nb_epochs, seeds=_SEEDS),
        Recipe.dataset,
        colored_digits,
        lambdas=(0.0, 0.1, 0.4, 1.0),
        dialed=(),
        eps=2 / 255,
        nb_epochs=40,
        batch_size=32,
        nb_robust=40,
        nb_draws=1,
    ),
}
