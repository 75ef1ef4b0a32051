"""Owns recipes: everything that decides a training, as plain values that a file can hold and a name can call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from torch import nn

from art_oat import models
from art_oat.attacks import Norm, Radius
from art_oat.checks import count_faults, refusals, refuse
from art_oat.classifier import OATClassifier
from art_oat.condition import is_finite_number
from art_oat.contexts import borrowed_generators
from art_oat.data import Dataset, load
from art_oat.data.augmentation import RandomCropFlip
from art_oat.layers import DEFAULT_LAMBDAS, FILMS
from art_oat.layers.encoding import check_lambdas
from art_oat.layers.slimmable import check_widths
from art_oat.model import OATModel
from art_oat.model_io import Architecture, save_model
from art_oat.surgery import to_conditional
from art_oat.surgery.convert import Heads
from art_oat.training import (
    Callback,
    Checkpoint,
    CSVLogger,
    OATTrainer,
    RestoreBest,
    ResumeFile,
    Validation,
    WidthSampling,
    parameter_groups,
    schedule_by_name,
)
from art_oat.training.loss import LossName
from art_oat.training.method import Method
from art_oat.training.param_groups import ParameterKind
from art_oat.training.precision import Precision
from art_oat.training.sampling import StratifiedSampling
from art_oat.training.schedule import ScheduleName

NB_VALIDATIONS = 5
"""How often a training is measured, at most; each time costs about half an epoch."""

AugmentationName = Literal["auto", "crop-flip", "crop", "none"]
_SUITED: dict[str, AugmentationName] = {"cifar10": "crop-flip", "stl10": "crop-flip", "mnist": "crop", "svhn": "crop"}

_CLIP_VALUES = (0, 1)
"""Range of the images of every data set."""

_SMALL = re.compile(r"small((?:-[1-9]\d*)*)")
_WIDE = re.compile(r"wrn-(\d+)-(\d+)")


@dataclass(frozen=True)
class Recipe:
    """One training from data to weights; the same recipe gives the same weights on the same machine.

    Attributes:
        data: As :func:`art_oat.data.load` takes it.
        data_folder: Where the files of the data set lie; None for ART's data folder.
        nb_train: Training images to keep, in the classes' shares; None for all.
        network: ``"small"`` or ``"small-16-32-64"`` (channels), ``"resnet18"``, ``"resnet34"``, ``"wrn-16-8"`` (any
            depth and widen factor).
        pretrained: File with weights of the plain network to start from, its ``state_dict`` as ``.safetensors`` or as
            ``torch.save`` writes it; None to start from random ones. A naturally trained network becomes robust in few
            epochs, with ``schedule="slow-start"``.
        film: How the network is told lam, see :func:`~art_oat.to_conditional`; None to leave FiLM out. Without it and
            with one lam, the training is that of the plain network at a fixed lam (adversarial training at 1, natural
            training at 0).
        lambdas: The lams to train, distinct, in ``[0, 1]``.
        widths: The fractions of channels to train, distinct, in ``(0, 1]``, 1 among them.
        heads: ``"shared"``: one last layer for all widths; ``"per-width"``: one for each.
        width_sampling: Which widths a step trains: ``"random"``, ``"all"`` or ``"sandwich"``, see
            :class:`~art_oat.training.OATTrainer`.
        distills: Whether narrower widths learn from the answers of the widest.
        attack: ``"pgd-K"``, ``"n-fgsm"``, ``"n-fgsm-1"`` (noise in eps), ``"art:NAME"`` or ``"torchattacks:NAME"``, see
            :func:`~art_oat.attacks.attack_named`.
        fallback: Likewise: what the training goes on by where robustness collapses, see
            :class:`~art_oat.training.OATTrainer`. None to trust ``attack``.
        eps: Radius of the attack, images in ``[0, 1]``.
        eps_step: Step of attack and fallback; None for their defaults. ``"n-fgsm"`` takes none:
            it goes ``eps`` far.
        norm: ``"Linf"`` or ``"L2"``.
        allow_large_eps: Whether ``eps`` may be half the range of the images, or more, see
            :class:`~art_oat.attacks.radius.Radius`; that is refused as a number in another unit otherwise.
        loss: ``"oat"``, ``"trades"`` (PGD then attacks the divergence) or ``"mart"``.
        awp: ``gamma`` of the adversarial perturbation of weights, above 0: 0.01 as published, 0.005 with ``"trades"``;
            None for none.
        weight_of_one: Weight of lam = 1 among the attacked samples; the other lams above 0 have 1 each.
        nb_epochs: Passes over the training images.
        clean_share: Share of these, the first, that train on clean images alone, see
            :class:`~art_oat.training.OATTrainer`.
        batch_size: Samples per step.
        schedule: As :func:`art_oat.training.schedule_by_name` takes it.
        learning_rate: Largest of the schedule; SGD with Nesterov momentum 0.9.
        weight_decay: Of the weights that are not exempt.
        exempt: Which weights do not decay, some of ``"norm"``, ``"film"`` and ``"bias"``.
        augmentation: ``"crop-flip"``: shifted by up to an eighth and mirrored at random; ``"crop"``: shifted only;
            ``"none"``; ``"auto"``: what suits the data set, and none for digits and for a file.
        ema: Decay of the average of weights; None for none.
        label_smoothing: In ``[0, 1)``.
        precision: What the passes of the training compute in, ``"float32"`` or ``"bf16"``; weights stay float32.
        attack_precision: What its attack computes in, where that is to be another one; None for the same.
        channels_last: Whether weights and images are laid out in memory with channels last while the network is
            trained, which is faster; the result is the same to rounding.
        seed: Of the split, the weights and the training.

    Raises:
        ValueError: If a value is not as above; names every fault.
    """

    data: str = "digits"
    data_folder: str | None = None
    nb_train: int | None = None
    network: str = "small"
    pretrained: str | None = None
    film: str | None = "linear"
    lambdas: tuple[float, ...] = DEFAULT_LAMBDAS
    widths: tuple[float, ...] = (1.0,)
    heads: Heads = "shared"
    width_sampling: WidthSampling = "random"
    distills: bool = False
    attack: str = "pgd-7"
    fallback: str | None = None
    eps: float = 8 / 255
    eps_step: float | None = None
    norm: Norm = "Linf"
    allow_large_eps: bool = False
    loss: LossName = "oat"
    awp: float | None = None
    weight_of_one: float = 1.0
    nb_epochs: int = 30
    clean_share: float = 0.0
    batch_size: int = 128
    schedule: ScheduleName = "one-cycle"
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    exempt: tuple[ParameterKind, ...] = ("norm", "film", "bias")
    augmentation: AugmentationName = "auto"
    ema: float | None = None
    label_smoothing: float = 0.0
    precision: Precision = "float32"
    attack_precision: Precision | None = None
    channels_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lambdas", "widths", "exempt"):
            if isinstance(values := getattr(self, name), Iterable):  # a file gives a list
                object.__setattr__(self, name, tuple(values))
        faults = Radius(self.eps, self.norm, _CLIP_VALUES, None).faults(allow_large_eps=self.allow_large_eps)
        faults += refusals(
            lambda: self.method,
            lambda: architecture(self.network, in_channels=1, nb_classes=2),
            lambda: schedule_by_name(self.schedule),
            lambda: check_lambdas(self.lambdas),
            lambda: check_widths(self.widths),
        )
        refuse([*faults, *self._number_faults(), *self._choice_faults()])
        if self.data.endswith(".npz"):
            object.__setattr__(self, "data", str(Path(self.data).expanduser().resolve()))
        for name in ("data_folder", "pretrained"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(Path(getattr(self, name)).expanduser().resolve()))

    @property
    def method(self) -> Method:
        """What is learned, and by which attack."""
        names = {part.name for part in fields(Method)} & {part.name for part in fields(self)}
        parts = {name: getattr(self, name) for name in names - {"augmentation"}}
        sampling = StratifiedSampling({} if self.weight_of_one == 1 else {1.0: self.weight_of_one})
        return Method(**parts, sampling=sampling, weight_perturbation=self.awp)

    def _number_faults(self) -> list[str]:
        counts = {"nb_epochs": self.nb_epochs, "batch_size": self.batch_size}
        faults = count_faults(counts | ({} if self.nb_train is None else {"nb_train": self.nb_train}))
        if self.batch_size == 1:
            faults.append("batch_size must be at least 2, got 1: lam = 0 would get every batch.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            faults.append(f"seed must be a whole number in [0, 2**32), got {self.seed!r}.")
        if not (is_finite_number(self.label_smoothing) and 0 <= self.label_smoothing < 1):
            faults.append(f"label_smoothing must lie in [0, 1), got {self.label_smoothing!r}.")
        if not (is_finite_number(self.learning_rate) and self.learning_rate > 0):
            faults.append(f"learning_rate must be a number above 0, got {self.learning_rate!r}.")
        if not (is_finite_number(self.weight_of_one) and self.weight_of_one > 0):
            faults.append(f"weight_of_one must be a number above 0, got {self.weight_of_one!r}.")
        if not (is_finite_number(self.weight_decay) and self.weight_decay >= 0):
            faults.append(f"weight_decay must be a number of at least 0, got {self.weight_decay!r}.")
        return faults

    def _choice_faults(self) -> list[str]:
        kinds = {"augmentation": AugmentationName, "heads": Heads}
        faults = [
            f"{name} must be one of {get_args(kind)}, got {getattr(self, name)!r}."
            for name, kind in kinds.items()
            if getattr(self, name) not in get_args(kind)
        ]
        if not isinstance(self.channels_last, bool):
            faults.append(f"channels_last must be True or False, got {self.channels_last!r}.")
        if self.film not in (*FILMS, None):
            faults.append(f"film must be one of {tuple(FILMS)}, or None, got {self.film!r}.")
        if not set(self.exempt) <= set(get_args(ParameterKind)):
            faults.append(f"exempt must hold some of {get_args(ParameterKind)}, got {self.exempt}.")
        return faults

    def augment(self, data: Dataset) -> RandomCropFlip | None:
        """Return the random changes of training images."""
        name = _SUITED.get(self.data, "none") if self.augmentation == "auto" else self.augmentation
        return None if name == "none" else RandomCropFlip(min(data.input_shape[1:]) // 8, name == "crop-flip")

    def dataset(self, *, download: bool = False) -> Dataset:
        """Load the data; see :func:`art_oat.data.load`."""
        return load(self.data, folder=self.data_folder, seed=self.seed, nb_train=self.nb_train, download=download)

    def architecture(self, data: Dataset) -> Architecture:
        """Return the plain network for images of this kind."""
        return architecture(self.network, in_channels=data.input_shape[0], nb_classes=data.nb_classes)

    def classifier(
        self, model: OATModel, data: Dataset, optimizer: torch.optim.Optimizer | None = None
    ) -> OATClassifier:
        """Return the classifier of a model for this data."""
        loss = nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)
        return OATClassifier(model, loss, data.input_shape, data.nb_classes, optimizer, clip_values=_CLIP_VALUES)


def plain_parts(method: Method) -> dict[str, Any]:
    """Return the fields of a recipe that a named method decides."""
    parts = {name: getattr(method, name) for name in ("attack", "fallback", "loss", "ema", "clean_share")}
    weight_of_one = method.sampling.weights.get(1.0, 1.0)
    return parts | {"awp": method.weight_perturbation, "weight_of_one": weight_of_one}


def train(
    recipe: Recipe, data: Dataset, *, folder: Path | None = None, keeps_best: bool = True, verbose: bool = True
) -> OATClassifier:
    """Train one network for every lam and width, and return its classifier.

    Args:
        recipe: How to train.
        data: What the recipe's ``dataset()`` gives; the test part is not looked at.
        folder: Gets the weights and ``training.csv``; None to write nothing.
        keeps_best: Whether the weights, also those in the folder, are those of the epoch with the largest area under
            the trade-off on the validation part; or else those of the last epoch.
        verbose: Whether to show progress.
    """
    trainer = trainer_for(recipe, data)
    return fit(trainer, recipe, data, folder=folder, keeps_best=keeps_best, verbose=verbose)


def trainer_for(recipe: Recipe, data: Dataset) -> OATTrainer:
    """Return what trains by a recipe; whatever cannot work together is refused here, before anything is written."""
    model = _model(recipe, data)
    groups = parameter_groups(model, recipe.weight_decay, exempt=recipe.exempt)
    optimizer = torch.optim.SGD(groups, recipe.learning_rate, momentum=0.9, nesterov=True)
    classifier = recipe.classifier(model, data, optimizer)
    return OATTrainer(classifier, recipe.method, augmentation=recipe.augment(data), seed=recipe.seed)


def fit(
    trainer: OATTrainer,
    recipe: Recipe,
    data: Dataset,
    *,
    folder: Path | None,
    keeps_best: bool,
    state_path: Path | None = None,
    verbose: bool = True,
) -> OATClassifier:
    """Let a trainer made for a recipe do its work; see :func:`train`; ``state_path`` is that of a ``ResumeFile``."""
    plain = recipe.architecture(data)
    callbacks: list[Callback] = [RestoreBest()] if keeps_best else []
    if folder is not None:
        callbacks.append(CSVLogger(folder / "training.csv"))
    if folder is not None and keeps_best:
        callbacks.append(Checkpoint(folder, plain))
    if state_path is not None:
        callbacks.append(ResumeFile(state_path))
    trainer.fit(
        *data.train,
        validation_data=Validation(*data.validation, interval=-(-recipe.nb_epochs // NB_VALIDATIONS)),
        batch_size=recipe.batch_size,
        nb_epochs=recipe.nb_epochs,
        scheduler=schedule_by_name(recipe.schedule),
        callbacks=callbacks,
        verbose=verbose,
    )
    classifier: OATClassifier = trainer.get_classifier()
    if folder is not None and not keeps_best:
        save_model(classifier.model, folder, plain)
    return classifier


def _model(recipe: Recipe, data: Dataset) -> OATModel:
    with borrowed_generators(seed=recipe.seed):
        network = recipe.architecture(data).build()
    if recipe.pretrained is not None:
        _load_weights(network, weights_file(recipe.pretrained))
    model = to_conditional(
        network,
        recipe.lambdas,
        **({"film_on": ()} if recipe.film is None else {"film": recipe.film}),
        widths=recipe.widths,
        heads=recipe.heads,
        input_shape=data.input_shape,
        seed=recipe.seed,
    )
    return model.to(memory_format=torch.channels_last) if recipe.channels_last else model  # type: ignore[call-overload]


def weights_file(path: str) -> Path:
    """Return the file that ``pretrained`` names.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"pretrained must name a file with weights, got {path}, where there is none.")
    return Path(path)


