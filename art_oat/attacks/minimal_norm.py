"""What the attacks have in common that look for the nearest wrong answer to each sample."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from art_oat.attacks.metrics import distance
from art_oat.attacks.pgd import bounds_like, clip
from art_oat.attacks.protocol import ClipValues, Norm
from art_oat.attacks.radius import ball_faults
from art_oat.checks import refuse
from art_oat.numbers import count_faults, plain_fields

_SHRINKS = 0.05, 0.001
"""By which share a radius changes, at the first step and at the last, as FMN was published."""

_STEPS = 1.0, 0.01
"""How far a step goes, at the first and at the last, as a share of the radius."""

_TINY = 1e-12


@dataclass(frozen=True)
class MinimalNorm(ABC):
    """An attack that finds how near the next error to each sample is, within a largest radius.

    Args:
        eps: The largest radius that is searched, in units of ``x``; above 0.
        norm: One of ``norms``.
        nb_steps: Steps of a run, at least 1.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    eps: float
    norm: Norm = "Linf"
    nb_steps: int = 100
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")
    keeps_batch: ClassVar[bool] = False
    """It leaves samples alone that are answered wrongly, and so cannot be bound to several lams at once."""

    def __post_init__(self) -> None:
        plain_fields(self)
        refuse(self._faults())

    def _faults(self) -> list[str]:
        return ball_faults(self.eps, self.norm, self.norms) + count_faults({"nb_steps": self.nb_steps})

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the nearest input found that is answered wrongly, or ``x``; see :class:`TensorAttack`."""
        return self.nearest(network, x, y, clip_values=clip_values, generator=generator)[1]

    def nearest(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return how far the nearest wrong answer found lies, ``[N]``, and its input, ``[N, ...]``.

        The distance is 0 where ``x`` itself is answered wrongly, and infinite where nothing was found within ``eps``;
        the input is then ``x``. Arguments are those of :class:`TensorAttack`.
        """
        x = x.detach()
        with torch.no_grad():
            scores = network(x)
        is_right = scores.argmax(dim=1) == y
        far, x_adv = torch.where(is_right, torch.inf, 0.0).to(x), x.clone()
        if bool(is_right.any()):
            found = Found(network, x[is_right], y[is_right], self.norm, bounds_like(clip_values, x))
            self._search(found, scores[is_right], generator)
            far[is_right], x_adv[is_right] = found.best, found.x_best
        return far, x_adv

    @abstractmethod
    def _search(self, found: Found, scores: Tensor, generator: torch.Generator | None) -> None:
        """Look for wrong answers within ``eps``, where ``scores [N, K]`` are those on the samples themselves."""

    def _schedule(self) -> Iterator[tuple[float, float]]:
        """Of each step, how far it goes as a share of the radius, and by which share the radius then changes."""
        for number in range(self.nb_steps):
            share = (1 + math.cos(math.pi * number / self.nb_steps)) / 2
            step, shrink = (last + (first - last) * share for first, last in (_STEPS, _SHRINKS))
            yield step, shrink


class Found:
    """The nearest wrong answers found so far to samples ``x [N, ...]`` that are answered right.

    Attributes:
        best: How far each lies, ``[N]``; infinite where there is none.
        x_best: Its input, ``[N, ...]``.
        is_wrong: Whether the input that was tried last is answered wrongly, ``[N]``.
    """

    def __init__(
        self, network: nn.Module, x: Tensor, y: Tensor, norm: Norm, bounds: tuple[Tensor, Tensor] | None
    ) -> None:
        self.network, self.x, self.y, self.norm, self.bounds = network, x, y, norm, bounds
        self.best = torch.full_like(x.flatten(1)[:, 0], torch.inf)
        self.x_best = x.clone()
        self.is_wrong = torch.zeros_like(y, dtype=torch.bool)

    def moved(self, delta: Tensor) -> Tensor:
        """Return the samples with a perturbation, cut to the range of inputs."""
        return clip(self.x + delta, self.bounds)

    def try_at(self, x_adv: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Note which inputs are answered wrongly; return a loss of their scores, ``[N]``, and its gradient."""
        with torch.enable_grad():
            x_adv = x_adv.detach().requires_grad_()
            scores = self.network(x_adv)
            losses = loss(scores)
        (gradient,) = torch.autograd.grad(losses.sum(), x_adv)
        self._note(x_adv.detach(), scores.detach())
        return losses.detach(), gradient

    def try_last(self, x_adv: Tensor) -> None:
        """Note which inputs are answered wrongly."""
        with torch.no_grad():
            self._note(x_adv, self.network(x_adv))

    def _note(self, x_adv: Tensor, scores: Tensor) -> None:
        far = distance(self.x, x_adv, self.norm)
        self.is_wrong = scores.argmax(dim=1) != self.y
        is_nearer = self.is_wrong & (far < self.best)
        self.best = torch.where(is_nearer, far, self.best)
        self.x_best[is_nearer] = x_adv[is_nearer]

    def margin(self, scores: Tensor, target: Tensor | None = None) -> Tensor:
        """Return ``score of y - score of target``, ``[N]``; None for the largest other score."""
        other = without(scores, self.y).amax(dim=1) if target is None else _of(scores, target)
        return _of(scores, self.y) - other

    def to_boundary(self, x_adv: Tensor, margin: Tensor, gradient: Tensor) -> Tensor:
        """Return how far from the samples the boundary lies beyond an input, were the network affine there, ``[N]``.

        ``|x' - x| + |margin| / |gradient of margin|*`` (``*``: the dual norm).
        """
        slope: Tensor = torch.linalg.vector_norm(gradient.flatten(1), 1 if self.norm == "Linf" else 2, dim=1)
        return distance(self.x, x_adv, self.norm) + margin.abs() / slope.clamp_min(_TINY)


def without(scores: Tensor, y: Tensor) -> Tensor:
    """Return scores without those of the classes ``y``, which are then the least of all."""
    return scores.scatter(1, y[:, None], -torch.inf)


def _of(scores: Tensor, y: Tensor) -> Tensor:
    return scores.gather(1, y[:, None])[:, 0]
