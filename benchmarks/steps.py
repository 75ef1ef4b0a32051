"""Single training steps on random images, for studies of their cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn, optim

from art_oat import PGD, OATClassifier, OATTrainer, to_conditional
from art_oat.attacks import TensorAttack, bind
from art_oat.layers import DEFAULT_LAMBDAS
from art_oat.models import ResNet, WideResNet, resnet34
from art_oat.training.step import Step

NETWORKS = ("wrn-10-1", "wrn-16-2", "wrn-16-8", "wrn-40-2", "resnet-34")
NB_CLASSES, SHAPE, DROPOUT = 10, (3, 32, 32), 0.3


def plain_network(name: str) -> ResNet | WideResNet:
    """Build one of the plain networks, from torch's global generator."""
    return resnet34() if name == "resnet-34" else WideResNet(*map(int, name.split("-")[1:]), dropout=DROPOUT)


def sgd(network: nn.Module, learning_rate: float = 0.1) -> optim.SGD:
    """Return the optimizer as published."""
    return optim.SGD(network.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4)


@dataclass(frozen=True)
class StepSettings:
    """How a step is done, where it is not as ``OATTrainer`` does by default.

    Attributes:
        attack: Of the training.
        lambdas: Trained; a single one with ``has_film=False`` is plain adversarial training.
        widths: Trained.
        has_film: Whether norms are modulated.
        is_channels_last: How weights and images lie in memory.
        method: Further fields of :class:`~art_oat.Method`.
    """

    attack: TensorAttack = field(default_factory=PGD)
    lambdas: Sequence[float] = DEFAULT_LAMBDAS
    widths: Sequence[float] = (1.0,)
    has_film: bool = True
    is_channels_last: bool = False
    method: dict[str, Any] = field(default_factory=dict)


def classifier_of(network: nn.Module, settings: StepSettings) -> OATClassifier:
    """Convert a plain network."""
    film_on = None if settings.has_film else ()
    model = to_conditional(network, settings.lambdas, film_on=film_on, widths=settings.widths, input_shape=SHAPE)
    if settings.is_channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return OATClassifier(model, nn.CrossEntropyLoss(), SHAPE, NB_CLASSES, sgd(model), clip_values=(0, 1))


def plain_classifier(network: nn.Module) -> PyTorchClassifier:
    """Return ART's classifier of a plain network, with the same optimizer."""
    return PyTorchClassifier(network, nn.CrossEntropyLoss(), SHAPE, NB_CLASSES, sgd(network), clip_values=(0, 1))


def step_for(trainer: OATTrainer, generator: torch.Generator | None = None) -> Step:
    """Return what takes the steps of a trainer, by one batch per call."""
    classifier = trainer.get_classifier()
    attack = bind(trainer.method.attack, classifier, compiles=trainer.method.compile_attack)
    step = Step(classifier, trainer.method, attack, generator or torch.Generator().manual_seed(0))
    step.start_epoch(1)
    return step


def step_of(network: nn.Module, settings: StepSettings | None = None) -> Step:
    """Return what trains a plain network, once converted, by one batch per call."""
    settings = settings or StepSettings()
    return step_for(OATTrainer(classifier_of(network, settings), attack=settings.attack, **settings.method))


def batch(nb_samples: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Draw random images in [0, 1], ``[N, 3, 32, 32]``, and class indices ``[N]``; the same in every call."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(nb_samples, *SHAPE, generator=generator)
    return x.to(device), torch.randint(NB_CLASSES, (nb_samples,), generator=generator).to(device)
