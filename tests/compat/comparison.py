"""How one thing that takes an estimator is tried: on a plain network, on ``at(lam)`` and on the classifier itself.

Each case runs, from the same seeds, on a plain ``PyTorchClassifier`` around the folded network, on ``at(lam)``, and on
the ``OATClassifier`` whose default is that lam (torchattacks: on the folded network and on ``as_module()``). The
networks compute in float64, so that rounding decides no branch and the answers can be compared; the plain classifier is
run in float32, too, to tell what ART itself cannot do.
"""

from __future__ import annotations

import contextlib
import copy
import io
import random
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader

from art_oat import OATClassifier, OperatingPoint, fold, to_conditional
from art_oat.data import digits
from art_oat.models import SmallCNN

SEED = 0
LAM = 0.3
NB_SAMPLES = 4
NB_CLASSES = 10

# ---------------------------------------------------------------------------------------------------------------------
# What is attacked
# ---------------------------------------------------------------------------------------------------------------------


class Video(nn.Module):
    """Reads clips ``[N, frames, H, W, C]`` by a 3d convolution and a 3d batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.head = nn.Linear(8, NB_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.convolution(x.movedim(-1, 1))))
        scores: Tensor = self.head(x.mean(dim=(2, 3, 4)))
        return scores


class ChannelsLast(nn.Module):
    """Reads images ``[N, H, W, C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallCNN(3, NB_CLASSES, (8, 16))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x.movedim(-1, 1))
        return scores


class Probable(nn.Module):
    """Gives probabilities instead of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallCNN(3, NB_CLASSES, (8, 16))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores.softmax(dim=1)


class Tabular(nn.Module):
    """Reads vectors of 64 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, NB_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x)
        return scores


def _tinted(x: np.ndarray) -> np.ndarray:
    """Turn digits ``(N, 1, 8, 8)`` into color images ``(N, 3, 16, 16)``."""
    tint = np.array([1.0, 0.9, 0.8], dtype=np.float32).reshape(1, 3, 1, 1)
    return x.repeat(2, axis=2).repeat(2, axis=3) * tint


@dataclass(frozen=True)
class Scene:
    """A kind of input, and a network for it.

    Args:
        network: Makes the plain network that is converted.
        look: Maps digits ``(N, 1, 8, 8)`` to inputs of that kind.
        channels_first: As ART wants to be told.
    """

    network: Callable[[], nn.Module]
    look: Callable[[np.ndarray], np.ndarray]
    channels_first: bool = True


SCENES = {
    "image": Scene(lambda: SmallCNN(3, NB_CLASSES, (8, 16)), _tinted),
    "probabilities": Scene(Probable, _tinted),
    "channels last": Scene(ChannelsLast, lambda x: np.ascontiguousarray(np.moveaxis(_tinted(x), 1, -1)), False),
    "video": Scene(Video, lambda x: np.moveaxis(_tinted(x), 1, -1)[:, None].repeat(4, axis=1), False),
    "tabular": Scene(Tabular, lambda x: x.reshape(len(x), 64)),
}


