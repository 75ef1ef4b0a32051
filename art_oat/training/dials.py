"""What lam sets in training: the weight of the adversarial term, or the radius of the attack."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from art_oat.numbers import is_name_in

Dials = Literal["weight", "eps"]


def dials_faults(dials: Any, *, fallback: Any, compile_attack: bool) -> list[str]:
    """Say what is wrong with what lam sets, or does not go with it."""
    if not is_name_in(dials, get_args(Dials)):
        return [f"dials must be one of {get_args(Dials)}, got {dials!r}."]
    if dials == "weight":
        return []
    faults = [] if fallback is None else ["fallback must be None with dials='eps', whose radii it does not know."]
    if compile_attack:
        faults.append("compile_attack must be False with dials='eps', which attacks lam by lam.")
    return faults


def weight_of(lam: Tensor, dials: Dials) -> Tensor:
    """Return the weight of the adversarial term for each sample, ``[N]``: lam, or 1 wherever there is a radius."""
    return lam if dials == "weight" else (lam > 0).to(lam)


def scaled_by(eps_warmup: float, dials: Dials) -> str:
    """Return which option scales the radius of the attack, as messages call it, or ``""``."""
    if dials == "eps":
        return "dials='eps'"
    return "eps_warmup" if eps_warmup > 0 else ""
