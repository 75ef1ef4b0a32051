"""Recipes: everything that decides a training, as plain values that a file can hold and the command line can name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import nn

from art_oat.checks import refusals, refuse
from art_oat.classifier import OATClassifier
from art_oat.data import Dataset, load
from art_oat.data.augmentation import RandomCropFlip
from art_oat.data.loader import NAMES
from art_oat.fields import described
from art_oat.layers import DEFAULT_LAMBDAS
from art_oat.layers.encoding import check_lambdas
from art_oat.layers.slimmable import check_widths
from art_oat.model import OATModel
from art_oat.model_io import Architecture
from art_oat.models.registry import check_network_name, spelled
from art_oat.numbers import count_faults, flag_faults, is_name_in, number_faults, plain, plain_fields, seed_faults
from art_oat.surgery.builder import Conditioning
from art_oat.surgery.convert import Heads
from art_oat.training import Method, StratifiedSampling, parameter_groups, schedule_by_name
from art_oat.training.param_groups import ALL_KINDS, ParameterKind
from art_oat.training.schedule import SCHEDULES, Schedule

AugmentationName = Literal["auto", "crop-flip", "crop", "none"]
_SUITED: dict[str, AugmentationName] = {"cifar10": "crop-flip", "stl10": "crop-flip", "mnist": "crop", "svhn": "crop"}
OptimizerName = Literal["sgd", "adamw"]
_USUAL: dict[OptimizerName, tuple[float, float]] = {"sgd": (0.1, 5e-4), "adamw": (1e-3, 0.05)}
"""Learning rate and weight decay where none are given."""
_PATHS = ("data", "data_folder", "pretrained")
_CLIP_VALUES = (0, 1)  # of the images of every data set


def _shown(number: int) -> str:
    return " and ".join(f"{values[number]:g} with {name}" for name, values in _USUAL.items())


def _homeless(path: str | None) -> str | None:
    """Write a path without the home folder, whose name is that of its user."""
    if path is None or not Path(path).is_relative_to(home := Path.home()):
        return path
    return f"~/{Path(path).relative_to(home).as_posix()}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training from data to weights; the same recipe gives the same weights on the same machine.

    What a field means stands next to it, and in ``art-oat train --help``. Some say more:

    Attributes:
        data: As :func:`art_oat.data.load` takes it.
        nb_train: Images are kept in the classes' shares; None for all.
        network: As :func:`art_oat.models.network_named` takes it, from this library or another.
        pretrained: A ``state_dict`` as ``.safetensors`` or as ``torch.save`` writes it; None for random weights.
        film: As :func:`~art_oat.to_conditional` takes it; None to leave FiLM out. With one lam, that is the training of
            the plain network at a fixed lam: adversarial training at 1, natural training at 0.
        statistics: As :class:`~art_oat.surgery.Conditioning` takes it.
        heads: As :func:`~art_oat.to_conditional` takes it.
        method: What is learned; attacks and loss by name, the perturbation of weights as a number, no augmentation.
        schedule: As :func:`art_oat.training.schedule_by_name` takes it.
        lr_warmup: As :func:`~art_oat.training.schedule_by_name` takes it.
        optimizer: ``"sgd"`` has a Nesterov momentum of 0.9, ``"adamw"`` the betas of torch; a LayerNorm network wants
            the latter.
        exempt: Which weights do not decay, as :func:`~art_oat.training.parameter_groups` takes it.
        augmentation: ``"crop-flip"`` shifts images by up to an eighth and mirrors them at random; ``"auto"`` is
            ``"none"`` for digits and for a file.
        channels_last: The result is the same to rounding.

    Raises:
        ValueError: If a value is not as above; names every fault. What only the data or the network can tell is
            refused by :func:`~art_oat.experiment.build.trainer_for`.
    """

    data: str = described(f"One of {', '.join(NAMES)}, or a path that ends in .npz.", default=MISSING)
    data_folder: str | None = described("Where the data set lies; ART's data folder if not given.")
    nb_train: int | None = described("Training images to keep; all if not given.")
    network: str = described(f"One of {spelled()}.", default="resnet18")
    pretrained: str | None = described(
        "Weights of the plain network to start from, .safetensors or .pt; best with slow-start."
    )
    film: str | None = "linear"
    statistics: str = described(
        "dual: statistics and weights of norms for lam 0 and above it; shared: only weights; single: FiLM alone.",
        default="dual",
    )
    lambdas: tuple[float, ...] = described("The lams to train, in [0, 1].", default=DEFAULT_LAMBDAS)
    widths: tuple[float, ...] = described("Fractions of channels to train, such as 0.5 0.75 1.", default=(1.0,))
    heads: Heads = described("shared: one last layer for all widths; per-width: one for each.", default="shared")
    method: Method = field(default_factory=Method)
    nb_epochs: int = described("Passes over the training images.", default=30)
    batch_size: int = described("Samples per step, at least 2.", default=128)
    schedule: str = described(f"One of {', '.join(SCHEDULES)}.", default="one-cycle")
    lr_warmup: float | None = described(
        "Share of the training, the first, over which the learning rate rises; the schedule's own if not given."
    )
    optimizer: OptimizerName = described("sgd (with Nesterov momentum 0.9) or adamw.", default="sgd")
    learning_rate: float | None = described(f"Largest learning rate of the schedule; if not given, {_shown(0)}.")
    weight_decay: float | None = described(
        f"Of convolutions and linear layers, not of norms and FiLM; if not given, {_shown(1)}."
    )
    exempt: tuple[ParameterKind, ...] = ALL_KINDS
    augmentation: AugmentationName = described(
        "crop-flip, crop, none, or auto: what suits the data set.", default="auto"
    )
    label_smoothing: float = described("Share of every label spread over all, below 1.", default=0.0)
    channels_last: bool = described("Lay weights and images out with channels last, which is faster.", default=False)
    seed: int = described("Seed of the split, the weights and the training.", default=0)

    def __post_init__(self) -> None:
        plain_fields(self)
        for name in ("lambdas", "widths", "exempt"):
            if isinstance(values := getattr(self, name), Iterable):  # a file gives a list
                object.__setattr__(self, name, tuple(plain(value) for value in values))
        faults = refusals(
            lambda: Conditioning(statistics=self.statistics),
            lambda: check_network_name(self.network),
            self.scheduler,
            lambda: check_lambdas(self.lambdas),
            lambda: check_widths(self.widths),
        )
        refuse([*faults, *self._number_faults(), *self._choice_faults()])
        for name in _PATHS:
            path = getattr(self, name)
            if path is not None and (name != "data" or path.endswith(".npz")):
                object.__setattr__(self, name, str(Path(path).expanduser().resolve()))

    def _number_faults(self) -> list[str]:
        counts = {"nb_epochs": self.nb_epochs, "batch_size": self.batch_size}
        faults = count_faults(counts | ({} if self.nb_train is None else {"nb_train": self.nb_train}))
        if self.batch_size == 1:
            faults.append("batch_size must be at least 2, got 1: lam = 0 would get every batch.")
        faults += seed_faults(self.seed)
        faults += number_faults({"label_smoothing": self.label_smoothing}, "lie in [0, 1)", lambda it: 0 <= it < 1)
        rate, decay = self.learning_rate, self.weight_decay
        if rate is not None:
            faults += number_faults({"learning_rate": rate}, "be a number above 0, or None", lambda it: it > 0)
        if decay is not None:
            faults += number_faults({"weight_decay": decay}, "be a number of at least 0, or None", lambda it: it >= 0)
        return faults

    def _choice_faults(self) -> list[str]:
        faults = []
        if not is_name_in(self.augmentation, get_args(AugmentationName)):
            faults.append(f"augmentation must be one of {get_args(AugmentationName)}, got {self.augmentation!r}.")
        if not is_name_in(self.optimizer, _USUAL):
            faults.append(f"optimizer must be one of {tuple(_USUAL)}, got {self.optimizer!r}.")
        faults += flag_faults({"channels_last": self.channels_last})
        usual = (self.heads, self.method.width_sampling, self.method.distills) == ("shared", "random", False)
        if self.widths == (1.0,) and not usual:
            faults.append("heads, width_sampling and distills are for several widths: name them, such as 0.5 0.75 1.")
        method = self.method
        plain = {"attack": str, "fallback": str | None, "loss": str, "weight_perturbation": float | int | None}
        return faults + [
            f"method must hold {name} by name or as a number in a recipe, got {getattr(method, name)!r}."
            for name, kind in {**plain, "augmentation": type(None)}.items()
            if not isinstance(getattr(method, name), kind)
        ]

    def changed(self, **changes: Any) -> Self:
        """Return the recipe with other fields, of its own or of its method."""
        own = {part.name for part in fields(self)}
        method = replace(self.method, **{name: value for name, value in changes.items() if name not in own})
        return replace(self, **{"method": method, **{name: value for name, value in changes.items() if name in own}})

    def as_values(self) -> dict[str, Any]:
        """Return the recipe as JSON can hold it; where files lie in a home folder is written as ``~/...``."""
        values = asdict(self)
        values |= {name: _homeless(values[name]) for name in _PATHS}
        weights = self.method.sampling.weights
        values["method"]["sampling"] = {str(lam): weight for lam, weight in weights.items()}
        return values

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the recipe that :meth:`as_values` wrote.

        Raises:
            KeyError: If there is no method.
            TypeError: If the values are those of another version.
            ValueError: Likewise.
        """
        method = dict(values["method"])
        sampling = StratifiedSampling({float(lam): weight for lam, weight in method.pop("sampling").items()})
        return cls(**{**values, "method": Method(**method, sampling=sampling)})

    def augment(self, data: Dataset) -> RandomCropFlip | None:
        """Return the random changes of training images."""
        name = _SUITED.get(self.data, "none") if self.augmentation == "auto" else self.augmentation
        return None if name == "none" else RandomCropFlip(min(data.input_shape[1:]) // 8, name == "crop-flip")

    def dataset(self, *, download: bool = False, keeps_levels: bool = False) -> Dataset:
        """Load the data; see :func:`art_oat.data.load`."""
        options: dict[str, Any] = {"download": download, "keeps_levels": keeps_levels}
        return load(self.data, folder=self.data_folder, seed=self.seed, nb_train=self.nb_train, **options)

    def architecture(self, data: Dataset) -> Architecture:
        """Return the plain network for images of this kind."""
        in_channels, *image_size = data.input_shape
        task = {"in_channels": in_channels, "nb_classes": data.nb_classes, "image_size": image_size}
        return Architecture("network_named", {"name": self.network, **task})

    def scheduler(self) -> Schedule:
        """Return what the learning rate goes by."""
        return schedule_by_name(self.schedule, lr_warmup=self.lr_warmup)

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return what takes the steps, also those of a plain network."""
        rate, decay = _USUAL[self.optimizer]
        rate = rate if self.learning_rate is None else self.learning_rate
        groups = parameter_groups(model, decay if self.weight_decay is None else self.weight_decay, exempt=self.exempt)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, rate)
        return torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True)

    def classifier(
        self,
        model: OATModel,
        input_shape: tuple[int, ...],
        nb_classes: int,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        device_type: str = "auto",
    ) -> OATClassifier:
        """Return the classifier of a model for images of ``input_shape``; see :class:`OATClassifier`."""
        loss = nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)
        parts = (model, loss, input_shape, nb_classes, optimizer)
        return OATClassifier(*parts, clip_values=_CLIP_VALUES, device_type=device_type)
