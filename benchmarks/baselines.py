"""The trainers of ART that the one network is compared with; another baseline is one more entry."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.data_generators import DataGenerator
from art.defences.trainer import (
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerTRADESPyTorch,
)
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import nn, optim

from art_oat import OATModel, to_conditional
from art_oat.attacks import PGD
from art_oat.contexts import borrowed_generators
from art_oat.data import Dataset
from art_oat.experiment.recipe import Recipe
from art_oat.training.ema import WeightAverage

BETA = 6.0
"""Weight of the divergence in TRADES (Zhang et al. 2019)."""

GAMMA = {"PGD": 0.01, "TRADES": 0.005}
"""Size of the weight perturbation, relative to the weights (Wu et al. 2020)."""


@dataclass(frozen=True)
class Baseline:
    """One trainer of ART.

    Attributes:
        what: It is, for people.
        trainer: Builds it from a recipe, a plain classifier and an attack on that.
        marker: In figures.
    """

    what: str
    trainer: Callable[[Recipe, PyTorchClassifier, ProjectedGradientDescent], Any]
    marker: str


def _pgd_at(recipe: Recipe, classifier: PyTorchClassifier, attack: ProjectedGradientDescent) -> Any:
    steps = {"eps": attack.eps, "eps_step": attack.eps_step, "max_iter": attack.max_iter}
    trainer = AdversarialTrainerMadryPGD(classifier, recipe.nb_epochs, recipe.batch_size, **steps).trainer
    trainer.attacks = [attack]  # its own knows neither the norm nor a batch size
    return trainer


def _trades(_: Recipe, classifier: PyTorchClassifier, attack: ProjectedGradientDescent) -> Any:
    return AdversarialTrainerTRADESPyTorch(classifier, attack, beta=BETA)


def _awp(mode: str) -> Callable[[Recipe, PyTorchClassifier, ProjectedGradientDescent], Any]:
    def trainer(_: Recipe, classifier: PyTorchClassifier, attack: ProjectedGradientDescent) -> Any:
        proxy = copy.deepcopy(classifier.model)
        about = nn.CrossEntropyLoss(), classifier.input_shape, classifier.nb_classes
        proxy_optimizer = optim.SGD(proxy.parameters(), lr=0.01)
        proxy_classifier = PyTorchClassifier(proxy, *about, proxy_optimizer, clip_values=(0, 1))
        options = {"mode": mode, "gamma": GAMMA[mode], "beta": BETA, "warmup": 0}
        return AdversarialTrainerAWPPyTorch(classifier, proxy_classifier, attack, **options)

    return trainer


BASELINES = {
    "pgd-at": Baseline("AdversarialTrainerMadryPGD of ART", _pgd_at, "v"),
    "trades": Baseline("AdversarialTrainerTRADESPyTorch of ART", _trades, "^"),
    "awp": Baseline("AdversarialTrainerAWPPyTorch of ART, on PGD", _awp("PGD"), "D"),
    "trades-awp": Baseline("AdversarialTrainerAWPPyTorch of ART, on TRADES", _awp("TRADES"), "P"),
}


class PacedBatches(DataGenerator):  # type: ignore[misc]
    """Gives ART's trainers shuffled, augmented batches, and sets the learning rate of each.

    Two of the trainers reject every scheduler of torch 2, one takes none: so the schedule goes with the data. It is the
    same as ``OATTrainer``'s: step ``i`` of ``n`` has the learning rate times ``schedule(i / n)``.

    Args:
        recipe: Says how the batches are made.
        data: Its train part is gone through, anew every epoch.
        optimizer: Its learning rates are changed.
        average: Takes in what every batch has trained.
    """

    def __init__(
        self, recipe: Recipe, data: Dataset, optimizer: optim.Optimizer, average: WeightAverage | None = None
    ) -> None:
        super().__init__(len(data.train.x), min(recipe.batch_size, len(data.train.x)))
        self.x, self.y = (torch.from_numpy(part) for part in data.train)
        self.augment = recipe.augment(data)
        self.optimizer = optimizer
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.schedule = recipe.scheduler()
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.nb_steps = recipe.nb_epochs * math.ceil(self.size / self.batch_size)
        self.nb_given = 0
        self.waiting: list[torch.Tensor] = []
        self.average = average

    def get_batch(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the next images ``[N, C, H, W]`` and class indices ``[N]``."""
        self.waiting = self.waiting or list(torch.randperm(self.size, generator=self.generator).split(self.batch_size))
        index = self.waiting.pop(0)
        factor = self.schedule(min(self.nb_given / self.nb_steps, 1.0))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.end_step()
        self.nb_given += 1
        x = self.x[index] if self.augment is None else self.augment(self.x[index], self.generator)
        return x.numpy(), self.y[index].numpy()

    def end_step(self) -> None:
        """Let the average take in what the last batch has trained; the next batch does so by itself."""
        if self.average is not None and self.nb_given:
            self.average.update()

    def end(self) -> None:
        """Leave the average in the network, as ``OATTrainer`` does."""
        self.end_step()
        if self.average is not None:
            self.average.install()


def _plain_classifier(recipe: Recipe, data: Dataset) -> PyTorchClassifier:
    network = recipe.architecture(data).build()
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    return PyTorchClassifier(
        network, loss, data.input_shape, data.nb_classes, recipe.optimizer_for(network), clip_values=(0, 1)
    )


def _attack(recipe: Recipe, classifier: PyTorchClassifier) -> ProjectedGradientDescent:
    """Return ART's own PGD with the steps of the recipe's."""
    nb_steps = int(str(recipe.method.attack).removeprefix("pgd-"))
    step = PGD(recipe.method.eps, recipe.method.eps_step, nb_steps).step
    options = {"num_random_init": 1, "batch_size": recipe.batch_size, "verbose": False}
    norm = np.inf if recipe.method.norm == "Linf" else 2
    return ProjectedGradientDescent(
        classifier, norm=norm, eps=recipe.method.eps, eps_step=step, max_iter=nb_steps, **options
    )


def train_by_art(name: str, recipe: Recipe, data: Dataset) -> tuple[OATModel, float]:
    """Train a plain network by a baseline; return it as the conditional one of lam 1 alone, and the seconds."""
    started = time.perf_counter()
    with borrowed_generators(seed=recipe.seed):
        classifier = _plain_classifier(recipe, data)
        network = classifier.model
        tensors = [*network.parameters(), *network.buffers()]
        average = None if recipe.method.ema is None else WeightAverage(tensors, recipe.method.ema)
        batches = PacedBatches(recipe, data, classifier.optimizer, average)
        before = np.random.get_state()  # noqa: NPY002 - what ART draws from
        try:
            np.random.seed(recipe.seed)  # noqa: NPY002
            trainer = BASELINES[name].trainer(recipe, classifier, _attack(recipe, classifier))
            trainer.fit_generator(batches, nb_epochs=recipe.nb_epochs)
        finally:
            np.random.set_state(before)  # noqa: NPY002
        batches.end()
    return to_conditional(network, (1.0,), film_on=()), time.perf_counter() - started
