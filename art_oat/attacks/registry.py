"""The attacks that are called by name, for training and for evaluation."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

from art.estimators.classification import PyTorchClassifier

from art_oat.attacks.protocol import Norm, Objective
from art_oat.attacks.radius import ball_faults, step_faults
from art_oat.checks import refuse
from art_oat.classifier import OATClassifier

Use = Literal["training", "evaluation"]


@dataclass(frozen=True)
class AttackSpec:
    """An attack by name, in a ball.

    Attributes:
        name: Such as ``"pgd-7"``, see :func:`attack_named` and :func:`attacks_named`.
        eps: Radius, in units of the inputs.
        norm: Norm of the ball.
        eps_step: Step, likewise; None for the default of its kind.
    """

    name: str
    eps: float
    norm: Norm = "Linf"
    eps_step: float | None = None


@dataclass(frozen=True, kw_only=True)
class AttackKind:
    """A kind of attacks that are called by name; the file of this package that holds it calls :func:`register`.

    Attributes:
        pattern: Regular expression of the names.
        spelled: How messages write the names.
        train: Returns the attack that trains a classifier; None for a kind that does not train.
        evaluate: Returns the attacks that evaluate a classifier, one after the other, by name; None for a kind that
            does not. Seeds are drawn from the names, and reports show them.
        faults: Says what is wrong with a spec; its numbers and its norm are checked before.
        norms: The norms that it knows.
        display: Returns a name as people write it.
        reserved: Regular expression of names, in lower case, that no other attack may have.
        extra: The package that must be installed, which is also the extra of ``art-oat`` that installs it.
        install: How it is installed where there is no such extra.
        is_one_step: Whether it goes ``eps`` far at once, and may leave the ball.
        finds_nearest: Whether the attack that a name means looks for the nearest wrong answer.
    """

    pattern: str
    spelled: str
    train: Callable[[AttackSpec, OATClassifier, Objective], Any] | None = None
    evaluate: Callable[[AttackSpec, PyTorchClassifier], Mapping[str, Any]] | None = None
    faults: Callable[[AttackSpec, Use], list[str]] = lambda _spec, _use: []
    norms: tuple[Norm, ...] = ("Linf", "L2")
    display: Callable[[str], str] = str
    reserved: str | None = None
    extra: str | None = None
    install: str | None = None
    is_one_step: bool = False
    finds_nearest: Callable[[str], bool] = lambda _name: False


_KINDS: dict[str, AttackKind] = {}


def register(kind: AttackKind) -> None:
    """Make the names of a kind known."""
    _KINDS[kind.pattern] = kind


@cache
def _import_all() -> None:
    for module in pkgutil.iter_modules(importlib.import_module(__package__).__path__):
        importlib.import_module(f"{__package__}.{module.name}")


def kinds() -> list[AttackKind]:
    """Return every kind that is registered, by a file of this package or elsewhere."""
    _import_all()
    return sorted(_KINDS.values(), key=lambda kind: kind.spelled)


def kind_of(name: Any) -> AttackKind | None:
    """Return the kind that a name is of; None for what is no name, or an unknown one."""
    found = (kind for kind in kinds() if isinstance(name, str) and re.fullmatch(kind.pattern, name))
    return next(found, None)


def spelled(use: Use) -> str:
    """Return how the names of the attacks for a use are written."""
    return ", ".join(kind.spelled for kind in _usable(use))


def _usable(use: Use) -> list[AttackKind]:
    return [kind for kind in kinds() if (kind.train if use == "training" else kind.evaluate)]


def name_faults(
    name: str, *, eps: float, norm: Norm = "Linf", eps_step: float | None = None, use: Use = "training"
) -> list[str]:
    """Say why a name means no attack with these arguments, as far as that can be known without a classifier.

    Raises:
        ImportError: If the attack is of a library that is not installed.
    """
    faults, kind = ball_faults(eps, norm) + step_faults(eps_step), kind_of(name)
    usable = _usable(use)
    if kind not in usable:
        why = "" if kind is None else f", which is not for {use}"
        return [*faults, f"attack must be one of {spelled(use)}, got {name!r}{why}."]
    assert kind is not None
    if kind.extra is not None and find_spec(kind.extra) is None:
        install = kind.install or f"pip install art-oat[{kind.extra}]"
        raise ImportError(f"attack {name} needs {kind.extra}. Install it: {install}.")
    if not faults and norm not in kind.norms:
        known, others = " or ".join(map(repr, kind.norms)), ", ".join(it.spelled for it in usable if norm in it.norms)
        advice = f" For that, use {others}." if others else ""
        faults.append(f"norm must be {known} for {name}, got {norm!r}.{advice}")
    return faults or kind.faults(AttackSpec(name, eps, norm, eps_step), use)


def attack_named(
    name: str,
    classifier: OATClassifier,
    *,
    eps: float,
    norm: Norm = "Linf",
    eps_step: float | None = None,
    objective: Objective = "cross-entropy",
) -> Any:
    """Return the attack that a name means in training, as ``OATTrainer`` takes it.

    Args:
        name: ``"pgd-K"`` (K steps of :class:`PGD`), ``"n-fgsm"`` (:class:`NFGSM`; ``"n-fgsm-1"`` with a noise of
            1 eps), ``"art:NAME"`` (a class of ``art.attacks.evasion``), ``"torchattacks:NAME"``,
            ``"advlib:NAME"`` or ``"secmltorch:NAME"``, the last two also with a number of steps: ``"advlib:fmn-100"``.
        classifier: What is attacked.
        eps: Radius, as the attack counts it: in units of the inputs, for torchattacks of inputs in [0, 1].
        norm: ``"Linf"`` or ``"L2"``.
        eps_step: Step, likewise; None for the attack's default, or for ``"n-fgsm"``.
        objective: What PGD maximizes; other attacks have their own objective.

    Raises:
        ImportError: If the attack is of a library that is not installed.
        ValueError: If there is no such attack, or it does not take what is asked for; names every fault.
    """
    refuse(name_faults(name, eps=eps, norm=norm, eps_step=eps_step))
    kind = kind_of(name)
    assert kind is not None and kind.train is not None  # noqa: PT018
    return kind.train(AttackSpec(name, eps, norm, eps_step), classifier, objective)


def attacks_named(name: str, classifier: PyTorchClassifier, *, eps: float, norm: Norm) -> Mapping[str, Any]:
    """Return the attacks that a name means in evaluation, in order; see :data:`~art_oat.evaluation.suite.Attacks`.

    Raises:
        ImportError: If the attack is of a library that is not installed.
        TypeError: If the attack needs an ``OATClassifier``.
        ValueError: If there is no such attack, or not in this ball; names every fault.
    """
    refuse(name_faults(name, eps=eps, norm=norm, use="evaluation"))
    kind = kind_of(name)
    assert kind is not None and kind.evaluate is not None  # noqa: PT018
    return kind.evaluate(AttackSpec(name, eps, norm), classifier)


def is_one_step(name: Any) -> bool:
    """Whether it is the name of an attack of one step, which goes ``eps`` far and may leave the ball."""
    kind = kind_of(name)
    return kind is not None and kind.is_one_step


def is_reserved(name: str) -> bool:
    """Whether a name, or the way it is shown, is that of an attack that is called by name."""
    return any(kind.reserved and re.fullmatch(kind.reserved, name.lower()) for kind in kinds())


def display_name(name: str) -> str:
    """Return the name of an attack as people write it."""
    kind = kind_of(name)
    return name if kind is None else kind.display(name)
