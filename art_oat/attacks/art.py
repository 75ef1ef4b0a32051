"""Attacks of ART, by name (``art:NAME``) and as objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from art.attacks.attack import Attack, EvasionAttack
from art.estimators.classification import PyTorchClassifier
from art.estimators.estimator import BaseEstimator
from torch import Tensor

from art_oat.attacks.library import AttackLibrary, Perturb
from art_oat.classifier import OATClassifier, PinnedClassifier
from art_oat.pinned import LiveNetwork


def _faults(attack: EvasionAttack, classifier: OATClassifier) -> list[str]:
    faults = []
    if attack.targeted:
        faults.append("attack must lead away from the labels, got one with targeted=True.")
    networks = [part for part in _parts(attack) if isinstance(part, PyTorchClassifier)]
    if not all(_is_of(it, classifier) for it in networks) or not isinstance(attack.estimator, BaseEstimator):
        name = type(attack).__name__
        faults.append(
            "an attack of ART must be made for the classifier that is trained, got one for another estimator. "
            f"Write {name}(classifier, ...) or {name}(classifier.at(lam), ...)."
        )
    return faults


def _bind(attack: EvasionAttack, view: PinnedClassifier) -> Perturb:
    memo: dict[int, Any] = {} if attack.summary_writer is None else {id(attack.summary_writer): attack.summary_writer}
    estimators = [part for part in _parts(attack) if isinstance(part, PyTorchClassifier)]
    for estimator in estimators:
        memo |= {id(estimator.model): view.model, id(estimator._model): view._model}
    for estimator in estimators:
        is_own = isinstance(estimator, OATClassifier | PinnedClassifier)
        memo[id(estimator)] = view if is_own else _twin(estimator, memo)
    bound = copy.deepcopy(attack, memo)
    for part in _parts(bound):
        if isinstance(part, Attack) and hasattr(part, "verbose"):
            part.verbose = False

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        one_hot = np.eye(view.nb_classes, dtype=np.float32)[y.cpu().numpy()]
        return torch.as_tensor(bound.generate(x.detach().cpu().numpy().astype(np.float32), y=one_hot)).to(x)

    return perturb


def _twin(estimator: PyTorchClassifier, memo: dict[int, Any]) -> PyTorchClassifier:
    """Copy an estimator that an attack made around the network; ART's own copying writes weight files."""
    twin = object.__new__(type(estimator))
    twin.__dict__.update(copy.deepcopy(vars(estimator), memo))
    return twin


def _parts(attack: Attack) -> Iterator[Any]:
    """Every attack and estimator that an attack is made of, itself included."""
    pending: list[Any] = [attack]
    seen: set[int] = set()
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Attack | BaseEstimator):
            yield part
        if isinstance(part, dict):
            pending += part.values()
        elif isinstance(part, list | tuple):
            pending += part
        elif isinstance(part, Attack) or (isinstance(part, BaseEstimator) and not isinstance(part, PyTorchClassifier)):
            pending += vars(part).values()


def _is_of(estimator: PyTorchClassifier, classifier: OATClassifier) -> bool:
    model = estimator.model.model if isinstance(estimator.model, LiveNetwork) else estimator.model
    return model is classifier.model


AttackLibrary(
    name="art",
    module="art.attacks.evasion",
    step="eps_step",
    target=lambda classifier: classifier,
    arguments=lambda norm: {"norm": np.inf if norm == "Linf" else 2, "verbose": False},
    owns=lambda attack: isinstance(attack, EvasionAttack),
    faults=_faults,
    bind=_bind,
    parts=lambda attack: [part for part in _parts(attack) if isinstance(part, EvasionAttack)],
).register()