def data(scene: str = "image", nb_samples: int = NB_SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Return test digits, class after class, as inputs of a scene, and their classes as indices."""
    _, _, test = digits()
    chosen = [np.flatnonzero(test.y == i % NB_CLASSES)[i // NB_CLASSES] for i in range(nb_samples)]
    return SCENES[scene].look(test.x[chosen]), test.y[chosen]


@cache
def _trained(scene: str) -> OATClassifier:
    """Return a classifier after some training at two lams; its gradients and momentum are those of the last step."""
    torch.manual_seed(SEED)
    train, _, _ = digits()
    x = SCENES[scene].look(train.x)
    model = to_conditional(SCENES[scene].network(), lambdas=(0.0, LAM, 1.0), code_dim=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    classifier = OATClassifier(
        model,
        nn.CrossEntropyLoss(),
        x.shape[1:],
        NB_CLASSES,
        optimizer,
        channels_first=SCENES[scene].channels_first,
        clip_values=(0.0, 1.0),
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    for lam, nb_epochs in ((0.0, 2), (LAM, 12)):
        classifier.lam = lam
        classifier.fit(x, train.y, batch_size=64, nb_epochs=nb_epochs, scheduler=scheduler)
    return classifier


def trained(scene: str = "image", dtype: torch.dtype = torch.float64) -> OATClassifier:
    """Return a fresh copy of a trained classifier, in training mode, with default lam 0."""
    classifier = copy.deepcopy(_trained(scene))
    classifier.model.to(dtype)
    classifier.lam = 0.0
    return classifier


class PlainClassifier(PyTorchClassifier):
    """ART's classifier, but for the draw from torch's global generator with which its ``predict`` begins to load."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        drawing_elsewhere = partial(DataLoader, generator=torch.Generator())
        with mock.patch.object(torch.utils.data, "DataLoader", drawing_elsewhere):
            return super().predict(*args, **kwargs)


def plain(classifier: OATClassifier, lam: float = LAM, **options: Any) -> PyTorchClassifier:
    """Return ART's classifier around the folded network, which casts its inputs where it is not float32."""
    network = fold(classifier.model, OperatingPoint(lam))
    dtype = next(network.parameters()).dtype
    if dtype != torch.float32:
        network.register_forward_pre_hook(lambda _, inputs: tuple(x.to(dtype) for x in inputs))
    arguments = {"channels_first": classifier.channels_first, "clip_values": (0.0, 1.0), **options}
    return PlainClassifier(network, nn.CrossEntropyLoss(), classifier.input_shape, classifier.nb_classes, **arguments)


# ---------------------------------------------------------------------------------------------------------------------
# How answers are compared, and what must be left alone
# ---------------------------------------------------------------------------------------------------------------------

Case = Callable[[Any, np.ndarray, np.ndarray], Any]
"""Answers with arrays, given an estimator (or a network), inputs, and class indices."""


@dataclass(frozen=True)
class Answer:
    """What a case gave: a value or an error, and how the global generators stood afterwards."""

    value: Any = None
    error: Exception | None = None
    generators: tuple[Any, ...] = ()

    @property
    def message(self) -> str:
        """The error on one line, or nothing."""
        if self.error is None:
            return ""
        text = " ".join(str(self.error).split())
        return f"{type(self.error).__name__}: {text[:150]}"


def _generators() -> tuple[Any, ...]:
    numpy_state = np.random.get_state()  # noqa: NPY002 - ART draws from it
    return torch.get_rng_state().tolist(), [np.asarray(part).tolist() for part in numpy_state], random.getstate()


def answer(case: Case, subject: Any, x: np.ndarray, y: np.ndarray) -> Answer:
    """Run a case from fixed seeds; its errors are part of the answer."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - ART draws from the global generators
    random.seed(SEED)
    quiet = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), quiet, tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        warnings.simplefilter("ignore")
        try:
            return Answer(case(subject, x.copy(), y.copy()), generators=_generators())
        except Exception as error:  # noqa: BLE001 - whatever a host raises
            return Answer(error=error, generators=_generators())


def is_same(first: Any, second: Any) -> bool:
    """Say whether two answers agree: arrays to 1e-4 (ART rounds scores to float32), nested as they come."""
    if isinstance(first, Tensor):
        first, second = first.detach().numpy(), second.detach().numpy()
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(is_same(first[name], second[name]) for name in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(is_same(*pair) for pair in zip(first, second, strict=True))
    if first is None or isinstance(first, str):
        return bool(first == second)
    first, second = np.asarray(first), np.asarray(second)
    if first.dtype == object:
        return is_same(list(first), list(second))
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-4, atol=1e-4, equal_nan=True)


def state(classifier: OATClassifier) -> dict[str, Any]:
    """Return all of a trained network that an attack must leave alone, by kind, as plain values."""
    model = classifier.model
    networks = [model, *(model.pinned(lam) for lam in (0.0, LAM))]
    modules = [module for network in networks for module in network.modules()]
    parameters = dict(model.named_parameters())
    return {
        "weights and statistics": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "mode": [module.training for module in modules],
        "gradients": {name: None if p.grad is None else p.grad.tolist() for name, p in parameters.items()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in parameters.items()},
        "hooks": [_nb_hooks(module) for module in modules],
        "optimizer": _listed(classifier.optimizer.state_dict()),
        "point": tuple(model.default_point),
        "loss": classifier.loss.reduction,
    }


def _nb_hooks(module: nn.Module) -> list[int]:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, name)) for name in names]


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _listed(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(part) for part in value]
    return value.tolist() if isinstance(value, Tensor) else value


def changed(classifier: OATClassifier, before: Mapping[str, Any]) -> list[str]:
    """Return which kinds of state are not as they were."""
    after = state(classifier)
    return [kind for kind, value in before.items() if after[kind] != value]


@dataclass
class Comparison:
    """How one case went on a plain network, on a view and on the classifier itself.

    Args:
        plain: What ART answers in float32, as a user would run it.
        reference: What ART answers in float64.
        faults: By subject, all that is wrong with its answer; nothing where all is well.
    """

    plain: Answer
    reference: Answer
    faults: dict[str, list[str]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``pass``, ``FAIL``, ``own fault`` (the attack fails on a plain network, too) or ``needs`` (a package)."""
        if any(self.faults.values()):
            return "FAIL"
        if self.reference.error is None:
            return "pass"
        return "needs" if self._missing else "own fault"

    @property
    def remark(self) -> str:
        """Why it is no plain pass."""
        if self.verdict == "FAIL":
            return "; ".join(f"{name}: {fault}" for name, own in self.faults.items() for fault in own)
        if self.verdict == "pass":
            return f"the plain one in float32 fails: {self.plain.message}" if self.plain.error else ""
        return self._missing or self.reference.message

    @property
    def _missing(self) -> str:
        """The package that the attack asks for."""
        error = self.reference.error
        if isinstance(error, ImportError):
            return error.name or str(error)
        return "a torchvision that can be imported" if "torchvision" in self.reference.message else ""

    def largest_change(self, x: np.ndarray) -> float | None:
        """How far the attack moved an input value, in units of ``x``; None where it gives no inputs."""
        value = self.reference.value
        value = value.detach().numpy() if isinstance(value, Tensor) else value
        is_inputs = isinstance(value, np.ndarray) and value.shape[1:] == x.shape[1:]
        return float(np.abs(value - x[: len(value)]).max()) if is_inputs else None


def _faults(actual: Answer, reference: Answer) -> list[str]:
    if type(actual.error) is not type(reference.error):
        return [f"{actual.message or 'no error'} where the plain one gives {reference.message or 'no error'}"]
    if reference.error is not None:
        return []
    faults = [] if is_same(actual.value, reference.value) else ["another answer"]
    return faults if actual.generators == reference.generators else [*faults, "other draws from a global generator"]


def left_behind(case: Case, subject: Any, x: np.ndarray, y: np.ndarray) -> tuple[Answer, set[str]]:
    """Run a case on something plain; return its answer, and what may change in a classifier that it is run on.

    Hosts set the mode of what they are given, and some leave gradients.
    """
    network = subject if isinstance(subject, nn.Module) else subject.model

    def gradients() -> list[Any]:
        return [None if parameter.grad is None else parameter.grad.tolist() for parameter in network.parameters()]

    before = gradients()
    result = answer(case, subject, x, y)
    return result, {"mode"} | ({"gradients"} if gradients() != before else set())


def compare(case: Case, scene: str = "image", nb_samples: int = NB_SAMPLES) -> Comparison:
    """Run a case on the plain classifier, on ``at(LAM)`` and on the ``OATClassifier`` with default ``LAM``.

    A view must be left alone altogether, a classifier as far as a plain one is, see :func:`left_behind`.
    """
    x, y = data(scene, nb_samples)
    classifier = trained(scene)
    reference, left = left_behind(case, plain(classifier), x, y)
    comparison = Comparison(answer(case, plain(trained(scene, torch.float32)), x, y), reference)
    single = answer(case, trained(scene, torch.float32).at(LAM), x, y)
    if single.error and not comparison.reference.error:
        comparison.faults["view in float32"] = [single.message]
    subjects = {"view": (0.0, lambda: classifier.at(LAM)), "classifier": (LAM, lambda: classifier)}
    for name, (default, make) in subjects.items():
        classifier.lam = default
        before = state(classifier)
        actual = answer(case, make(), x, y)
        comparison.faults[name] = _faults(actual, comparison.reference)
        tolerated = left if name == "classifier" else set()
        comparison.faults[name] += [f"{kind} changed" for kind in changed(classifier, before) if kind not in tolerated]
    return comparison


def compare_modules(case: Case, scene: str = "image", nb_samples: int = NB_SAMPLES) -> Comparison:
    """Run a case of torchattacks on the folded network and on ``as_module()``; some take scores in float32 alone."""
    x, y = data(scene, nb_samples)
    classifier = trained(scene)
    reference, module = plain(classifier).model, classifier.at(LAM).as_module()
    for network in (reference, module):
        network.register_forward_hook(lambda _module, _inputs, scores: scores.float())
    single = fold(trained(scene, torch.float32).model, LAM)
    comparison = Comparison(answer(case, single, x, y), answer(case, reference, x, y))
    before = state(classifier)
    comparison.faults["module"] = _faults(answer(case, module, x, y), comparison.reference)
    comparison.faults["module"] += [f"{kind} changed" for kind in changed(classifier, before)]
    return comparison


@dataclass(frozen=True)
class Trial:
    """How one thing that takes an estimator or a network is tried.

    Args:
        case: Builds it, runs it, and returns what is compared.
        scene: What it is run on.
        is_slow: Whether it takes more than about a second.
    """

    case: Case
    scene: str = "image"
    is_slow: bool = False
    nb_samples: int = NB_SAMPLES


def targets(y: np.ndarray) -> np.ndarray:
    return np.eye(NB_CLASSES, dtype=np.float32)[(y + 1) % NB_CLASSES]
