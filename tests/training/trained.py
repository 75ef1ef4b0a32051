"""What tests of training share: few samples, a cheap attack, and a training of two epochs of two steps."""

import copy
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from art_oat import PGD, Method, OATClassifier, OATModel, OATTrainer, WeightPerturbation, to_conditional
from art_oat.training import hybrid_loss
from art_oat.training.lr_stepper import scheduled
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS, Residual, images, labels

ALL_WIDTHS = {"widths": WIDTHS, "heads": "per-width"}
PERTURBED = {"weight_perturbation": WeightPerturbation(0.1)}
X, Y = images(20, torch.float32).numpy(), labels(20).numpy()
ATTACK = PGD(eps=0.1, nb_steps=2)
_PARTS = {"seed", *(field.name for field in fields(Method))}


def classifier_of(model: OATModel, learning_rate: float = 0.1, **options: object) -> OATClassifier:
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    arguments = {"input_shape": (1, 6, 6), "nb_classes": 5, "clip_values": (0, 1), **options}
    return OATClassifier(model, nn.CrossEntropyLoss(), optimizer=optimizer, **arguments)  # type: ignore[arg-type]


def fit(classifier: OATClassifier | None = None, *source: Any, **options: Any) -> OATTrainer:
    """Train on the samples, or another source; parts of the method and options of ``fit`` go by keyword."""
    parts = {name: options.pop(name) for name in _PARTS & options.keys()}
    trainer = OATTrainer(classifier or make_classifier(), **{"attack": ATTACK, **parts})
    trainer.fit(*(source or (X, Y)), **{"batch_size": 10, "nb_epochs": 2, "verbose": False, **options})
    return trainer


def with_criterion(criterion: nn.CrossEntropyLoss | None, classifier: OATClassifier | None = None) -> OATClassifier:
    classifier = classifier or make_classifier()
    classifier._loss = criterion or classifier.loss
    return classifier


def double(
    *,
    lambdas: tuple[float, ...] = LAMBDAS,
    make: type[nn.Module] = Residual,
    learning_rate: float = 0.0,
    **conversion: Any,
) -> OATClassifier:
    """In float64; at a learning rate of 0 the gradient of the last step stays the only trace in the weights."""
    torch.manual_seed(0)
    model = to_conditional(make().double(), lambdas, **conversion)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return classifier_of(model, learning_rate)


def one_step(
    classifier: OATClassifier, y: Any = Y, *, criterion: nn.CrossEntropyLoss | None = None, **options: Any
) -> OATTrainer:
    return fit(with_criterion(criterion, classifier), X, y, **{"batch_size": 20, "nb_epochs": 1, **options})


def gradients(**method: Any) -> dict[str, torch.Tensor]:
    """Those of a step."""
    classifier = double()
    one_step(classifier, **method)
    return {name: weight.grad for name, weight in classifier.model.named_parameters() if weight.grad is not None}


def state(classifier: OATClassifier) -> dict[str, torch.Tensor]:
    return copy.deepcopy(classifier.model.state_dict())


def trained(classifier: OATClassifier | None = None, *source: Any, **options: Any) -> dict[str, torch.Tensor]:
    """The state after :func:`fit`."""
    return state(fit(classifier, *source, **options).get_classifier())


def is_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


RATES = (0.4, 0.05)


def sgd() -> torch.optim.Optimizer:
    """Two groups, each with a rate of its own."""
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(2))], "lr": rate} for rate in RATES])


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def rates_at_each_step(optimizer: torch.optim.Optimizer, scheduler: Any, nb_steps: int) -> list[list[float]]:
    """The learning rates that ``nb_steps`` steps are taken with."""
    seen = []
    with scheduled(optimizer, scheduler, "step", nb_steps) as stepper:
        for _ in range(nb_steps):
            seen.append(rates_of(optimizer))
            optimizer.step()
            stepper.end_step()
    return seen


class Spy:
    """An attack that leaves inputs alone, and notes what it is given."""

    def __init__(self) -> None:
        self.networks: list[nn.Module] = []
        self.x: list[torch.Tensor] = []
        self.y: list[torch.Tensor] = []

    def __call__(self, network, x, y, *, clip_values=None, generator=None):  # type: ignore[no-untyped-def]
        self.networks.append(network)
        self.x.append(x)
        self.y.append(y)
        return x


class Watched:
    """The hybrid loss, which notes its arguments and its value."""

    def __init__(self, **claims: object) -> None:
        self.calls: list[tuple[torch.Tensor, ...]] = []
        self.values: list[float] = []
        vars(self).update(claims)

    def __call__(self, logits, logits_adv, y, lam, criterion=None):  # type: ignore[no-untyped-def]
        self.calls.append((logits, logits_adv, y, lam))
        value = hybrid_loss(logits, logits_adv, y, lam, criterion)
        self.values.append(float(value.detach()))
        return value


class Growing:
    """An attack that leaves inputs alone, and notes its share of the radius, and how many inputs it is given."""

    def __init__(self, seen: list[tuple[float, int]], factor: float = 1.0) -> None:
        self.seen, self.factor = seen, factor

    def scaled(self, factor: float) -> "Growing":
        return Growing(self.seen, factor * self.factor)

    def __call__(self, network, x, y, *, clip_values=None, generator=None):
        self.seen.append((self.factor, len(x)))
        return x
