"""What lam sets in training: the weight of the adversarial term, the radius of the attack, or which attack it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from art_oat.attacks import Attack, ByLam
from art_oat.numbers import is_name_in

Dials = Literal["weight", "eps", "attack"]


def dials_faults(dials: Any, attack: Any, *, fallback: Any, compile_attack: bool) -> list[str]:
    """Say what is wrong with what lam sets, or does not go with it."""
    if not is_name_in(dials, get_args(Dials)):
        return [f"dials must be one of {get_args(Dials)}, got {dials!r}."]
    faults = []
    if isinstance(attack, ByLam) and dials != "attack":
        faults.append(f"dials must be 'attack' with a ByLam, whose attacks have full weight, got {dials!r}.")
    elif dials == "attack" and not isinstance(attack, ByLam):
        got = repr(attack) if isinstance(attack, str) else type(attack).__name__
        faults.append(f"dials='attack' needs an attack for each lam, attack=ByLam({{lam: attack}}), got {got}.")
    if isinstance(fallback, ByLam):
        faults.append("fallback must be one attack for every lam, got a ByLam.")
    if dials == "weight":
        return faults
    if fallback is not None:
        faults.append(f"fallback must be None with {dials=}, whose guard looks at one attack for every lam.")
    if compile_attack:
        faults.append(f"compile_attack must be False with {dials=}, which attacks lam by lam.")
    return faults


def weight_of(lam: Tensor, dials: Dials) -> Tensor:
    """Return the weight of the adversarial term for each sample, ``[N]``: lam, or 1 wherever there is an attack."""
    return lam if dials == "weight" else (lam > 0).to(lam)


def scaled_by(eps_warmup: float, dials: Dials) -> str:
    """Return which option scales the radius of the attack, as messages call it, or ``""``."""
    if dials == "eps":
        return "dials='eps'"
    return "eps_warmup" if eps_warmup > 0 else ""


def trained_and_judged_by(attack: Any, dials: Dials, lambdas: Sequence[float]) -> tuple[Attack | ByLam, Attack]:
    """Return what attacks in training, and the one attack by which all lams are judged in validation.

    Where lam sets the radius, the share of it is trained by, and all of it judges, as every network is; where it sets
    the attack, that of the largest lam judges.
    """
    if isinstance(attack, ByLam):
        return attack, attack.last
    if dials == "eps" and lambdas[-1] > 0:
        return ByLam({lam: attack.scaled(lam) for lam in lambdas if lam > 0}), attack
    return attack, attack
