"""One runner for every way to train: the one network, dedicated networks, and those of ART's own trainers.

All of them start from the same network of the same seed and have the same optimizer, schedule, average of weights,
augmentation, batch size and attack budget. What comes out is always a conditional network: a plain one is that of a
single lam without FiLM, and gives exactly the plain network's answers. Two differences remain: the dedicated network
of lam 1 answers clean batches, too, for the statistics of its norms (ART's PGD-AT sees attacked ones alone); and ART's
trainers compute in float32 with channels first, whatever the recipe says of ours.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
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

from art_oat import OATModel, fold, load_model, parameter_groups, save_model, to_conditional
from art_oat.attacks import PGD
from art_oat.contexts import borrowed_generators
from art_oat.data import Dataset
from art_oat.experiment.build import trainer_for
from art_oat.experiment.recipe import Recipe
from art_oat.storage import replaced, write_whole
from art_oat.training import CSVLogger, EpochRecord, ResumeFile, Validation, schedule_by_name
from art_oat.training.ema import WeightAverage
from art_oat.training.guard import NB_HELD_OUT
from benchmarks.configs import Config, Part
from benchmarks.record import commit

Callback = Callable[[EpochRecord], None]

STATE = "training-state.pt"
"""What a training that was cut goes on from."""

LOG = "training.csv"
"""What is told of every epoch."""

BETA = 6.0
"""Weight of the divergence in TRADES (Zhang et al. 2019)."""

GAMMA = {"PGD": 0.01, "TRADES": 0.005}
"""Size of the weight perturbation, relative to the weights (Wu et al. 2020)."""


ART_METHODS = {
    "pgd-at": "AdversarialTrainerMadryPGD of ART",
    "trades": "AdversarialTrainerTRADESPyTorch of ART",
    "awp": "AdversarialTrainerAWPPyTorch of ART, on PGD",
    "trades-awp": "AdversarialTrainerAWPPyTorch of ART, on TRADES",
}


@dataclass(frozen=True)
class Trained:
    """A network, and what its training took.

    Attributes:
        model: Trained, in evaluation mode.
        seconds: Wall time of the training alone, nothing measured in it.
        cpu_seconds: Processor time of the same, which depends less on what else the machine does; None for a training
            that was cut and gone on with.
        nb_bytes: Of weights and statistics; of a plain network for a single lam.
        commit: Of the code that trained it.
    """

    model: OATModel
    seconds: float
    cpu_seconds: float | None
    nb_bytes: int
    commit: str


def methods(lambdas: tuple[float, ...]) -> dict[str, str]:
    """Every method by name, with what it is."""
    return {
        "oat": "one network for all lams",
        **{f"lam-{lam:g}": f"plain network, loss mixed at lam {lam:g}" for lam in lambdas},
        **ART_METHODS,
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
        self.schedule = schedule_by_name(recipe.schedule)
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


def _plain_classifier(network: nn.Module, recipe: Recipe, data: Dataset) -> PyTorchClassifier:
    groups = parameter_groups(network, recipe.weight_decay, exempt=recipe.exempt)
    optimizer = optim.SGD(groups, recipe.learning_rate, momentum=0.9, nesterov=True)
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    return PyTorchClassifier(network, loss, data.input_shape, data.nb_classes, optimizer, clip_values=(0, 1))


def _attack(recipe: Recipe, classifier: PyTorchClassifier) -> ProjectedGradientDescent:
    """Return ART's own PGD with the steps of the recipe's."""
    nb_steps = int(recipe.method.attack.removeprefix("pgd-"))
    return ProjectedGradientDescent(
        classifier,
        norm=np.inf if recipe.method.norm == "Linf" else 2,
        eps=recipe.method.eps,
        eps_step=PGD(recipe.method.eps, recipe.method.eps_step, nb_steps).step,
        max_iter=nb_steps,
        num_random_init=1,
        batch_size=recipe.batch_size,
        verbose=False,
    )


def _art_trainer(method: str, recipe: Recipe, data: Dataset, classifier: PyTorchClassifier) -> Any:
    attack = _attack(recipe, classifier)
    if method == "pgd-at":
        steps = {"eps": attack.eps, "eps_step": attack.eps_step, "max_iter": attack.max_iter}
        trainer = AdversarialTrainerMadryPGD(classifier, recipe.nb_epochs, recipe.batch_size, **steps).trainer
        trainer.attacks = [attack]  # its own knows neither the norm nor a batch size
        return trainer
    if method == "trades":
        return AdversarialTrainerTRADESPyTorch(classifier, attack, beta=BETA)
    mode = "TRADES" if method == "trades-awp" else "PGD"
    proxy = copy.deepcopy(classifier.model)
    loss, shape = nn.CrossEntropyLoss(), data.input_shape
    proxy_classifier = PyTorchClassifier(
        proxy, loss, shape, data.nb_classes, optim.SGD(proxy.parameters(), lr=0.01), clip_values=(0, 1)
    )
    return AdversarialTrainerAWPPyTorch(
        classifier, proxy_classifier, attack, mode=mode, gamma=GAMMA[mode], beta=BETA, warmup=0
    )


def _train_by_art(method: str, recipe: Recipe, data: Dataset) -> tuple[OATModel, float]:
    started = time.perf_counter()
    with borrowed_generators(seed=recipe.seed):
        network = recipe.architecture(data).build()
        classifier = _plain_classifier(network, recipe, data)
        tensors = [*classifier.model.parameters(), *classifier.model.buffers()]
        average = None if recipe.method.ema is None else WeightAverage(tensors, recipe.method.ema)
        batches = PacedBatches(recipe, data, classifier.optimizer, average)
        before = np.random.get_state()  # noqa: NPY002 - what ART draws from
        try:
            np.random.seed(recipe.seed)  # noqa: NPY002
            _art_trainer(method, recipe, data, classifier).fit_generator(batches, nb_epochs=recipe.nb_epochs)
        finally:
            np.random.set_state(before)  # noqa: NPY002
        batches.end()
    return to_conditional(network, (1.0,), film_on=()), time.perf_counter() - started


def _train_by_own(recipe: Recipe, data: Dataset, folder: Path, callback: Callback | None) -> tuple[OATModel, float]:
    """Train, or go on with a training that was cut; return the seconds of all its epochs, too."""
    trainer = trainer_for(recipe, data)
    held_out = (
        None
        if recipe.method.fallback is None
        else data.validation._replace(x=data.validation.x[:NB_HELD_OUT], y=data.validation.y[:NB_HELD_OUT])
    )
    callbacks = [CSVLogger(folder / LOG), ResumeFile(folder / STATE), *([] if callback is None else [callback])]
    trainer.fit(
        *data.train,
        validation_data=None if held_out is None else Validation(*held_out, interval=recipe.nb_epochs),
        batch_size=recipe.batch_size,
        nb_epochs=recipe.nb_epochs,
        scheduler=schedule_by_name(recipe.schedule),
        callbacks=callbacks,
        verbose=callback is None,
    )
    return trainer.get_classifier().model, sum(record.seconds for record in trainer.history)


def recipe_of(method: str, config: Config, seed: int) -> Recipe:
    """Return what a method trains by: the recipe of the one network or changes to it, or that of the dedicated one."""
    if method == "oat" or method in config.variants:
        return config.recipe.changed(seed=seed, **config.variants.get(method, {}))
    lam = float(method.removeprefix("lam-")) if method.startswith("lam-") else 1.0
    return replace(config.dedicated(lam), seed=seed)


def train(method: str, config: Config, part: Part, folder: Path, *, callback: Callback | None = None) -> Trained:
    """Train by one of :func:`methods` or a variant; reuse what the folder holds of the same training.

    A variant that starts from "pretrained" weights starts from those of the dedicated network of lam 0, which is
    trained first, in a folder beside.

    Args:
        method: Its name.
        config: What is compared.
        part: What is trained on.
        folder: Gets ``model.safetensors``, ``model.json``, ``training.csv`` and ``trained.json``.
        callback: Is told of every epoch in place of a progress bar; ART's trainers tell of none.

    Raises:
        ValueError: If there is no such method, or the folder holds another training.
    """
    known = [*methods(config.recipe.lambdas), *config.variants]
    if method not in known:
        raise ValueError(f"method must be one of {known}, got {method!r}.")
    recipe = recipe_of(method, config, part.seed)
    if recipe.pretrained is not None:
        recipe = recipe.changed(pretrained=str(_natural_weights(config, part, folder.parent / "lam-0")))
    changed = {"data_folder": None, "pretrained": recipe.pretrained is not None}
    settings = json.loads(json.dumps({"method": method, "part": part.name, **recipe.as_values(), **changed}))
    kept = folder / "trained.json"
    if kept.exists():
        record = json.loads(kept.read_text(encoding="utf-8"))
        if record.pop("settings") != settings:
            raise ValueError(
                f"{folder} must hold a training of the same settings, but has another. Name another --runs."
            )
        return Trained(load_model(folder), **record)
    trained = _train_anew(method, recipe, part.data, folder, callback)
    with write_whole(kept) as file:
        json.dump({"settings": settings, **_record(trained)}, file, indent=2)
    (folder / STATE).unlink(missing_ok=True)
    return trained


def _natural_weights(config: Config, part: Part, folder: Path) -> Path:
    """Return the file with the weights of a plain network that was trained naturally."""
    path = folder / "plain.safetensors"
    trained = train("lam-0", config, part, folder)
    with replaced(path) as partial:
        weights = fold(trained.model, 0.0).state_dict()
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in weights.items()}, partial)
    return path


def _train_anew(method: str, recipe: Recipe, data: Dataset, folder: Path, callback: Callback | None) -> Trained:
    is_resumed, started = (folder / STATE).exists(), time.process_time()
    is_by_art = method in ART_METHODS
    model, seconds = _train_by_art(method, recipe, data) if is_by_art else _train_by_own(recipe, data, folder, callback)
    cpu_seconds = None if is_resumed else time.process_time() - started
    save_model(model, folder, recipe.architecture(data))
    return Trained(model.eval(), seconds, cpu_seconds, nb_bytes(model), commit(Path(__file__).parent))


def _record(trained: Trained) -> dict[str, Any]:
    return {name: value for name, value in vars(trained).items() if name != "model"}


def nb_bytes(model: OATModel) -> int:
    """Return the bytes of weights and statistics that it takes to answer at every lam."""
    network = model if len(model.lambdas) > 1 else fold(model, model.lambdas[0])
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
