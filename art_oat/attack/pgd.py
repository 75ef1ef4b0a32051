"""Owns projected gradient ascent on tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat.attack.protocol import ClipValues, Norm
from art_oat.condition import is_finite_number
from art_oat.inputs import count_faults, refuse


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the cross-entropy (Madry et al. 2018, arXiv:1706.06083).

    ``x' <- project(x' + eps_step * direction(gradient))`` from a random start in the ball of radius ``eps``;
    ``direction`` is the sign for Linf and the gradient over its norm for L2. The last iterate is returned.

    The defaults are the published training attack of OAT: PGD-7, 8/255, step 1.43/255.

    Args:
        eps: Radius, in units of ``x``; above 0.
        eps_step: Step, in units of ``x``, above 0; None for ``min(1.25 eps, eps + 4/255) / nb_steps``.
        nb_steps: Number of steps, at least 1.
        norm: ``"Linf"`` or ``"L2"``.
        has_random_start: Whether to start from a point drawn uniformly from the ball, rather than from ``x``.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    eps: float = 8 / 255
    eps_step: float | None = None
    nb_steps: int = 7
    norm: Norm = "Linf"
    has_random_start: bool = True

    def __post_init__(self) -> None:
        faults = []
        if not (is_finite_number(self.eps) and self.eps > 0):
            faults.append(f"eps must be a number above 0, got {self.eps}.")
        if self.eps_step is not None and not (is_finite_number(self.eps_step) and self.eps_step > 0):
            faults.append(f"eps_step must be a number above 0, or None, got {self.eps_step}.")
        faults += count_faults({"nb_steps": self.nb_steps})
        if self.norm not in ("Linf", "L2"):
            faults.append(f"norm must be 'Linf' or 'L2', got {self.norm!r}.")
        refuse(faults)

    @property
    def step(self) -> float:
        """The step that is taken, in units of ``x``."""
        if self.eps_step is not None:
            return self.eps_step
        return min(1.25 * self.eps, self.eps + 4 / 255) / self.nb_steps

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return attacked inputs; see :class:`~art_oat.attack.protocol.TensorAttack`."""
        x = x.detach()
        x_adv, bounds = x, bounds_like(clip_values, x)
        if self.has_random_start:
            x_adv = _clip(x + self._random_start(x, generator), bounds)
        for _ in range(self.nb_steps):
            gradient = _input_gradient(network, x_adv, y)
            x_adv = _clip(x + self._project(x_adv + self.step * self._direction(gradient) - x), bounds)
        return x_adv

    def _random_start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.norm == "Linf":
            return (2 * _rand(x, generator) - 1) * self.eps
        direction = _unit(_rand(x, generator, is_normal=True))
        radius = _rand(x.flatten(1)[:, 0], generator) ** (1 / math.prod(x.shape[1:]))
        return direction * _per_sample(radius * self.eps, x)

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "Linf" else _unit(gradient)

    def _project(self, delta: Tensor) -> Tensor:
        if self.norm == "Linf":
            return delta.clamp(-self.eps, self.eps)
        norm = delta.flatten(1).norm(dim=1)
        return delta * _per_sample((self.eps / norm.clamp_min(1e-12)).clamp_max(1), delta)


def _input_gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(network(x), y, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def _rand(like: Tensor, generator: torch.Generator | None, is_normal: bool = False) -> Tensor:
    """Draw where the generator lives, so that one seed means the same on every device."""
    draw = torch.randn if is_normal else torch.rand
    device = like.device if generator is None else generator.device
    return draw(like.shape, dtype=like.dtype, device=device, generator=generator).to(like.device)


def _unit(x: Tensor) -> Tensor:
    return x / _per_sample(x.flatten(1).norm(dim=1).clamp_min(1e-12), x)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def bounds_like(clip_values: ClipValues | None, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return smallest and largest value of an input as tensors of the dtype and device of ``like``; or None."""
    if clip_values is None:
        return None
    low, high = (torch.as_tensor(value, dtype=like.dtype, device=like.device) for value in clip_values)
    return low, high


def _clip(x: Tensor, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
    return x if bounds is None else torch.minimum(torch.maximum(x, bounds[0]), bounds[1])
