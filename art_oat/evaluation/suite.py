"""Suites of attacks that evaluate a network one after the other, called by name or made of any attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from art.estimators.classification import PyTorchClassifier

from art_oat.attacks import (
    Attack,
    BoundAttack,
    ByLam,
    Norm,
    Radius,
    TensorAttack,
    ball_faults,
    bind,
    format_apart,
    format_eps,
    is_tensor_attack,
    radii_of,
    trial_faults,
)
from art_oat.attacks.autoattack import AutoAttack
from art_oat.attacks.library import check_can_bind, libraries
from art_oat.attacks.registry import attacks_named, is_reserved
from art_oat.checks import refuse
from art_oat.condition import OperatingPoint
from art_oat.fingerprint import Plain, fingerprint
from art_oat.numbers import shown

Attacks = str | Attack | Sequence[str | Attack] | Mapping[str, str | Attack]
"""What evaluates: a name, see ``evaluate``, an attack, several of these, or a mapping from names of one's own."""


@dataclass(frozen=True)
class AttackSuite:
    """Attacks that run one after the other, each on the samples that none has broken yet.

    Attributes:
        name: What its figures are called.
        attacks: Its attacks by name, in order.
        description: Tells it from a suite that could find something else.
    """

    name: str
    attacks: Mapping[str, TensorAttack | BoundAttack]
    description: Plain

    def at(self, point: OperatingPoint | None) -> dict[str, TensorAttack]:
        """Return its attacks on the network of one point; None for a plain network."""
        return {
            name: attack.at(point) if isinstance(attack, BoundAttack) and point is not None else attack  # type: ignore[misc]
            for name, attack in self.attacks.items()
        }


def suites_of(
    attack: Attacks, classifier: PyTorchClassifier, *, eps: float, norm: Norm, allow_large_eps: bool = False
) -> tuple[list[AttackSuite], list[str]]:
    """Return a suite for each attack, and all that is wrong with them.

    Args:
        attack: One or several, see :data:`Attacks`.
        classifier: What is attacked.
        eps: Radius, in units of ``x``.
        norm: Norm of the ball.
        allow_large_eps: Whether radii, also those of attacks given, may be half the range of ``x``, or more.
    """
    faults = ball_faults(eps, norm)
    named = _with_names(attack)
    if not named:
        faults.append("attack must name at least one attack, got none.")
    if unnamed := [name for name, _ in named if not isinstance(name, str | None)]:
        faults.append(f"attack must give attacks by name, got {shown(unnamed[0])} for a name.")
    is_sound = not faults
    radii = [Radius(eps, norm, classifier.clip_values, classifier.input_shape)]
    radii += [radius for _, it in named for radius in radii_of(it, classifier)]
    faults += [fault for radius in radii for fault in radius.faults(allow_large_eps=allow_large_eps)]
    found = []
    for name, it in named if is_sound else ():
        try:
            found.append(_suite(name, it, classifier, eps, norm))
        except (TypeError, ValueError, ImportError) as error:
            faults.append(str(error))
    names = [suite.name for suite in found]
    if len(set(names)) < len(names):
        faults.append(f"attacks must have different names, got {names}. Name them: attack={{'a': ..., 'b': ...}}.")
    return found, list(dict.fromkeys(faults))


def _with_names(attack: Any) -> list[tuple[str | None, Any]]:
    if isinstance(attack, Mapping):
        return list(attack.items())
    if isinstance(attack, str) or not isinstance(attack, Sequence):
        return [(None, attack)]
    are_names = all(isinstance(it, str) for it in attack)
    return [(None, it) for it in (dict.fromkeys(attack) if are_names else attack)]


def _suite(name: str | None, attack: Any, classifier: PyTorchClassifier, eps: float, norm: Norm) -> AttackSuite:
    usual = _usual_name(attack)
    if isinstance(attack, str):
        attacks = attacks_named(attack, classifier, eps=eps, norm=norm)
    else:
        attacks = attack.in_parts() if isinstance(attack, AutoAttack) else {usual.partition(":")[2] or usual: attack}
    for it in attacks.values():
        if isinstance(it, AutoAttack):
            faults = it.faults(classifier.nb_classes, classifier.clip_values)
            refuse([*_other_ball_faults(it, eps, norm), *faults])
    bound = {part: _bound(part, it, classifier) for part, it in attacks.items()}
    name = usual if name is None else name
    if (name != usual and is_reserved(name)) or (not isinstance(attack, str | AutoAttack) and is_reserved(usual)):
        raise ValueError(f"attacks must not be named as others are, got {name!r} for {usual}. Name it otherwise.")
    return AttackSuite(name, bound, attack if isinstance(attack, str) else fingerprint(attack))


def _usual_name(attack: Any) -> str:
    """Return what an attack is called; parts of AutoAttack by what they are, never by its name."""
    if isinstance(attack, str):
        return attack
    if isinstance(attack, AutoAttack):
        return attack.name
    package = type(attack).__module__.partition(".")[0]
    prefix = f"{package}:" if package in {library.name for library in libraries()} else ""
    return prefix + str(getattr(attack, "__name__", type(attack).__name__))


def _other_ball_faults(attack: AutoAttack, eps: float, norm: Norm) -> list[str]:
    if (attack.eps, attack.norm) == (eps, norm):
        return []
    own, other = format_apart(eps, attack.eps) if attack.eps != eps else (format_eps(eps),) * 2
    return [f"AutoAttack must have the eps and norm of the evaluation, {own} ({norm}), got {other} ({attack.norm})."]


def _bound(name: str, attack: Any, classifier: PyTorchClassifier) -> TensorAttack | BoundAttack:
    """Bind an attack where it needs that, and refuse it where it cannot take the inputs."""
    if is_tensor_attack(attack):
        tensor_attack: TensorAttack = attack
        return tensor_attack
    if isinstance(attack, ByLam):
        raise TypeError("attack must be one attack for every lam, got a ByLam, which is for training: name one of its.")
    check_can_bind(name, classifier)
    refuse(trial_faults(attack, classifier))
    return bind(attack, classifier)
