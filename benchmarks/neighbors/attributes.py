"""Attacks within ranges of attributes: brightness, contrast, rotation and shift, by the worst of some draws.

The worst of K random transformations is the spatial attack of Engstrom et al. (arXiv:1712.02779); brightness and
contrast are two of the semantic ranges of Hsiung et al. (arXiv:2202.04235).
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat import OATTrainer
from art_oat.attacks import ClipValues
from art_oat.attacks.pgd import bounds_like, clip, per_sample, random_start
from art_oat.data import Dataset
from art_oat.experiment.recipe import Recipe
from benchmarks.neighbors.neighbor import Neighbor

_NB_ATTRIBUTES = 5


@dataclass(frozen=True)
class Attributes:
    """An attack on square images ``[N, C, H, W]`` that changes attributes, each within its range.

    A place ``u`` in ``[-1, 1]^5`` stands for: turn by ``u_0 * degrees``, shift by ``(u_1, u_2) * shift`` of a side
    (bilinear; what comes in is 0), contrast times ``1 + u_3 * contrast`` about the mean, ``u_4 * brightness`` added.
    Of ``nb_draws`` places, and the image itself, the one with the largest cross-entropy counts; from there,
    ``nb_steps`` steps of the gradient's sign, of ``2 / nb_steps``, look for a worse one.

    Args:
        degrees: At least 0.
        shift: Share of a side, likewise.
        contrast: In ``[0, 1)``.
        brightness: In units of ``x``, at least 0.
        nb_draws: At least 1.
        nb_steps: At least 0.
    """

    degrees: float = 15.0
    shift: float = 0.1
    contrast: float = 0.3
    brightness: float = 0.15
    nb_draws: int = 10
    nb_steps: int = 0
    draws_rows: ClassVar[bool] = True

    def scaled(self, factor: float) -> "Attributes":
        """Return the attack with all ranges times a factor."""
        ranges = {name: factor * getattr(self, name) for name in ("degrees", "shift", "contrast", "brightness")}
        return replace(self, **ranges)

    def stronger(self) -> "Attributes":
        """Return what judges: the same ranges, ten times the draws, and ten steps more."""
        return replace(self, nb_draws=10 * self.nb_draws, nb_steps=self.nb_steps + 10)

    def changed(self, x: Tensor, places: Tensor) -> Tensor:
        """Return images at places ``[N, 5]``, not clipped; differentiable in both."""
        turn, right, down, contrast, brightness = places.unbind(dim=1)
        angle = turn * math.radians(self.degrees)
        cos, sin = angle.cos(), angle.sin()
        rows = [torch.stack([cos, -sin, 2 * self.shift * right], 1), torch.stack([sin, cos, 2 * self.shift * down], 1)]
        grid = F.affine_grid(torch.stack(rows, dim=1), [*x.shape], align_corners=False)
        moved = F.grid_sample(x, grid, align_corners=False)
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
        factor, added = ((1 + self.contrast * contrast), self.brightness * brightness)
        return mean + factor.view(-1, 1, 1, 1) * (moved - mean) + added.view(-1, 1, 1, 1)

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        x, bounds = x.detach(), bounds_like(clip_values, x)
        worst = Worst(x, self._losses(network, x, y), x.new_zeros(len(x), _NB_ATTRIBUTES))
        with torch.no_grad():
            for _ in range(self.nb_draws):
                places = random_start(worst.places, "Linf", generator)
                x_adv = clip(self.changed(x, places), bounds)
                worst = worst.or_else(x_adv, self._losses(network, x_adv, y), places)
        places = worst.places
        for _ in range(self.nb_steps):
            places = (places + 2 / self.nb_steps * self._gradient(network, x, y, places, bounds).sign()).clamp(-1, 1)
            with torch.no_grad():
                x_adv = clip(self.changed(x, places), bounds)
                worst = worst.or_else(x_adv, self._losses(network, x_adv, y), places)
        return worst.x

    @staticmethod
    def _losses(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return F.cross_entropy(network(x), y, reduction="none")

    def _gradient(
        self, network: nn.Module, x: Tensor, y: Tensor, places: Tensor, bounds: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        with torch.enable_grad():
            places = places.detach().requires_grad_()
            loss = F.cross_entropy(network(clip(self.changed(x, places), bounds)), y, reduction="sum")
        return torch.autograd.grad(loss, places)[0]


@dataclass(frozen=True)
class Worst:
    """The worst that was found of each sample: inputs, losses ``[N]``, places ``[N, 5]``."""

    x: Tensor
    losses: Tensor
    places: Tensor

    def or_else(self, x: Tensor, losses: Tensor, places: Tensor) -> "Worst":
        """Return the worse of two, sample by sample."""
        is_worse = losses > self.losses
        return Worst(
            torch.where(per_sample(is_worse, x), x, self.x),
            torch.where(is_worse, losses, self.losses),
            torch.where(is_worse[:, None], places, self.places),
        )


def by_attributes(trainer: OATTrainer, data: Dataset, _: Recipe) -> Dataset:
    """Exchange the attack."""
    trainer.method = replace(trainer.method, attack=Attributes())
    return data


NEIGHBORS = {
    "attribute ranges": Neighbor(
        "the worst of 10 draws of brightness, contrast, rotation and shift in place of PGD",
        "arXiv:1712.02779",
        prepare=by_attributes,
        code=(Attributes, Worst, by_attributes),
    ),
}
