"""The nearest wrong answer to each sample in L2: an attack on spheres whose radius follows the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from art_oat.attacks.minimal_norm import Found, MinimalNorm
from art_oat.attacks.pgd import per_sample, unit
from art_oat.attacks.protocol import Norm
from art_oat.attacks.registry import AttackKind, register


@dataclass(frozen=True)
class DDN(MinimalNorm):
    """Decoupled direction and norm (Rony et al. 2019, arXiv:1811.09600, algorithm 1): finds how near the next error is.

    Every sample has a radius of its own. A step goes up the cross-entropy ``l``, and onto the sphere of that radius,
    which shrinks by a share ``g`` where the answer is wrong, and grows by it where it is right:

    ``radius <- (1 - g) radius`` or ``(1 + g) radius``, then ``delta <- delta + step gradient of l / |gradient of l|``
    and ``x' = clip(x + radius delta / |delta|)``.

    The first radius is where the boundary lay, were the network affine. Unlike as published, where it is 1 and ``g``
    stays, a step is a share of the radius, and ``g`` falls with the steps, so that nothing depends on the unit or the
    size of the inputs. There is no rounding to 256 levels. Nothing is random.

    Args:
        eps: The largest radius that is searched, in units of ``x``; above 0.
        norm: ``"L2"``.
        nb_steps: Number of steps, at least 1; one gradient more is taken, for the first radius.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    norm: Norm = "L2"
    norms: ClassVar[tuple[Norm, ...]] = ("L2",)

    def _search(self, found: Found, scores: Tensor, generator: torch.Generator | None) -> None:
        del scores, generator
        x_adv, radius = found.x, found.to_boundary(found.x, *found.try_at(found.x, found.margin))
        for step, shrink in self._schedule():
            _, gradient = found.try_at(x_adv, lambda scores: F.cross_entropy(scores, found.y, reduction="none"))
            radius = (torch.where(found.is_wrong, 1 - shrink, 1 + shrink) * radius).clamp_max(self.eps)
            delta = x_adv - found.x + step * per_sample(radius, x_adv) * unit(gradient)
            x_adv = found.moved(per_sample(radius, delta) * unit(delta))
        found.try_last(x_adv)


register(
    AttackKind(
        pattern=r"ddn-[1-9]\d*",
        spelled="ddn-K",
        evaluate=lambda spec, _classifier: {"ddn": DDN(spec.eps, spec.norm, int(spec.name.removeprefix("ddn-")))},
        norms=DDN.norms,
        display=str.upper,
        reserved=r"ddn-[1-9].*",
        finds_nearest=lambda _name: True,
    )
)
