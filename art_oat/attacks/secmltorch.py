"""Attacks of secml-torch by name: ``secmltorch:FMN``, ``secmltorch:PGD-50`` for 50 steps, 100 unless said.

Those of its own (``backend="native"``), which know images in [0, 1] alone. PGD starts at random, and takes steps of 2.5
times the radius over their number unless told otherwise. FMN begins with steps as long as the ball is wide: version 1.5
often keeps the first example that it finds, which longer steps find beyond the ball.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from art_oat.attacks.ball import Ball, BallLibrary
from art_oat.attacks.protocol import Norm

_NORMS: Mapping[str, tuple[Norm, ...]] = {"DDN": ("L2",), "FMN": ("Linf", "L2", "L1"), "PGD": ("Linf", "L2")}
"""Its PGD takes L1, too, but hardly finds anything there."""

_NB_STEPS = 100


class _OnDevice(nn.Module):
    """A network with a parameter, by which the library finds out where it is."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.network(images)
        return scores


def _run(name: str, network: nn.Module, images: Tensor, y: Tensor, ball: Ball) -> Tensor:
    nb_steps = _NB_STEPS if ball.nb_steps is None else ball.nb_steps
    step = 2.5 * ball.eps / nb_steps if ball.eps_step is None else ball.eps_step
    longest = math.sqrt(images[0].numel()) if ball.norm == "Linf" else 1.0  # within the ball, as its L2 norm
    wanted: Mapping[str, Mapping[str, Any]] = {
        "DDN": {},
        "FMN": {"perturbation_model": ball.norm.lower(), "step_size": ball.eps * longest},
        "PGD": {
            "perturbation_model": ball.norm.lower(),
            "epsilon": ball.eps,
            "step_size": step,
            "random_start": True,
        },
    }
    kind = getattr(importlib.import_module(f"secmlt.adv.evasion.{name.lower()}"), name)
    attack = kind(num_steps=nb_steps, backend="native", **wanted[name])
    module = importlib.import_module("secmlt.models.pytorch.base_pytorch_nn")
    model = module.BasePyTorchClassifier(_OnDevice(network, images.device))
    attacked = attack(model, DataLoader(TensorDataset(images, y), batch_size=len(images)))
    x_adv: Tensor = attacked.dataset.tensors[0]
    return x_adv


BallLibrary(
    name="secmltorch",
    package="secmlt",
    norms=_NORMS,
    stepping=frozenset({"PGD"}),
    nearest=frozenset({"DDN", "FMN"}),
    run=_run,
).register()
