"""Every evasion attack of ART, and every attack of torchattacks, on a plain network and on art_oat at one lam.

    python benchmarks/art_attacks.py            # a few minutes; writes results/art_attacks.csv and .md
    python benchmarks/art_attacks.py --smoke    # the quick attacks only; writes nothing

Each attack runs, from the same seeds, on a plain ``PyTorchClassifier`` around the folded network, on ``at(lam)``, and
on the ``OATClassifier`` itself whose default is that lam (torchattacks: on the folded network and on ``as_module()``).
The networks compute in float64, so that rounding decides no branch and the answers can be compared; the plain
classifier is run in float32, too, to tell what ART itself cannot do. The script fails where an answer differs, where
the draws from a global generator differ, or where a trained network is not as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import importlib.metadata
import importlib.util
import inspect
import io
import logging
import platform
import random
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchattacks
from art.attacks import evasion
from art.attacks.evasion.laser_attack.laser_attack import LaserBeam, LaserBeamGenerator
from art.attacks.evasion.laser_attack.utils import Line
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader

from art_oat import OATClassifier, OperatingPoint, fold, to_conditional
from art_oat.data import digits
from art_oat.models import SmallCNN
from art_oat.storage import write_whole

RESULTS = Path(__file__).parent / "results"
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


# ---------------------------------------------------------------------------------------------------------------------
# The attacks
# ---------------------------------------------------------------------------------------------------------------------


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


def _targets(y: np.ndarray) -> np.ndarray:
    return np.eye(NB_CLASSES, dtype=np.float32)[(y + 1) % NB_CLASSES]


def _evade(
    name: str,
    *,
    scene: str = "image",
    is_slow: bool = False,
    labels: str = "true",
    nb_samples: int = NB_SAMPLES,
    **options: Any,
) -> Trial:
    """An attack that is built from an estimator and options, and called with inputs and labels."""

    def case(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
        attack = getattr(evasion, name)(estimator, **options)
        given = {"true": y, "targets": _targets(y), "one-hot": np.eye(NB_CLASSES)[y], "none": None}[labels]
        return attack.generate(x, given)

    return Trial(case, scene, is_slow, nb_samples)


def _low_profool(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = evasion.LowProFool(estimator, n_steps=10, importance=np.full(64, 1 / 64))
    return attack.generate(x, _targets(y))


def _laser(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    low, high = LaserBeam(380, 1, Line(0, 0)), LaserBeam(780, 8, Line(3.14, 16))
    return evasion.LaserAttack(estimator, 5, LaserBeamGenerator(low, high), random_initializations=1).generate(x, y)


def _feature_numpy(estimator: Any, x: np.ndarray, _: np.ndarray) -> Any:
    return evasion.FeatureAdversariesNumpy(estimator, delta=0.2, layer=0).generate(x[:1], x[1:2], maxiter=3)


def _feature_pytorch(estimator: Any, x: np.ndarray, _: np.ndarray) -> Any:
    attack = evasion.FeatureAdversariesPyTorch(
        estimator, delta=0.2, layer=0, max_iter=5, step_size=0.05, random_start=True, verbose=False
    )
    return attack.generate(x, x[::-1].copy())


def _frame_saliency(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attacker = evasion.FastGradientMethod(estimator, eps=0.3)
    return evasion.FrameSaliencyAttack(estimator, attacker, verbose=False).generate(x, y)


def _patch_numpy(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    return evasion.AdversarialPatchNumpy(estimator, max_iter=3, batch_size=4, verbose=False).generate(x, _targets(y))


def _patch_pytorch(name: str) -> Trial:
    def case(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
        attack = getattr(evasion, name)(estimator, patch_shape=(3, 16, 16), max_iter=3, batch_size=4, verbose=False)
        return attack.generate(x, _targets(y))

    return Trial(case)


def _graphite_blackbox(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = evasion.GRAPHITEBlackbox(
        estimator, (16, 16), (16, 16), num_xforms_mask=4, num_xforms_boost=4, num_boost_queries=50, blur_kernels=(0,)
    )
    return attack.generate(x[:1], _targets(y)[:1], x_tar=x[1:2])


def _graphite_whitebox(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = evasion.GRAPHITEWhiteboxPyTorch(
        estimator, (16, 16), step_size=0.1, min_tr=0.5, num_xforms=2, steps=3, first_steps=10, blur_kernels=(0,)
    )
    return attack.generate(x[:1], _targets(y)[:1])


def _boundary(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = evasion.BoundaryAttack(estimator, targeted=False, max_iter=10, verbose=False)
    return attack.generate(x, y, x_adv_init=x[::-1].copy())  # left to itself, it draws a start that no seed fixes


def _hop_skip_jump(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    attack = evasion.HopSkipJump(estimator, max_iter=3, max_eval=200, init_eval=20, verbose=False)
    return attack.generate(x, y, x_adv_init=x[::-1].copy())  # as the boundary attack


def _brendel_bethge(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
    from art.attacks.evasion.brendel_bethge import BrendelBethgeAttack  # is there only where numba is

    return BrendelBethgeAttack(estimator, steps=5).generate(x, y, starting_points=x[::-1].copy())


QUIET: dict[str, Any] = {"verbose": False}
GRADIENT: dict[str, Any] = {"eps": 0.2, "eps_step": 0.05, "max_iter": 4, **QUIET}
CARLINI: dict[str, Any] = {"initial_const": 10.0, "learning_rate": 0.1, "max_iter": 10, **QUIET}
AUTO: dict[str, Any] = {"eps": 0.2, "eps_step": 0.1, "max_iter": 4, "nb_random_init": 1, **QUIET}


ART_ATTACKS: dict[str, Trial] = {
    "AdversarialPatch": _patch_pytorch("AdversarialPatch"),
    "AdversarialPatchNumpy": Trial(_patch_numpy),
    "AdversarialPatchPyTorch": _patch_pytorch("AdversarialPatchPyTorch"),
    "AutoAttack": _evade("AutoAttack", eps=0.1, eps_step=0.05, is_slow=True),
    "AutoConjugateGradient": _evade("AutoConjugateGradient", **AUTO, loss_type="cross_entropy"),
    "AutoProjectedGradientDescent": _evade("AutoProjectedGradientDescent", **AUTO, loss_type="difference_logits_ratio"),
    "BasicIterativeMethod": _evade("BasicIterativeMethod", **GRADIENT),
    "BoundaryAttack": Trial(_boundary),
    "BrendelBethgeAttack": Trial(_brendel_bethge, is_slow=True),
    "CarliniL0Method": _evade("CarliniL0Method", **CARLINI, binary_search_steps=2, is_slow=True),
    "CarliniL2Method": _evade("CarliniL2Method", **CARLINI, binary_search_steps=2),
    "CarliniLInfMethod": _evade("CarliniLInfMethod", **CARLINI, largest_const=11.0, is_slow=True),
    "CompositeAdversarialAttackPyTorch": _evade(
        "CompositeAdversarialAttackPyTorch", max_iter=2, max_inner_iter=2, batch_size=4, **QUIET
    ),
    "DeepFool": _evade("DeepFool", max_iter=10, nb_grads=5, **QUIET),
    "ElasticNet": _evade("ElasticNet", **CARLINI, binary_search_steps=2),
    "FastGradientMethod": _evade("FastGradientMethod", eps=0.2, num_random_init=2),
    "FeatureAdversariesNumpy": Trial(_feature_numpy, is_slow=True),
    "FeatureAdversariesPyTorch": Trial(_feature_pytorch),
    "FrameSaliencyAttack": Trial(_frame_saliency, "video", is_slow=True),
    "GRAPHITEBlackbox": Trial(_graphite_blackbox, is_slow=True),
    "GRAPHITEWhiteboxPyTorch": Trial(_graphite_whitebox, is_slow=True),
    "GeoDA": _evade("GeoDA", max_iter=1000, sub_dim=5, **QUIET),
    "HopSkipJump": Trial(_hop_skip_jump),
    "LaserAttack": Trial(_laser, "channels last"),
    "LowProFool": Trial(_low_profool, "tabular"),
    "MomentumIterativeMethod": _evade("MomentumIterativeMethod", **GRADIENT),
    "NewtonFool": _evade("NewtonFool", max_iter=5, **QUIET),
    "OverTheAirFlickeringPyTorch": _evade("OverTheAirFlickeringPyTorch", scene="video", max_iter=3, **QUIET),
    "PixelAttack": _evade("PixelAttack", th=10, es=1, max_iter=5, is_slow=True),
    "ProjectedGradientDescent": _evade("ProjectedGradientDescent", **GRADIENT, num_random_init=2),
    "ProjectedGradientDescentNumpy": _evade("ProjectedGradientDescentNumpy", **GRADIENT, norm=2, num_random_init=1),
    "ProjectedGradientDescentPyTorch": _evade(
        "ProjectedGradientDescentPyTorch", **GRADIENT, num_random_init=2, targeted=True, labels="targets"
    ),
    "RescalingAutoConjugateGradient": _evade(
        "RescalingAutoConjugateGradient", **AUTO, loss_type="difference_logits_ratio"
    ),
    "SaliencyMapMethod": _evade("SaliencyMapMethod", theta=0.5, gamma=0.02, **QUIET, labels="targets"),
    "ShadowAttack": _evade("ShadowAttack", nb_steps=5, batch_size=1, nb_samples=1, **QUIET),
    "SignOPTAttack": _evade(
        "SignOPTAttack", is_slow=True, targeted=False, num_trial=5, max_iter=3, k=5, query_limit=500, **QUIET
    ),
    "SimBA": _evade("SimBA", scene="probabilities", labels="one-hot", max_iter=20, epsilon=0.3, **QUIET),
    "SpatialTransformation": _evade(
        "SpatialTransformation", max_translation=10, num_translations=3, max_rotation=20, num_rotations=3, **QUIET
    ),
    "SquareAttack": _evade("SquareAttack", max_iter=10, eps=0.2, **QUIET),
    "TargetedUniversalPerturbation": _evade(
        "TargetedUniversalPerturbation",
        attacker="fgsm",
        max_iter=5,
        eps=0.5,
        labels="targets",
        attacker_params={"targeted": True, "eps": 0.5},
    ),
    "ThresholdAttack": _evade("ThresholdAttack", th=64, es=1, max_iter=1, nb_samples=2, is_slow=True),
    "UniversalPerturbation": _evade(
        "UniversalPerturbation", attacker="pgd", max_iter=2, eps=0.3, **QUIET, attacker_params={**GRADIENT}
    ),
    "VirtualAdversarialMethod": _evade(
        "VirtualAdversarialMethod", scene="probabilities", nb_samples=2, is_slow=True, max_iter=1, eps=0.3, **QUIET
    ),
    "Wasserstein": _evade(
        "Wasserstein",
        regularization=100,
        max_iter=5,
        conjugate_sinkhorn_max_iter=5,
        projected_sinkhorn_max_iter=5,
        batch_size=4,
        **QUIET,
    ),
    "ZooAttack": _evade(
        "ZooAttack",
        is_slow=True,
        initial_const=10.0,
        learning_rate=0.1,
        max_iter=20,
        nb_parallel=64,
        use_resize=False,
        use_importance=False,
        **QUIET,
    ),
}

EXTRAS: dict[str, str] = {
    "AutoAttack": "multiprocess",
    "BrendelBethgeAttack": "numba",
    "CompositeAdversarialAttackPyTorch": "kornia",
    "GRAPHITEBlackbox": "cv2",
    "GRAPHITEWhiteboxPyTorch": "cv2 and kornia",
}
"""Packages that ART neither asks for when it is installed nor does without."""

ART_NEEDS: dict[str, str] = {
    "AdversarialPatchTensorFlowV2": "TensorFlow",
    "AdversarialTexturePyTorch": "an object tracker on video",
    "CarliniWagnerASR": "a speech recognizer",
    "DPatch": "an object detector",
    "DecisionTreeAttack": "a scikit-learn decision tree",
    "FeatureAdversariesTensorFlowV2": "TensorFlow",
    "HighConfidenceLowUncertainty": "a GPy Gaussian process",
    "ImperceptibleASR": "a speech recognizer",
    "ImperceptibleASRPyTorch": "a speech recognizer",
    "MalwareGDTensorFlow": "TensorFlow, on malware",
    "OverloadPyTorch": "an object detector (YOLO)",
    "ProjectedGradientDescentTensorFlowV2": "TensorFlow",
    "RobustDPatch": "an object detector",
    "SNAL": "an object detector",
}


def _torch_attack(name: str, *, is_slow: bool = False, **options: Any) -> Trial:
    """An attack of torchattacks, built from a network and options."""

    def case(network: nn.Module, x: np.ndarray, y: np.ndarray) -> Tensor:
        attack = getattr(torchattacks, name)(network, **options)
        result: Tensor = attack(torch.from_numpy(x), torch.from_numpy(y))
        return result

    return Trial(case, is_slow=is_slow)


def _multi_attack(network: nn.Module, x: np.ndarray, y: np.ndarray) -> Tensor:
    parts = [torchattacks.FGSM(network, eps=0.1), torchattacks.PGD(network, eps=0.2, steps=3)]
    result: Tensor = torchattacks.MultiAttack(parts)(torch.from_numpy(x), torch.from_numpy(y))
    return result


STEPS: dict[str, Any] = {"eps": 0.1, "alpha": 0.03, "steps": 3}
EAD: dict[str, Any] = {"binary_search_steps": 2, "max_iterations": 10, "initial_const": 10.0, "lr": 0.1}

TORCH_ATTACKS: dict[str, Trial] = {
    "APGD": _torch_attack("APGD", eps=0.1, steps=5),
    "APGDT": _torch_attack("APGDT", eps=0.1, steps=5),
    "AutoAttack": _torch_attack("AutoAttack", eps=0.03, seed=SEED, is_slow=True),
    "BIM": _torch_attack("BIM", **STEPS),
    "CW": _torch_attack("CW", c=10, steps=10, lr=0.1),
    "DIFGSM": _torch_attack("DIFGSM", **STEPS),
    "DeepFool": _torch_attack("DeepFool", steps=10),
    "EADEN": _torch_attack("EADEN", **EAD),
    "EADL1": _torch_attack("EADL1", **EAD),
    "EOTPGD": _torch_attack("EOTPGD", **STEPS),
    "FAB": _torch_attack("FAB", eps=0.1, steps=3),
    "FFGSM": _torch_attack("FFGSM", eps=0.1),
    "FGSM": _torch_attack("FGSM", eps=0.1),
    "GN": _torch_attack("GN"),
    "JSMA": _torch_attack("JSMA", gamma=0.02, is_slow=True),
    "Jitter": _torch_attack("Jitter", **STEPS),
    "MIFGSM": _torch_attack("MIFGSM", **STEPS),
    "MultiAttack": Trial(_multi_attack),
    "NIFGSM": _torch_attack("NIFGSM", **STEPS),
    "OnePixel": _torch_attack("OnePixel", pixels=3, steps=3, popsize=10),
    "PGD": _torch_attack("PGD", **STEPS),
    "PGDL2": _torch_attack("PGDL2", steps=3),
    "PGDRS": _torch_attack("PGDRS", **STEPS),
    "PGDRSL2": _torch_attack("PGDRSL2", steps=3),
    "PIFGSM": _torch_attack("PIFGSM", max_epsilon=0.1, num_iter_set=3),
    "PIFGSMPP": _torch_attack("PIFGSMPP", max_epsilon=0.1, num_iter_set=3),
    "Pixle": _torch_attack("Pixle", restarts=3, max_iterations=5),
    "RFGSM": _torch_attack("RFGSM", **STEPS),
    "SINIFGSM": _torch_attack("SINIFGSM", **STEPS),
    "SPSA": _torch_attack("SPSA", eps=0.1, nb_sample=16, max_batch_size=16),
    "SparseFool": _torch_attack("SparseFool", steps=3, is_slow=True),
    "Square": _torch_attack("Square", eps=0.2, n_queries=20),
    "TIFGSM": _torch_attack("TIFGSM", **STEPS),
    "TPGD": _torch_attack("TPGD", **STEPS),
    "UPGD": _torch_attack("UPGD", **STEPS),
    "VANILA": _torch_attack("VANILA"),
    "VMIFGSM": _torch_attack("VMIFGSM", **STEPS),
    "VNIFGSM": _torch_attack("VNIFGSM", **STEPS),
}

TORCH_NEEDS: dict[str, str] = {"LGV": "a network that it may train: fold(model, point)"}

# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Library:
    """All attacks of one library.

    Args:
        names: What it has.
        attacks: How each is run that can be.
        needs: What each of the others needs.
        compare: How one is compared.
    """

    names: frozenset[str]
    attacks: Mapping[str, Trial]
    needs: Mapping[str, str]
    compare: Callable[[Case, str, int], Comparison]

    def unlisted(self) -> set[str]:
        """Return what the table says nothing about."""
        return set(self.names) - set(self.attacks) - set(self.needs)


LIBRARIES = {
    "ART": Library(
        frozenset(name for name, kind in vars(evasion).items() if inspect.isclass(kind)) | {"BrendelBethgeAttack"},
        ART_ATTACKS,
        ART_NEEDS,
        compare,
    ),
    "torchattacks": Library(frozenset(torchattacks.__all__), TORCH_ATTACKS, TORCH_NEEDS, compare_modules),
}


def rows(is_smoke: bool) -> Iterator[dict[str, str]]:
    """Run everything; yield a row per attack."""
    for library, kind in LIBRARIES.items():
        for name in sorted(kind.names):
            attack = kind.attacks.get(name)
            if is_smoke and (attack is None or attack.is_slow):
                continue
            row = {"library": library, "attack": name, "input": "", "verdict": "needs", "largest change": ""}
            if attack is None:
                yield {**row, "remark": kind.needs.get(name, "UNLISTED")}
                continue
            comparison = kind.compare(attack.case, attack.scene, attack.nb_samples)
            x, _ = data(attack.scene, attack.nb_samples)
            change = comparison.largest_change(x)
            with_extra = f"with {EXTRAS[name]}" if library == "ART" and name in EXTRAS else ""
            remark = comparison.remark or with_extra
            row |= {"input": attack.scene, "verdict": comparison.verdict, "remark": remark}
            yield {**row, "largest change": "" if change is None else f"{change:.2f}"}


def environment() -> dict[str, str]:
    """Return what the table depends on."""
    packages = ("adversarial-robustness-toolbox", "torchattacks", "torch", "numpy")
    optional = ("numba", "kornia", "opencv-python-headless", "multiprocess")
    modules = dict.fromkeys(optional, "cv2") | {name: name for name in optional if "-" not in name}
    at_hand = [name for name in optional if importlib.util.find_spec(modules[name])]
    return {
        "command": "python benchmarks/art_attacks.py",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "optional packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in at_hand) or "none",
        "seed": str(SEED),
        "lam": str(LAM),
        "machine": platform.machine(),
    }


def markdown(measured: list[dict[str, str]], surroundings: Mapping[str, str]) -> str:
    """Return the table for readers."""
    lines = ["# Attacks of ART and torchattacks on art_oat", "", *LEGEND, ""]
    lines += [f"- {name}: {value}" for name, value in surroundings.items()]
    for library in LIBRARIES:
        own = [row for row in measured if row["library"] == library]
        counts = Counter(row["verdict"] for row in own)
        lines += ["", f"## {library}: " + ", ".join(f"{verdict} {count}" for verdict, count in counts.items()), ""]
        lines += ["| attack | input | verdict | remark | largest change |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(row[name].replace('|', '/') for name in COLUMNS)} |" for row in own]
    return "\n".join(lines) + "\n"


COLUMNS = ("attack", "input", "verdict", "remark", "largest change")
LEGEND = (
    "*pass*: from the same seeds, the attack does to `at(lam)` and to the `OATClassifier` itself (torchattacks: to",
    "`at(lam).as_module()`) what it does to a plain network, draws the same from the global generators, and leaves",
    "weights, statistics, modes, gradients, hooks and optimizer of the trained network as they were. *own fault*: it",
    "fails on the plain network, too. *needs*: what it asks for. *largest change*: of an input value, on the plain",
    "network.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="the quick attacks only, nothing written")
    is_smoke = parser.parse_args().smoke
    logging.disable(logging.WARNING)
    measured = []
    for row in rows(is_smoke):
        print(f"{row['library']:>12} {row['attack']:36} {row['verdict']:10} {row['remark']}", flush=True)
        measured.append(row)
    if not is_smoke:
        surroundings = environment()
        with write_whole(RESULTS / "art_attacks.csv") as file:
            writer = csv.DictWriter(file, ["library", *COLUMNS, *surroundings], lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, **surroundings} for row in measured)
        with write_whole(RESULTS / "art_attacks.md") as file:
            file.write(markdown(measured, surroundings))
    if any(row["verdict"] == "FAIL" or row["remark"] == "UNLISTED" for row in measured):
        raise SystemExit("an attack does to art_oat what it does not do to a plain network; see above")


if __name__ == "__main__":
    main()