def _load_weights(network: nn.Module, path: Path) -> None:
    """Give a plain network the weights in a file; nothing in the file is executed."""
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
    except OSError:
        raise
    except Exception as error:  # whatever reading raises
        raise ValueError(
            f"pretrained must hold weights of a {type(network).__name__}, {path} does not: {error}"
        ) from error


def architecture(name: str, *, in_channels: int, nb_classes: int) -> Architecture:
    """Return the network of :mod:`art_oat.models` that a short name means; see :class:`Recipe`.

    Raises:
        ValueError: If the name means none, or the network cannot be built so.
    """
    arguments: dict[str, Any] = {"in_channels": in_channels, "nb_classes": nb_classes}
    if match := _SMALL.fullmatch(name):
        channels = [int(part) for part in match[1].split("-") if part]
        return Architecture("SmallCNN", arguments | ({"channels": channels} if channels else {}))
    if match := _WIDE.fullmatch(name):
        sizes = {"depth": int(match[1]), "widen_factor": int(match[2])}
        models.WideResNet(**sizes)  # refuses depths that there are not
        return Architecture("WideResNet", arguments | sizes)
    if name in ("resnet18", "resnet34"):
        return Architecture(name, arguments)
    raise ValueError(f"network must be small, small-16-32-64 (channels), resnet18, resnet34 or wrn-16-8, got {name!r}.")
