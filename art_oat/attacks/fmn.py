"""The nearest wrong answer to each sample: an attack that looks for the smallest radius at which there is one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from art_oat.attacks.metrics import distance
from art_oat.attacks.pgd import bounds_like, clip, direction, per_sample, project, random_start
from art_oat.attacks.protocol import ClipValues, Norm
from art_oat.attacks.radius import ball_faults
from art_oat.attacks.registry import AttackKind, register
from art_oat.checks import refuse
from art_oat.numbers import count_faults, number_faults, plain_fields

_SHRINKS = 0.05, 0.001
"""By which share the radius changes, at the first step and at the last, as published."""

_STEPS = 1.0, 0.01
"""How far a step goes, at the first and at the last, as a share of the radius."""

_TINY = 1e-12


@dataclass(frozen=True)
class FMN:
    """Fast minimum-norm attack (Pintor et al. 2021, arXiv:2102.12827, algorithm 1): finds how near the next error is.

    Every sample has a radius of its own. A step goes down the margin ``m = score of y - largest other score`` and back
    into the ball of that radius, which shrinks by a share ``g`` where the answer is wrong, and grows by it where it is
    right:

    ``radius <- (1 - g) min(radius, best)`` where ``m < 0``, else ``(1 + g) radius``; while nothing is found yet,
    ``(1 + g) (|x' - x| + m / |gradient of m|*)``, just beyond the boundary of an affine network (``*``: the dual norm).

    Steps and ``g`` fall by half a cosine. Unlike as published, a step is a share of the radius along the sign of the
    gradient (Linf) or the gradient over its norm (L2), so that nothing depends on the unit or the size of the inputs.
    Restart ``n`` goes down the margin to the class with the ``n``-th largest other score on ``x``, from a random start
    in the ball of the best radius, as far as there are classes; then down ``m`` again.

    Args:
        eps: The largest radius that is searched, in units of ``x``; above 0.
        norm: ``"Linf"`` or ``"L2"``.
        nb_steps: Steps of the first run and of every restart, at least 1.
        nb_restarts: Runs after the first, at least 0.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    eps: float
    norm: Norm = "Linf"
    nb_steps: int = 100
    nb_restarts: int = 0
    keeps_batch: ClassVar[bool] = False
    """It leaves samples alone that are answered wrongly, and so cannot be bound to several lams at once."""

    def __post_init__(self) -> None:
        plain_fields(self)
        faults = ball_faults(self.eps, self.norm, ("Linf", "L2")) + count_faults({"nb_steps": self.nb_steps})
        is_count = lambda it: it >= 0 and it == int(it)  # noqa: E731
        refuse(faults + number_faults({"nb_restarts": self.nb_restarts}, "be a count, at least 0", is_count))

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
            search = _Search(self, network, x[is_right], y[is_right], clip_values)
            start = torch.zeros_like(search.x)
            for target in self._targets(scores[is_right], search.y):
                search.run(target, start)
                start = random_start(search.x, self.norm, generator)
            far[is_right], x_adv[is_right] = search.best, search.x_best
        return far, x_adv

    def _targets(self, scores: Tensor, y: Tensor) -> Iterator[Tensor | None]:
        """To which classes each run leads, ``[N]``; None for whichever other class is best."""
        yield None
        order = _without(scores, y).argsort(dim=1, descending=True)
        for number in range(self.nb_restarts):
            yield order[:, number] if number < scores.shape[1] - 1 else None


class _Search:
    """What was found so far of samples ``x [N, ...]`` that are answered right."""

    def __init__(self, attack: FMN, network: nn.Module, x: Tensor, y: Tensor, clip_values: ClipValues | None) -> None:
        self.attack, self.network, self.x, self.y = attack, network, x, y
        self.bounds = bounds_like(clip_values, x)
        self.best = torch.full_like(x.flatten(1)[:, 0], torch.inf)
        self.x_best = x.clone()
        self.radius = self.best.clamp_max(attack.eps)

    def run(self, target: Tensor | None, start: Tensor) -> None:
        """Search once more.

        Args:
            target: The class whose score shall pass that of ``y``, ``[N]``; None for any.
            start: Where to begin, as a part of the ball of the best radius, ``[N, ...]``.
        """
        self.radius = self.best.clamp_max(self.attack.eps)
        x_adv = self._moved(self._by_radius(start))
        for number in range(self.attack.nb_steps):
            share = (1 + math.cos(math.pi * number / self.attack.nb_steps)) / 2
            step, shrink = (last + (first - last) * share for first, last in (_STEPS, _SHRINKS))
            margin, gradient = self._margin(x_adv, target)
            self._resize(x_adv, margin, gradient, shrink)
            x_adv = self._moved(x_adv - self.x - step * self._by_radius(direction(gradient, self.attack.norm)))
        with torch.no_grad():
            self._note(x_adv, self.network(x_adv))

    def _margin(self, x_adv: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the margin, ``[N]``, and its gradient; keep what is answered wrongly."""
        with torch.enable_grad():
            x_adv = x_adv.detach().requires_grad_()
            scores = self.network(x_adv)
            other = _without(scores, self.y).amax(dim=1) if target is None else _of(scores, target)
            margin = _of(scores, self.y) - other
        (gradient,) = torch.autograd.grad(margin.sum(), x_adv)
        self._note(x_adv.detach(), scores.detach())
        return margin.detach(), gradient

    def _note(self, x_adv: Tensor, scores: Tensor) -> None:
        far = distance(self.x, x_adv, self.attack.norm)
        self.is_wrong = scores.argmax(dim=1) != self.y
        is_nearer = self.is_wrong & (far < self.best)
        self.best = torch.where(is_nearer, far, self.best)
        self.x_best[is_nearer] = x_adv[is_nearer]

    def _resize(self, x_adv: Tensor, margin: Tensor, gradient: Tensor, shrink: float) -> None:
        slope = torch.linalg.vector_norm(gradient.flatten(1), 1 if self.attack.norm == "Linf" else 2, dim=1)
        to_boundary = distance(self.x, x_adv, self.attack.norm) + margin.abs() / slope.clamp_min(_TINY)
        wider = (1 + shrink) * torch.where(self.best.isfinite(), self.radius, to_boundary)
        narrower = (1 - shrink) * torch.minimum(self.radius, self.best)
        self.radius = torch.where(self.is_wrong, narrower, wider).clamp_max(self.attack.eps)

    def _by_radius(self, delta: Tensor) -> Tensor:
        return delta * per_sample(self.radius, delta)

    def _moved(self, delta: Tensor) -> Tensor:
        """Return where a step leads that is cut to the ball and to the range of inputs."""
        return clip(self.x + project(delta, self.radius, self.attack.norm), self.bounds)


def _of(scores: Tensor, y: Tensor) -> Tensor:
    return scores.gather(1, y[:, None])[:, 0]


def _without(scores: Tensor, y: Tensor) -> Tensor:
    """Scores without those of the classes ``y``, which are the least of all."""
    return scores.scatter(1, y[:, None], -torch.inf)


def _counts(name: str) -> tuple[int, int]:
    """Steps and restarts."""
    nb_steps, _, nb_runs = name.removeprefix("fmn-").partition("x")
    return int(nb_steps), int(nb_runs or 1) - 1


def _display(name: str) -> str:
    nb_steps, nb_restarts = _counts(name)
    return f"FMN-{nb_steps}" + (f" ({nb_restarts + 1} runs)" if nb_restarts else "")


register(
    AttackKind(
        pattern=r"fmn-[1-9]\d*(x[1-9]\d*)?",
        spelled="fmn-K, fmn-KxR (R runs)",
        evaluate=lambda spec, _classifier: {"fmn": FMN(spec.eps, spec.norm, *_counts(spec.name))},
        display=_display,
        reserved=r"fmn-[1-9].*",
    )
)
