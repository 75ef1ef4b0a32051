"""Weights moved a relative distance away from where training left them, and the robust loss there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat.attacks import ClipValues, TensorAttack
from art_oat.checks import refuse
from art_oat.contexts import borrowed_generators
from art_oat.numbers import count_faults, is_finite_number, number_faults, plain, plain_fields, shown

Weights = Sequence[Tensor]
_TINY = 1e-12
_STRIDE = 2.5
"""Steps of the search add up to so many radii, as those of PGD in an evaluation."""


@dataclass(frozen=True)
class Displacements:
    """How far weights are moved, how often, and how much is spent on the loss there.

    Every layer ``l``, a weight or a bias, moves by at most ``xi ||w_l||`` (L2), so that rescaling layers changes
    nothing where it does not change the answers (Stutz, Hein, Schiele 2021, arXiv:2104.04448, equation 4). Parameters
    and statistics of norms stay, and so FiLM does, which is part of them in a folded network.

    Args:
        average: ``xi`` of the average case, at least 0; drawn uniformly in the ball of each layer. Published is 0.5.
        worst: ``xi`` of the worst case, at least 0. Published are 0.00075 to 0.005, for a ResNet-18.
        nb_directions: How many displacements are drawn for the average, and how many directions for the landscape; at
            least 2, since intervals are over them.
        nb_restarts: How often the worst case is searched; from the weights, then from random places in the ball.
        nb_steps: Steps of each search, ``2.5 xi / nb_steps`` of each layer along its own gradient.
        distances: Where the landscape is drawn, in units of filter-normalized directions, ascending; none to leave it
            out. Weights are moved ``nb_directions`` times as often as this is long.
        nb_attack_steps: Of the PGD that makes adversarial examples anew wherever the weights are.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    average: float = 0.5
    worst: float = 0.005
    nb_directions: int = 10
    nb_restarts: int = 2
    nb_steps: int = 10
    distances: tuple[float, ...] = tuple(step / 10 for step in range(-5, 6))
    nb_attack_steps: int = 20

    def __post_init__(self) -> None:
        plain_fields(self)
        sizes = {"average": self.average, "worst": self.worst}
        faults = number_faults(sizes, "be a number of at least 0", lambda it: it >= 0)
        faults += count_faults({"nb_directions": self.nb_directions}, least=2)
        faults += count_faults({name: getattr(self, name) for name in ("nb_restarts", "nb_steps", "nb_attack_steps")})
        refuse([*faults, *self._distance_faults()])
        object.__setattr__(self, "distances", tuple(float(plain(it)) for it in self.distances))

    def _distance_faults(self) -> list[str]:
        given = self.distances
        if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str):
            return [f"distances must be several numbers, ascending, got {shown(given)}."]
        if not all(is_finite_number(it) for it in given):
            return [f"distances must hold finite numbers, got {shown(given)}."]
        is_ascending = all(a < b for a, b in itertools.pairwise(given))
        return [] if is_ascending else [f"distances must ascend, got {shown(given)}."]

    @property
    def nb_losses(self) -> int:
        """How often the loss on all samples is taken at one operating point."""
        searched = self.nb_restarts * (self.nb_steps + 1)
        return 1 + self.nb_directions * (1 + len(self.distances)) + searched


@dataclass(frozen=True)
class RobustLoss:
    """Mean cross-entropy of a network on inputs that are attacked anew, as its weights are then.

    The attack starts from the same noise every time, so that losses at two places are paired, and where weights are
    the same so is the loss.

    Args:
        network: Gives scores ``[N, K]``, in evaluation mode.
        x: Inputs, ``[N, ...]``.
        y: Class indices, ``[N]``.
        attack: Makes the adversarial examples.
        clip_values: Smallest and largest value of an input, or None.
        batch_size: How many samples are attacked at once.
        seed: What the attack draws from.
        tell: Is called whenever a loss has been taken.
    """

    network: nn.Module
    x: Tensor
    y: Tensor
    attack: TensorAttack
    clip_values: ClipValues | None = None
    batch_size: int = 250
    seed: int = 0
    tell: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        """Return the loss in nats."""
        with torch.no_grad():
            total = sum(float(self._loss(x_adv, y)) for x_adv, y in self._attacked())
        self.tell()
        return total / len(self.x)

    def with_gradient(self, weights: Weights) -> tuple[float, list[Tensor]]:
        """Return the loss, and its gradient by some weights."""
        total, gradients = 0.0, [torch.zeros_like(weight) for weight in weights]
        for x_adv, y in self._attacked():
            with torch.enable_grad():
                loss = self._loss(x_adv, y)
            total += float(loss.detach())
            for sum_, part in zip(gradients, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
                if part is not None:
                    sum_.add_(part, alpha=1 / len(self.x))
        self.tell()
        return total / len(self.x), gradients

    def _loss(self, x_adv: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.network(x_adv), y, reduction="sum")

    def _attacked(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for x, y in zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True):
            with borrowed_generators(x.device, self.seed):
                x_adv = self.attack(self.network, x, y, clip_values=self.clip_values, generator=generator)
            yield x_adv.detach(), y


def movable(network: nn.Module) -> list[nn.Parameter]:
    """Return what is moved: weights of more than one dimension, and the other parameters of the layers that have one.

    These are the biases of convolutions and linear layers. Norms have weights of one dimension.
    """
    found: dict[int, nn.Parameter] = {}
    for module in network.modules():
        own = [*module.parameters(recurse=False)]
        if any(parameter.dim() > 1 for parameter in own):
            found |= {id(parameter): parameter for parameter in own}
    return [*found.values()]


@contextmanager
def moved(weights: Weights, by: Weights, scale: float = 1.0) -> Iterator[None]:
    """Add ``scale * by`` to weights within the block; after it they are what they were, to the bit."""
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, step in zip(weights, by, strict=True):
                weight.add_(step, alpha=scale)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)


