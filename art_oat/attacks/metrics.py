"""What an attack achieved: how far it went, and which samples it broke."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from art_oat.attacks.protocol import ClipValues, Norm, TensorAttack
from art_oat.attacks.radius import format_eps
from art_oat.checks import rounding
from art_oat.levels import Inputs

_ROUNDING = {"Linf": 1e-4, "L2": 1e-4, "L1": 1e-3}
"""How far an attack may leave its ball, as a share of the radius; the L1 norm adds up the rounding of all pixels."""


def distance(x: Tensor, x_adv: Tensor, norm: Norm) -> Tensor:
    """Return how far each attacked sample lies from its input, ``[N]``, in units of ``x``."""
    delta = (x_adv - x).flatten(1)
    farthest: Tensor = torch.linalg.vector_norm(delta, {"Linf": math.inf, "L2": 2, "L1": 1}[norm], dim=1)
    return farthest


def is_correct(network: nn.Module, x: Inputs, y: Tensor, batch_size: int = 250) -> Tensor:
    """Return which samples a network gets right, bool ``[N]``."""
    with torch.no_grad():
        parts = [network(batch).argmax(dim=1) for batch in x.split(batch_size)]
    return torch.cat(parts) == y


def robust_correct(
    network: nn.Module,
    x: Inputs,
    y: Tensor,
    attack: TensorAttack,
    *,
    clip_values: ClipValues | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 250,
) -> tuple[Tensor, Tensor]:
    """Return which samples a network gets right, and which of them also after an attack; bool ``[N]`` each."""
    parts = []
    for x_batch, y_batch in zip(x.split(batch_size), y.split(batch_size), strict=True):
        x_adv = attack(network, x_batch, y_batch, clip_values=clip_values, generator=generator)
        parts.append(is_correct(network, x_adv, y_batch, batch_size))
    clean = is_correct(network, x, y, batch_size)
    return clean, clean & torch.cat(parts)


def reach(eps: float, norm: Norm, clip_values: ClipValues | None) -> float:
    """Return how far from its input a sample may lie that is in the ball but for rounding, in units of ``x``."""
    tolerance = float(np.max(rounding((0, 1) if clip_values is None else clip_values)))
    return eps * (1 + _ROUNDING[norm]) + tolerance


def taken_back(x: Tensor, x_adv: Tensor, eps: float, norm: Norm, clip_values: ClipValues | None) -> Tensor:
    """Return attacked inputs with those beyond a ball as they were, as if nothing had been found there."""
    kept, is_beyond = x_adv.clone(), distance(x, x_adv, norm) > reach(eps, norm, clip_values)
    kept[is_beyond] = x[is_beyond]
    return kept


def within_ball(attack: TensorAttack, eps: float, norm: Norm) -> TensorAttack:
    """Return the attack with every result checked.

    It raises ``RuntimeError`` if a sample lies farther than ``eps`` from its input, up to rounding.
    """

    def checked(
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        x_adv = attack(network, x, y, clip_values=clip_values, generator=generator)
        farthest = float(distance(x, x_adv, norm).max())
        if not farthest <= reach(eps, norm, clip_values):
            excess = f"{farthest / eps:.5g} times as far"
            raise RuntimeError(f"an attack must stay within eps = {format_eps(eps)} ({norm}), but went {excess}.")
        return x_adv

    return checked
