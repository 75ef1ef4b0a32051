"""Owns the attacks that judge a network, and the names they go by."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pyautoattack
import torch
from torch import Tensor, nn

from art_oat.attack import PGD, ClipValues, Norm, TensorAttack, UnitRange, distance, unit_range_faults
from art_oat.inputs import refuse
from art_oat.randomness import borrowed_generators

_MAX_TARGETS = 9
_MIN_CLASSES = 4


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack (Croce and Hein 2020, arXiv:2003.01690), by the authors' code: ``autoattack``, or ``pyautoattack``.

    ``"standard"`` runs APGD-CE, targeted APGD-DLR, targeted FAB and Square, each on what still stands. With fewer
    than 10 classes the targeted parts aim at all ``K - 1`` others.

    Args:
        eps: Radius, in units of ``x``; above 0.
        norm: ``"Linf"`` or ``"L2"``.
        version: ``"standard"`` or ``"plus"``.

    Raises:
        ValueError: If an argument is not as above.
    """

    eps: float
    norm: Norm = "Linf"
    version: Literal["standard", "plus"] = "standard"

    def __post_init__(self) -> None:
        PGD(eps=self.eps, norm=self.norm)  # the same rules
        if self.version not in ("standard", "plus"):
            raise ValueError(f"version must be 'standard' or 'plus', got {self.version!r}.")

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return attacked inputs; see :class:`~art_oat.attack.TensorAttack`.

        Raises:
            ValueError: If ``clip_values`` is not one range for all features, or there are fewer than 4 classes.
        """
        with torch.no_grad():
            nb_classes = network(x[:1]).shape[1]
        refuse(self.faults(nb_classes, clip_values))
        assert clip_values is not None
        unit = UnitRange(network, clip_values)
        seed = int(torch.randint(2**31, (), generator=generator))
        options = {"norm": self.norm, "eps": self.eps / unit.span, "version": self.version, "seed": seed}
        engine, batch_argument = _engine(_SinglePrecision(unit), {**options, "device": x.device})
        engine.apgd_targeted.n_target_classes = engine.fab.n_target_classes = min(_MAX_TARGETS, nb_classes - 1)
        with borrowed_generators(x.device), _kept_trace():
            result = engine.run_standard_evaluation(unit.to_unit(x).float(), y, **{batch_argument: len(x)})
        x_adv: Tensor = result[0] if isinstance(result, tuple) else result
        return unit.from_unit(x_adv.to(x))

    def faults(self, nb_classes: int, clip_values: ClipValues | None) -> list[str]:
        """Say what keeps AutoAttack from judging a network of ``nb_classes`` within ``clip_values``."""
        faults = []
        if nb_classes < _MIN_CLASSES:
            faults.append(f"AutoAttack needs at least {_MIN_CLASSES} classes, got {nb_classes}. Use PGD instead.")
        return faults + unit_range_faults(clip_values, "AutoAttack")


def _engine(network: nn.Module, options: dict[str, Any]) -> tuple[Any, str]:
    """Return the authors' implementation, their own package where it is installed, and what it calls a batch size."""
    try:
        package = importlib.import_module("autoattack")
    except ImportError:
        return pyautoattack.AutoAttack(network, **options), "batch_size"
    return package.AutoAttack(network, **options, verbose=False), "bs"


class _SinglePrecision(nn.Module):
    """A network with float32 scores: AutoAttack knows no others."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores.float()


@contextmanager
def _kept_trace() -> Iterator[None]:
    """Put back the trace function (a debugger's, say), which AutoAttack clears."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)


def attack_by_name(name: str, eps: float, norm: Norm) -> TensorAttack:
    """Return the attack called ``"autoattack"`` (standard version) or ``"pgd-K"`` (K steps of ``2.5 eps / K``).

    Raises:
        ValueError: If there is no such attack, or ``eps`` or ``norm`` is not valid.
    """
    PGD(eps=eps, norm=norm)  # the rules for both
    if name == "autoattack":
        return AutoAttack(eps, norm)
    match = re.fullmatch(r"pgd-([1-9]\d*)", name) if isinstance(name, str) else None
    if match is None:
        raise ValueError(f"attack must be 'autoattack' or 'pgd-K' with a number of steps K, got {name!r}.")
    nb_steps = int(match[1])
    return PGD(eps, 2.5 * eps / nb_steps, nb_steps, norm)


def within_ball(attack: TensorAttack, eps: float, norm: Norm) -> TensorAttack:
    """Return the same attack, with every result checked.

    The result raises ``RuntimeError`` if a sample lies farther than ``eps`` from its input, up to rounding: a
    measurement by an attack that leaves its ball would be worthless.
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
        if not farthest <= eps * (1 + 1e-4) + 1e-6:
            raise RuntimeError(f"an attack must stay within eps = {eps} ({norm}), but went to {farthest}.")
        return x_adv

    return checked


def display_name(name: str) -> str:
    """Return how an attack's name is written for people."""
    return {"autoattack": "AutoAttack"}.get(name, name.upper())
