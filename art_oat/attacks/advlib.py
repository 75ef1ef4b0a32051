"""Attacks of adv-lib by name: ``advlib:fmn``, ``advlib:apgd-200`` for 200 steps; they know images in [0, 1] alone.

They have the options of the library where nothing is said: ``fmn`` takes 10 steps, which is weak.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from art_oat.attacks.ball import Ball, BallLibrary
from art_oat.attacks.protocol import Norm

_ORDERS: Mapping[Norm, float] = {"Linf": math.inf, "L2": 2, "L1": 1}


@dataclass(frozen=True)
class _Spelling:
    """What a function calls its arguments; None for what it does not take."""

    steps: str
    norms: tuple[Norm, ...] = ("Linf", "L2", "L1")
    norm: str | None = "norm"
    eps: str | None = None
    eps_step: str | None = None


_FUNCTIONS = {
    "alma": _Spelling("num_steps", ("L2", "L1"), "distance"),
    "apgd": _Spelling("n_iter", eps="eps"),
    "apgd_targeted": _Spelling("n_iter", eps="eps"),
    "carlini_wagner_l2": _Spelling("max_iterations", ("L2",), None),
    "carlini_wagner_linf": _Spelling("max_iterations", ("Linf",), None),
    "ddn": _Spelling("steps", ("L2",), None),
    "df": _Spelling("steps", ("Linf", "L2")),
    "fab": _Spelling("n_iter"),
    "fmn": _Spelling("steps"),
    "pdgd": _Spelling("num_steps", ("L2",), None),
    "pdpgd": _Spelling("num_steps"),
    "pgd_linf": _Spelling("steps", ("Linf",), None, eps="ε", eps_step="absolute_step_size"),
    "sdf": _Spelling("steps", ("L2",), None),
    "tr": _Spelling("iter", ("Linf", "L2"), "p"),
}
"""Those with a norm of pixels in which a ball can be drawn; the others are for few pixels (L0) or for colors."""


def _run(name: str, network: nn.Module, images: Tensor, y: Tensor, ball: Ball) -> Tensor:
    spelling = _FUNCTIONS[name]
    norm: Any = ball.norm.lower() if spelling.norm == "distance" else _ORDERS[ball.norm]
    wanted = {
        spelling.norm: norm,
        spelling.eps: ball.eps,
        spelling.eps_step: ball.eps_step,
        spelling.steps: ball.nb_steps,
    }
    options = {key: value for key, value in wanted.items() if key is not None and value is not None}
    x_adv: Tensor = getattr(_library(), name)(network, images, y, **options)
    return x_adv


def _library() -> ModuleType:
    """Import the library, which imports visdom for pictures that nobody asks for here: without it, a stand-in."""
    is_there = "visdom" in sys.modules or find_spec("visdom") is not None
    if not is_there:
        sys.modules["visdom"] = ModuleType("visdom")
    try:
        return importlib.import_module("adv_lib.attacks")
    finally:
        if not is_there:
            del sys.modules["visdom"]


BallLibrary(
    name="advlib",
    package="adv_lib",
    norms={name: spelling.norms for name, spelling in _FUNCTIONS.items()},
    stepping=frozenset(name for name, spelling in _FUNCTIONS.items() if spelling.eps_step is not None),
    nearest=frozenset(name for name, spelling in _FUNCTIONS.items() if spelling.eps is None),
    run=_run,
    install="pip install --no-deps adv-lib, and torchvision",
).register()
