"""What is wrong with the fields of a method, as far as that can be told without a classifier."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from art_oat.attacks import NFGSM, ByLam, Norm, compile_faults, scaling_faults, trial_faults
from art_oat.attacks.by_lam import parts_of
from art_oat.attacks.registry import is_one_step, name_faults
from art_oat.classifier import OATClassifier
from art_oat.numbers import count_faults, flag_faults, is_number, number_faults, shown
from art_oat.training.awp import WeightPerturbation
from art_oat.training.per_sample import PerSampleLoss
from art_oat.training.sampling import StratifiedSampling


def kind_faults(*, sampling: Any, weight_perturbation: Any, loss: Any, augmentation: Any) -> list[str]:
    """Say which parts are of another kind than a method takes."""
    faults: list[str] = []
    if not isinstance(sampling, StratifiedSampling):
        faults.append(f"sampling must be a StratifiedSampling, got {type(sampling).__name__}.")
    is_number = not isinstance(weight_perturbation, bool)
    if not (is_number and isinstance(weight_perturbation, WeightPerturbation | float | int | None)):
        kind = type(weight_perturbation).__name__
        faults.append(f"weight_perturbation must be a WeightPerturbation, its gamma or None, got {kind}.")
    if isinstance(loss, type):
        faults.append(f"loss must be a name or a function, got the class {loss.__name__}: write {loss.__name__}().")
    elif not isinstance(loss, str) and not (callable(loss) and _takes_five(loss)):
        faults.append(
            f"loss must be callable on (logits, logits_adv, y, lam, criterion), got {shown(loss)}. One that takes the "
            "first four, and gives each sample its loss, is given as per_sample_loss(function)."
        )
    if augmentation is not None and not callable(augmentation):
        faults.append(f"augmentation must be callable on (x, generator), got {type(augmentation).__name__}.")
    return faults


def _takes_five(function: Callable[..., Any]) -> bool:
    """Whether a function takes five arguments, as far as can be told."""
    try:
        inspect.signature(function).bind(*[None] * 5)
    except TypeError:
        return False
    except ValueError:  # of a function that has no signature
        return True
    return True


def loss_faults(loss: Any, classifier: OATClassifier) -> list[str]:
    """Say why a loss cannot train a classifier, as far as it can tell."""
    return loss.faults(classifier) if isinstance(loss, PerSampleLoss) else []


def attack_faults(attack: Any, fallback: Any, *, eps: float, norm: Norm, eps_step: float | None) -> list[str]:
    """Say why attacks by name mean none with these arguments, or a fallback is none."""
    faults: list[str] = []
    if isinstance(attack, str):
        step = step_of(attack, fallback, eps_step)
        faults += name_faults(attack, eps=eps, norm=norm, eps_step=step)
    if isinstance(fallback, NFGSM) or is_one_step(fallback):
        got = fallback if isinstance(fallback, str) else "an NFGSM"
        faults.append(f"fallback must keep to the radius and take many steps, such as pgd-7, got {got}.")
    elif isinstance(fallback, str):
        found = name_faults(fallback, eps=eps, norm=norm, eps_step=eps_step)
        faults += [f"fallback: {fault}" for fault in found if fault not in faults]
    return faults


def step_of(attack: Any, fallback: Any, eps_step: float | None) -> float | None:
    """Return the step of an attack: one that is meant for the fallback is none for an attack of one step."""
    return None if is_one_step(attack) and fallback is not None else eps_step


def size_faults(*, ema: Any, clip_grad_norm: Any, weight_perturbation: Any = None, **shares: Any) -> list[str]:
    """Say which numbers are out of range; shares, by name, are those of epochs."""
    faults = number_faults(shares, "lie in [0, 1)", lambda it: 0 <= it < 1)
    if ema is not None:
        faults += number_faults({"ema": ema}, "be a decay in (0, 1), such as 0.999, or None", lambda it: 0 < it < 1)
    if clip_grad_norm is not None:
        faults += number_faults({"clip_grad_norm": clip_grad_norm}, "be a number above 0, or None", lambda it: it > 0)
    if is_number(weight_perturbation):
        faults += number_faults({"weight_perturbation": weight_perturbation}, "be a number above 0", lambda it: it > 0)
    return faults


def pass_faults(matches_dropout: Any, sync_norms: Any, accumulation_steps: Any) -> list[str]:
    """Say why the passes of a step cannot be as is asked for."""
    faults = flag_faults({"matches_dropout": matches_dropout, "sync_norms": sync_norms})
    faults += count_faults({"accumulation_steps": accumulation_steps})
    if not faults and sync_norms and accumulation_steps > 1:
        return ["sync_norms must be False with accumulation_steps above 1, each of which has statistics of its own."]
    if not faults and matches_dropout and sync_norms:
        return ["sync_norms must be False with matches_dropout, whose passes are others in each process."]
    return faults


def bound_faults(
    attack: Any, fallback: Any, classifier: OATClassifier, *, scales_for: str, compiles: bool
) -> list[str]:
    """Say why attacks do not suit a classifier, an option that scales the first, or compilation.

    Raises:
        TypeError: If one is none.
    """
    faults = attack.faults(classifier.model.lambdas) if isinstance(attack, ByLam) else []
    faults += [fault for place, part in parts_of(attack).items() for fault in _binding_faults(part, classifier, place)]
    faults += scaling_faults(attack, scales_for) if scales_for else []
    faults += [] if fallback is None else _binding_faults(fallback, classifier, "fallback: ")
    if compiles and not faults:
        given = [attack] if fallback is None else [attack, fallback]
        found = [fault for one in given for fault in compile_faults(one, classifier, "compile_attack")]
        faults += list(dict.fromkeys(found))
    return faults


def _binding_faults(attack: Any, classifier: OATClassifier, prefix: str = "") -> list[str]:
    """Say why an attack cannot be bound to a classifier."""
    try:
        return [prefix + fault for fault in trial_faults(attack, classifier)]
    except TypeError as error:
        raise TypeError(f"{prefix}{error}") from error
    except ValueError as error:
        return [f"{prefix}{error}"]
