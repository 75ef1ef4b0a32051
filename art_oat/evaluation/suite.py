"""Owns what judges a network: engines, called by name or made of any attack."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from art.estimators.classification import PyTorchClassifier

from art_oat.attacks import (
    PGD,
    Attack,
    BoundAttack,
    Norm,
    Radius,
    TensorAttack,
    attack_named,
    bind,
    format_apart,
    format_eps,
    is_tensor_attack,
    radii_of,
    trial_faults,
)
from art_oat.attacks.autoattack import AutoAttack, ball_faults
from art_oat.attacks.registry import name_faults as outside_faults
from art_oat.checks import refuse
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.storage import Plain, fingerprint

Judge: TypeAlias = str | Attack
"""What judges: a name, or an attack."""

_PGD = re.compile(r"pgd-([1-9]\d*)(?:x([1-9]\d*))?")
_LIBRARIES = ("art:", "torchattacks:")
_AUTOATTACKS: Mapping[str, Mapping[str, Any]] = {
    "autoattack": {},
    "autoattack-plus": {"version": "plus"},
    "screen": {"parts": ("apgd-ce", "apgd-t")},
}
_AUTOATTACK_VERSIONS = {"standard": "autoattack", "plus": "autoattack-plus"}
_DISPLAY_NAMES = {
    "autoattack": "AutoAttack",
    "autoattack-plus": "AutoAttack (plus)",
    "screen": "Screen (APGD-CE, APGD-T)",
}
_NAMES = "'autoattack', 'autoattack-plus', 'screen', 'pgd-K', 'pgd-KxR', 'art:NAME' or 'torchattacks:NAME'"


@dataclass(frozen=True)
class Engine:
    """A judge: attacks that run one after the other, each on the samples that still stand.

    Attributes:
        name: What its figures are called.
        stages: Its attacks by name, in order.
        description: Tells it from an engine that could find something else, see :func:`~art_oat.storage.fingerprint`.
    """

    name: str
    stages: Mapping[str, TensorAttack | BoundAttack]
    description: Plain

    def at(self, point: OperatingPoint | None) -> dict[str, TensorAttack]:
        """Return its attacks on the network of one point; None for a plain network."""
        return {
            name: attack.at(point) if isinstance(attack, BoundAttack) and point is not None else attack  # type: ignore[misc]
            for name, attack in self.stages.items()
        }


def engines(
    judges: Judge | Sequence[Judge] | Mapping[str, Judge],
    classifier: PyTorchClassifier,
    *,
    eps: float,
    norm: Norm,
    allow_large_eps: bool = False,
) -> tuple[list[Engine], list[str]]:
    """Return the engines that are meant, and all that is wrong with them.

    Args:
        judges: One or several, see :func:`~art_oat.evaluation.evaluate`; a mapping gives names to attacks.
        classifier: What they judge.
        eps: Radius, in units of ``x``.
        norm: Norm of the ball.
        allow_large_eps: Whether radii, also those of attacks given, may be half the range of ``x``, or more.
    """
    faults = ball_faults(eps, norm)
    named = _with_names(judges)
    if not named:
        faults.append("attack must name at least one attack, got none.")
    is_ball = not faults
    radii = [Radius(eps, norm, classifier.clip_values, classifier.input_shape)]
    radii += [radius for _, judge in named for radius in radii_of(judge, classifier)]
    faults += [fault for radius in radii for fault in radius.faults(allow_large_eps=allow_large_eps)]
    found = []
    for name, judge in named if is_ball else ():
        try:
            found.append(_engine(name, judge, classifier, eps, norm))
        except (TypeError, ValueError, ImportError) as error:
            faults.append(str(error))
    names = [engine.name for engine in found]
    if len(set(names)) < len(names):
        faults.append(f"attacks must have different names, got {names}. Name them: attack={{'a': ..., 'b': ...}}.")
    return found, list(dict.fromkeys(faults))


def _with_names(judges: Any) -> list[tuple[str | None, Any]]:
    if isinstance(judges, Mapping):
        return list(judges.items())
    is_several = isinstance(judges, Sequence) and not isinstance(judges, str)
    several = list(dict.fromkeys(judges)) if is_several and all(isinstance(it, str) for it in judges) else judges
    return [(None, judge) for judge in (several if is_several else [judges])]


def _engine(name: str | None, judge: Any, classifier: PyTorchClassifier, eps: float, norm: Norm) -> Engine:
    stages = _stages_named(judge, classifier, eps, norm) if isinstance(judge, str) else _stages_of(judge, classifier)
    for attack in stages.values():
        if isinstance(attack, AutoAttack):
            faults = attack.faults(classifier.nb_classes, classifier.clip_values)
            refuse([*_other_ball_faults(attack, eps, norm), *faults])
    usual = _usual_name(judge)
    name = usual if name is None else name
    if (name != usual and _is_reserved(name)) or (not isinstance(judge, str | AutoAttack) and _is_reserved(usual)):
        raise ValueError(f"attacks must not be named as others are, got {name!r} for {usual}. Name it otherwise.")
    return Engine(name, stages, fingerprint(judge))


def _is_reserved(name: str) -> bool:
    """Whether a name, or the way it is shown, is that of an engine that is called by name."""
    lowered = name.lower()
    shown = {text.lower() for text in _DISPLAY_NAMES.values()}
    return lowered in _AUTOATTACKS or lowered in shown or _PGD.match(lowered) is not None


def _other_ball_faults(attack: AutoAttack, eps: float, norm: Norm) -> list[str]:
    if (attack.eps, attack.norm) == (eps, norm):
        return []
    own, other = format_apart(eps, attack.eps) if attack.eps != eps else (format_eps(eps),) * 2
    return [f"AutoAttack must have the eps and norm of the evaluation, {own} ({norm}), got {other} ({attack.norm})."]


def _usual_name(judge: Any) -> str:
    """Return what a judge is called; parts of AutoAttack by what they are, never by its name."""
    if isinstance(judge, str):
        return judge
    if isinstance(judge, AutoAttack):
        whole = replace(judge, parts=None).in_parts()
        is_whole = judge.in_parts().keys() == whole.keys()
        return _AUTOATTACK_VERSIONS[judge.version] if is_whole else ", ".join(judge.in_parts())
    library = next((name for name in _LIBRARIES if type(judge).__module__.startswith(name.rstrip(":") + ".")), "")
    return library + str(getattr(judge, "__name__", type(judge).__name__))


def name_faults(name: str, *, eps: float, norm: Norm) -> list[str]:
    """Say why no engine can be called by a name, as far as that can be known without a classifier.

    Raises:
        ImportError: If torchattacks is asked for and not installed.
    """
    if faults := ball_faults(eps, norm):
        return faults
    if norm == "L1" and (_PGD.fullmatch(name) or name.startswith(_LIBRARIES)):
        return [f"norm must be 'Linf' or 'L2' for {name}, got 'L1'. For that, use 'autoattack' or 'screen'."]
    try:
        if _own_stages(name, eps, norm):
            return []
    except ValueError as error:
        return [str(error)]
    if name.startswith(_LIBRARIES):
        faults_of = [outside_faults(name, eps=eps, norm=norm, eps_step=step) for step in (eps / 4, None)]
        return [] if [] in faults_of else faults_of[-1]
    return [f"attack must be {_NAMES} (K steps, R restarts), or an attack, got {name!r}."]


def _own_stages(name: str, eps: float, norm: Norm) -> Mapping[str, TensorAttack | BoundAttack]:
    """Return the attacks that a name means; none if it means none of ours."""
    if name in _AUTOATTACKS:
        return AutoAttack(eps, norm, **_AUTOATTACKS[name]).in_parts()
    if not (match := _PGD.fullmatch(name)):
        return {}
    nb_steps, nb_restarts = int(match[1]), int(match[2] or 1)
    attack = pgd(eps, nb_steps, norm)
    once = f"pgd-{nb_steps}"
    return {once: attack} if nb_restarts == 1 else {f"{once} #{n}": attack for n in range(1, nb_restarts + 1)}


def pgd(eps: float, nb_steps: int, norm: Norm) -> PGD:
    """Return the PGD that judges: ``nb_steps`` steps of ``2.5 eps / nb_steps``."""
    return PGD(eps, 2.5 * eps / nb_steps, nb_steps, norm)


def _stages_named(
    name: str, classifier: PyTorchClassifier, eps: float, norm: Norm
) -> Mapping[str, TensorAttack | BoundAttack]:
    refuse(name_faults(name, eps=eps, norm=norm))
    if stages := _own_stages(name, eps, norm):
        return stages
    if not isinstance(classifier, OATClassifier):
        raise TypeError(f"attack {name} needs an OATClassifier to bind to, got a {type(classifier).__name__}.")
    return {name: _bound(_outside(name, classifier, eps, norm), classifier)}


def _outside(name: str, classifier: OATClassifier, eps: float, norm: Norm) -> Any:
    """Make an attack of ART or torchattacks; its step is a quarter of the radius where it takes one."""
    if name.startswith("torchattacks:") and classifier.clip_values is not None:
        low, high = (float(value.min()) for value in classifier.clip_values)
        eps = eps / (high - low)  # it counts in images in [0, 1]
    has_step = not outside_faults(name, eps=eps, norm=norm, eps_step=eps / 4)
    step = eps / 4 if has_step else None
    return attack_named(name, classifier, eps=eps, norm=norm, eps_step=step, allow_large_eps=True)  # judged before


def _stages_of(attack: Any, classifier: PyTorchClassifier) -> Mapping[str, TensorAttack | BoundAttack]:
    name = getattr(attack, "__name__", type(attack).__name__)
    if isinstance(attack, AutoAttack):
        return attack.in_parts()
    if is_tensor_attack(attack):
        return {name: attack}
    if isinstance(classifier, OATClassifier):
        return {name: _bound(attack, classifier)}
    raise TypeError(f"attack {name} needs an OATClassifier to bind to, got a {type(classifier).__name__}.")


def _bound(attack: Attack, classifier: OATClassifier) -> BoundAttack:
    """Bind an attack, and refuse it where it cannot take the inputs."""
    refuse(trial_faults(attack, classifier))
    return bind(attack, classifier)


def display_name(name: str) -> str:
    """Return how an engine's name is written for people."""
    if match := _PGD.fullmatch(name):
        return f"PGD-{match[1]}" + (f" ({match[2]} restarts)" if match[2] else "")
    return _DISPLAY_NAMES.get(name, name)
