"""What evaluation is tried on: networks whose robust accuracy is known, and attacks that say what they did."""

import json
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_oat import PGD, OATClassifier, to_conditional
from art_oat.evaluation import EvaluationOptions, RobustnessReport, ThreatModel, evaluate
from tests.networks import LAMBDAS, Residual, images

NB_CLASSES = 4
X = images(24, torch.float32).numpy()


def grouped(*, eps=0.05, **given) -> dict:
    """Sort keywords into the threat model, the options of an evaluation, which is quiet, and the rest."""
    threat = {name: given.pop(name) for name in ("norm", "allow_large_eps") if name in given}
    options = {it.name: given.pop(it.name) for it in fields(EvaluationOptions) if it.name in given}
    options = EvaluationOptions(**{"verbose": False, **options})
    return {**given, "eps": ThreatModel(eps, **threat) if threat else eps, "options": options}


class Linear(nn.Module):
    """Scores ``W x + b``."""

    def __init__(self, nb_classes: int = NB_CLASSES, low: float = 0.0, span: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(nb_classes, 36, generator=generator))
        self.bias = nn.Parameter(-self.weight.detach().sum(dim=1) / 2)
        self.low, self.span = low, span

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.low) / self.span).flatten(1) @ self.weight.T + self.bias


def linear_data(nb_samples: int = 8) -> tuple[Tensor, Tensor]:
    """Inputs in [0.3, 0.7], and what the linear network answers."""
    x = 0.3 + 0.4 * torch.rand(nb_samples, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return x, Linear()(x).argmax(dim=1)


def curved() -> nn.Module:
    """A network of 5 classes that has curved boundaries, near to ``X``."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 5)).eval()
    network[1].weight.data.mul_(3)
    network[3].bias.data -= network(torch.from_numpy(X)).mean(dim=0).detach()
    return network


def exact_radii(network: nn.Module, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """How far the nearest wrong answer of an affine network lies, where no pixel reaches a bound.

    The margin over every other class, over the dual norm of the difference of their weights; the least of these.
    """
    weight = torch.autograd.functional.jacobian(network, x[:1]).reshape(-1, x[0].numel())
    scores = network(x).detach()
    margins = scores.gather(1, y[:, None]) - scores
    gaps = weight[y][:, None] - weight[None]
    dual = torch.linalg.vector_norm(gaps, {"Linf": 1, "L2": 2, "L1": torch.inf}[norm], dim=2)
    others = nn.functional.one_hot(y, scores.shape[1]) == 0
    return (margins / dual)[others].view(len(x), -1).amin(dim=1)


def telling_eps(radii: Tensor) -> float:
    """A radius that breaks about half of the samples, as far from what any of them needs as can be."""
    middle = radii.sort().values[len(radii) // 4 : -(len(radii) // 4)]
    widest = int(middle.diff().argmax())
    eps = float(middle[widest] + middle[widest + 1]) / 2
    assert eps < 0.3  # a pixel of linear_data() cannot reach 0 or 1
    return eps


def plain_classifier(network: nn.Module | None = None, nb_classes: int = NB_CLASSES, **options) -> PyTorchClassifier:
    network, arguments = network or Linear(nb_classes), {"clip_values": (0, 1), **options}
    return PyTorchClassifier(network, nn.CrossEntropyLoss(), (1, 6, 6), nb_classes, device_type="cpu", **arguments)


def affine_classifier() -> OATClassifier:
    """A conditional network that is affine at every point."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, NB_CLASSES))
    model = to_conditional(network, LAMBDAS)
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), NB_CLASSES, clip_values=(0, 1))


def varied_classifier() -> OATClassifier:
    """Has several answers at every lam, not the same ones."""
    torch.manual_seed(0)
    model = to_conditional(Residual(), LAMBDAS)
    model.network.norm.film.output.weight.data.normal_(0, 0.01)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))
    model.network.head.bias.data -= classifier.at(0.3).as_module()(torch.from_numpy(X)).mean(dim=0)
    return classifier


def index_of(x: Tensor) -> list[int]:
    """Where samples stand in ``X``."""
    return [int(np.flatnonzero((image == X).reshape(len(X), -1).all(axis=1))[0]) for image in x.numpy()]


class Stopped(BaseException):
    """What a user does who stops a run."""


@dataclass
class Logged:
    """Attacks by PGD, and writes down where, under which name, and what; stops when it is asked to."""

    log: Path
    name: str = "it"
    eps: float = 0.1
    pause: float = field(default=0.0, repr=False)  # what it finds does not depend on it

    def __call__(self, network, x, y, *, clip_values=None, generator=None):
        calls = logged(self.log)
        with self.log.open("a") as file:
            file.write(json.dumps([network.network.point.lam, self.name, index_of(x)]) + "\n")
        if self.log.with_suffix(".stop").exists() and len(calls) == int(self.log.with_suffix(".stop").read_text()):
            raise Stopped
        time.sleep(self.pause)
        return PGD(self.eps, nb_steps=3)(network, x, y, clip_values=clip_values, generator=generator)


def logged(log: Path) -> list[tuple[float, str, list[int]]]:
    """What was written down so far, without a line that is not whole yet."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [tuple(json.loads(line)) for line in lines]


def answers(classifier=None) -> np.ndarray:
    """What the conditional network answers at lam 0.3, but for every fifth."""
    y = (classifier or varied_classifier()).predict(X, lam=0.3).argmax(axis=1)
    y[::5] = (y[::5] + 1) % 5
    return y


def report_of(classifier, x=X, y=None, **options) -> RobustnessReport:
    y = answers(classifier) if y is None else y
    options = {"lam": 0.0, **options} if isinstance(classifier, OATClassifier) else options
    return evaluate(classifier, x, y, **grouped(**{"attack": "pgd-3", **options}))
