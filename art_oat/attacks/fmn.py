"""The nearest wrong answer to each sample: an attack that looks for the smallest radius at which there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from art_oat.attacks.minimal_norm import Found, MinimalNorm, without
from art_oat.attacks.pgd import direction, per_sample, project, random_start
from art_oat.attacks.registry import AttackKind, register
from art_oat.numbers import number_faults


@dataclass(frozen=True)
class FMN(MinimalNorm):
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

    nb_restarts: int = 0

    def _faults(self) -> list[str]:
        is_count = lambda it: it >= 0 and it == int(it)  # noqa: E731
        own = number_faults({"nb_restarts": self.nb_restarts}, "be a count, at least 0", is_count)
        return super()._faults() + own

    def _search(self, found: Found, scores: Tensor, generator: torch.Generator | None) -> None:
        start = torch.zeros_like(found.x)
        for target in self._targets(scores, found.y):
            self._run(found, target, start)
            start = random_start(found.x, self.norm, generator)

    def _targets(self, scores: Tensor, y: Tensor) -> Iterator[Tensor | None]:
        """To which classes each run leads, ``[N]``; None for whichever other class is best."""
        yield None
        order = without(scores, y).argsort(dim=1, descending=True)
        for number in range(self.nb_restarts):
            yield order[:, number] if number < scores.shape[1] - 1 else None

    def _run(self, found: Found, target: Tensor | None, start: Tensor) -> None:
        """Search once, from a place in the ball of the best radius, ``[N, ...]``, given as a part of it."""
        radius = found.best.clamp_max(self.eps)
        x_adv = found.moved(project(start * per_sample(radius, start), radius, self.norm))
        for step, shrink in self._schedule():
            margin, gradient = found.try_at(x_adv, lambda scores: found.margin(scores, target))
            to_boundary = found.to_boundary(x_adv, margin, gradient)
            wider = (1 + shrink) * torch.where(found.best.isfinite(), radius, to_boundary)
            narrower = (1 - shrink) * torch.minimum(radius, found.best)
            radius = torch.where(found.is_wrong, narrower, wider).clamp_max(self.eps)
            delta = x_adv - found.x - step * (per_sample(radius, x_adv) * direction(gradient, self.norm))
            x_adv = found.moved(project(delta, radius, self.norm))
        found.try_last(x_adv)


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
        finds_nearest=lambda _name: True,
    )
)