def in_balls(weights: Weights, generator: torch.Generator) -> list[Tensor]:
    """Draw uniformly in the ball of each layer, whose radius is the layer's own length."""
    drawn = []
    for weight in weights:
        normal = _normal(weight, generator)
        radius = float(torch.rand((), generator=generator, dtype=torch.float64)) ** (1 / weight.numel())
        drawn.append(normal * (radius * weight.detach().norm() / normal.norm().clamp_min(_TINY)))
    return drawn


def along_filters(weights: Weights, generator: torch.Generator) -> list[Tensor]:
    """Draw a normal direction, and make each filter of it as long as that of the weights; biases get 0.

    Filter normalization of Li et al. 2018 (arXiv:1712.09913); a row of a linear layer is a filter, too.
    """
    drawn = []
    for weight in weights:
        normal = _normal(weight, generator)
        if weight.dim() == 1:
            drawn.append(torch.zeros_like(normal))
            continue
        lengths, own = (it.detach().flatten(1).norm(dim=1) for it in (weight, normal))
        drawn.append(normal * (lengths / own.clamp_min(_TINY)).view(-1, *[1] * (weight.dim() - 1)))
    return drawn


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def average_losses(loss: RobustLoss, weights: Weights, moves: Displacements, seed: int) -> NDArray[np.float64]:
    """Return the loss at each random displacement of relative size ``average``, ``[D]``."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(moves.nb_directions):
        with moved(weights, in_balls(weights, generator), moves.average):
            found.append(loss())
    return np.array(found)


def worst_losses(loss: RobustLoss, weights: Weights, moves: Displacements, seed: int) -> NDArray[np.float64]:
    """Return the largest loss that each search finds within relative size ``worst``, ``[R]``: lower bounds all."""
    generator, found = torch.Generator().manual_seed(seed), []
    for number in range(moves.nb_restarts):
        start = [moves.worst * it for it in in_balls(weights, generator)]
        found.append(_climb(loss, weights, moves, start if number else [torch.zeros_like(it) for it in start]))
    return np.array(found)


def _climb(loss: RobustLoss, weights: Weights, moves: Displacements, place: Weights) -> float:
    """Return the largest loss on the way of an ascent that keeps each layer in its ball."""
    radii, best = [moves.worst * weight.detach().norm() for weight in weights], -np.inf
    for _ in range(moves.nb_steps):
        with moved(weights, place):
            value, gradients = loss.with_gradient(weights)
        best = max(best, value)
        step = _STRIDE / moves.nb_steps
        place = [
            _within(it + step * radius * gradient / gradient.norm().clamp_min(_TINY), radius)
            for it, radius, gradient in zip(place, radii, gradients, strict=True)
        ]
    with moved(weights, place):
        return max(best, loss())


def _within(step: Tensor, radius: Tensor) -> Tensor:
    kept: Tensor = step * (radius / step.norm().clamp_min(_TINY)).clamp_max(1)
    return kept


def landscape(loss: RobustLoss, weights: Weights, moves: Displacements, seed: int) -> NDArray[np.float64]:
    """Return the loss at each distance along each filter-normalized direction, ``[D, S]``."""
    generator = torch.Generator().manual_seed(seed)
    found = np.zeros((moves.nb_directions, len(moves.distances)))
    for number in range(moves.nb_directions if moves.distances else 0):
        direction = along_filters(weights, generator)
        for place, distance in enumerate(moves.distances):
            with moved(weights, direction, distance):
                found[number, place] = loss()
    return found
