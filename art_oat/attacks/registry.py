"""Owns the names by which attacks for training are called."""

from __future__ import annotations

import inspect
import re
from typing import Any

import art.attacks.evasion
import numpy as np

from art_oat.attacks.pgd import NFGSM, PGD, Objective
from art_oat.attacks.protocol import Norm
from art_oat.attacks.radius import Radius, format_eps
from art_oat.checks import refusals, refuse
from art_oat.classifier import OATClassifier

_PGD = re.compile(r"pgd-([1-9]\d*)")
_ONE_STEP = re.compile(r"n-fgsm(?:-(\d+\.?\d*))?")
_EXAMPLES = "pgd-7, n-fgsm, art:AutoProjectedGradientDescent or torchattacks:MIFGSM"


def attack_named(
    name: str,
    classifier: OATClassifier,
    *,
    eps: float,
    norm: Norm = "Linf",
    eps_step: float | None = None,
    objective: Objective = "cross-entropy",
    allow_large_eps: bool = False,
) -> Any:
    """Return the attack that a name means, as ``OATTrainer`` takes it.

    Args:
        name: ``"pgd-K"`` (K steps of :class:`~art_oat.attacks.PGD`), ``"n-fgsm"``
            (:class:`~art_oat.attacks.NFGSM`; ``"n-fgsm-1"`` with a noise of 1 eps), ``"art:NAME"`` (a class of
            ``art.attacks.evasion``) or ``"torchattacks:NAME"``; with its own defaults for what is not given here.
        classifier: What is attacked.
        eps: Radius, as the attack counts it: in units of the inputs, for torchattacks of inputs in [0, 1].
        norm: ``"Linf"`` or ``"L2"``.
        eps_step: Step, likewise; None for the attack's default. ``"n-fgsm"`` takes none: it goes ``eps`` far.
        objective: What PGD maximizes; all others keep to what they do.
        allow_large_eps: Whether ``eps`` may be half the range of the inputs, or more, see
            :class:`~art_oat.attacks.radius.Radius`; that is refused as a number in another unit otherwise.

    Raises:
        ImportError: If torchattacks is asked for and not installed.
        ValueError: If there is no such attack, or it does not take what is asked for; names every fault.
    """
    clip_values = classifier.clip_values
    if name.startswith("torchattacks:") and clip_values is not None:
        clip_values = (0, 1)
    radius = Radius(eps, norm, clip_values, classifier.input_shape)
    refuse(
        [
            *name_faults(name, eps=eps, norm=norm, eps_step=eps_step),
            *radius.faults(allow_large_eps=allow_large_eps),
        ]
    )
    if match := _PGD.fullmatch(name):
        return PGD(eps, eps_step, int(match[1]), norm, objective=objective)
    if match := _ONE_STEP.fullmatch(name):
        return NFGSM(eps, noise=float(match[1])) if match[1] else NFGSM(eps)
    kind = _class_of(name)
    wanted = {**_arguments(name, eps, norm, eps_step), "n_classes": classifier.nb_classes}
    given = {key: value for key, value in wanted.items() if key in _parameters(kind)}
    robust = classifier.at(classifier.model.lambdas[-1])
    return kind(classifier, **given) if name.startswith("art:") else kind(robust.as_module(), **given)


def name_faults(name: str, *, eps: float, norm: Norm = "Linf", eps_step: float | None = None) -> list[str]:
    """Say why no attack can be called by a name and with these arguments.

    Raises:
        ImportError: If torchattacks is asked for and not installed.
    """
    faults = refusals(lambda: PGD(eps, eps_step, norm=norm))  # the rules for all
    if _PGD.fullmatch(name):
        return faults
    if match := _ONE_STEP.fullmatch(name):
        faults += ["noise must be above 0, as in n-fgsm-1, got 0."] if match[1] and float(match[1]) == 0 else []
        faults += [] if norm == "Linf" else [f"norm must be Linf for {name}, got {norm}."]
        return faults + ([] if eps_step is None else [f"eps_step must be None for {name}, which goes eps far at once."])
    kind = _class_of(name)
    if kind is None:
        return [*faults, f"attack must be a name such as {_EXAMPLES}, got {name!r}."]
    parameters = _parameters(kind)
    faults += [] if "eps" in parameters else [f"attack must take eps, which {name} does not."]
    if eps_step is not None and not {"eps_step", "alpha"} & parameters.keys():
        faults.append(f"eps_step must be None for {name}, which takes no step, got {eps_step}.")
    if "norm" not in parameters and name.endswith("L2") != (norm == "L2"):
        faults.append(f"norm must be {'L2' if name.endswith('L2') else 'Linf'} for {name}, got {norm}.")
    return faults + _step_faults(name, parameters, eps, eps_step)


def is_one_step(name: str) -> bool:
    """Whether a name means an attack of one step, which goes ``eps`` far and leaves the ball."""
    return _ONE_STEP.fullmatch(name) is not None


def _step_faults(name: str, parameters: Any, eps: float, eps_step: float | None) -> list[str]:
    """Say where an attack of many steps would by default leap over the whole ball with each."""
    parameter = parameters.get("eps_step", parameters.get("alpha"))
    default = None if parameter is None else parameter.default
    is_iterative = bool({"steps", "max_iter"} & parameters.keys())
    if eps_step is not None or not is_iterative or not isinstance(default, int | float) or default <= eps:
        return []
    return [
        f"eps_step must be given for {name} at eps {format_eps(eps)}: its default, {format_eps(default)}, would leap "
        "over the ball."
    ]


def _arguments(name: str, eps: float, norm: Norm, eps_step: float | None) -> dict[str, Any]:
    """What is wanted of an attack, in the words of its library."""
    if name.startswith("art:"):
        step = {} if eps_step is None else {"eps_step": eps_step}
        return {"eps": eps, "norm": np.inf if norm == "Linf" else 2, "verbose": False, **step}
    return {"eps": eps, "norm": norm, **({} if eps_step is None else {"alpha": eps_step})}


def _class_of(name: str) -> Any:
    library, _, rest = name.partition(":")
    if library == "art":
        return getattr(art.attacks.evasion, rest, None)
    if library != "torchattacks":
        return None
    try:
        import torchattacks  # an extra
    except ImportError as error:
        raise ImportError(
            f"attack {name} needs torchattacks. Install it: pip install art-oat[torchattacks]."
        ) from error
    return getattr(torchattacks, rest, None) if rest in torchattacks.__all__ else None


def _parameters(kind: Any) -> Any:
    return inspect.signature(kind.__init__).parameters
