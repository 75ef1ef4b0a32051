"""Latent perturbations: a share of the samples is attacked along the directions in which images differ.

Dual manifold adversarial training (Lin et al., arXiv:2009.02470) attacks on the manifold of a generative model as well
as pixel by pixel. Here the decoder is linear: the principal components of the training images.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from art_oat import OATTrainer
from art_oat.attacks import PGD, ClipValues, draw
from art_oat.attacks.pgd import bounds_like, clip, input_gradient, per_sample, random_start
from art_oat.data import Dataset
from art_oat.experiment.recipe import Recipe
from benchmarks.neighbors.neighbor import Neighbor, Prepare


@dataclass(frozen=True)
class Components:
    """A linear decoder ``z -> z W`` of latents of variance 1: rows of ``W [L, D]`` are components times spreads."""

    rows: Tensor

    @classmethod
    def of(cls, x: Tensor, nb_latents: int) -> "Components":
        """Return the largest principal components of images ``[N, ...]``."""
        centered = (x - x.mean(dim=0)).flatten(1)
        _, sizes, components = torch.linalg.svd(centered, full_matrices=False)
        spreads = sizes[:nb_latents] / (len(x) - 1) ** 0.5
        return cls(spreads[:, None] * components[:nb_latents])

    def decoded(self, z: Tensor, like: Tensor) -> Tensor:
        """Return what latents ``[N, L]`` add to images."""
        return (z @ self.rows.to(z)).view_as(like)

    def gradient(self, gradient: Tensor) -> Tensor:
        """Return a gradient by images as one by latents ``[N, L]``."""
        return gradient.flatten(1) @ self.rows.to(gradient).T


@dataclass(frozen=True)
class DualPGD:
    """PGD in Linf for some samples, and for a random share ``x' = clip(x + decode(z))`` with ``|z| <= radius``.

    Latents start at random in their range and go ``radius * eps_step / eps`` a step along the sign of their gradient,
    taken as if nothing were clipped.

    Args:
        pgd: Of pixels; a random start, the cross-entropy.
        decoder: Makes images of latents.
        radius: Of each latent, in standard deviations over the training images; above 0.
        share: Of the samples, in ``[0, 1]``.
    """

    pgd: PGD
    decoder: Components
    radius: float
    share: float
    draws_rows: ClassVar[bool] = True

    def scaled(self, factor: float) -> "DualPGD":
        """Return the attack with both radii times a factor."""
        return replace(self, pgd=self.pgd.scaled(factor), radius=factor * self.radius)

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        pgd, x, bounds = self.pgd, x.detach(), bounds_like(clip_values, x)
        delta = pgd.eps * random_start(x, "Linf", generator)
        z = self.radius * random_start(x.new_empty(len(x), len(self.decoder.rows)), "Linf", generator)
        is_latent = per_sample(draw(x.new_empty(len(x)), generator) < self.share, x)
        for step in range(pgd.nb_steps + 1):
            x_adv = clip(x + torch.where(is_latent, self.decoder.decoded(z, x), delta), bounds)
            if step == pgd.nb_steps:
                break
            gradient = input_gradient(network, x_adv, y)
            delta = (x_adv - x + pgd.step * gradient.sign()).clamp(-pgd.eps, pgd.eps)
            moved = z + self.radius * pgd.step / pgd.eps * self.decoder.gradient(gradient).sign()
            z = moved.clamp(-self.radius, self.radius)
        return x_adv


def dual(nb_latents: int, radius: float, share: float) -> Prepare:
    """Return what lets a trainer attack a share of its samples through a decoder of its training images."""

    def prepare(trainer: OATTrainer, data: Dataset, _: Recipe) -> Dataset:
        method = trainer.method
        given = method.attack
        if not isinstance(given, PGD) or (given.norm, given.objective) != ("Linf", "cross-entropy"):
            raise ValueError("latent perturbations need PGD on the cross-entropy, in Linf.")
        decoder = Components.of(torch.from_numpy(data.train.x), nb_latents)
        trainer.method = replace(method, attack=DualPGD(given, decoder, radius, share))
        return data

    return prepare


# nothing was chosen; on held-out images of a fold of digits, seed 100, PGD-50, mean over lam 0.2 and 1: "oat" 72.7%,
# this 60.8%
NEIGHBORS = {
    "latent and pixels": Neighbor(
        "half of the samples attacked in 16 principal components, by up to half a deviation each",
        "arXiv:2009.02470",
        prepare=dual(16, 0.5, 0.5),
        code=(Components, DualPGD, dual),
    ),
}
