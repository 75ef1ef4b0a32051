"""Projected gradient ascent on tensors, and its one-step form for training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat.attacks.metrics import distance
from art_oat.attacks.protocol import ClipValues, Norm, Objective
from art_oat.attacks.radius import ball_faults, step_faults
from art_oat.attacks.registry import AttackKind, AttackSpec, Use, register
from art_oat.checks import refuse
from art_oat.draws import draw
from art_oat.numbers import count_faults, flag_faults, is_name_in, number_faults, plain_fields

_KL_START = 0.001
"""Standard deviation of the start for ``"kl"``, whose gradient is 0 at ``x``; in units of ``x``, as published."""


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the cross-entropy (Madry et al. 2018, arXiv:1706.06083), or on a divergence.

    ``x' <- project(x' + eps_step * direction(gradient))`` from a random start in the ball of radius ``eps``;
    ``direction`` is the sign for Linf and the gradient over its norm for L2. The last iterate is returned.

    With ``objective="kl"`` it is the training attack of TRADES (Zhang et al. 2019, arXiv:1901.08573, algorithm 1):
    ``KL(softmax f(x) || softmax f(x'))`` is maximized from ``x + 0.001 N(0, 1)``; labels are not used.

    The defaults are the published training attack of OAT: PGD-7, 8/255, step 1.43/255.

    Args:
        eps: Radius, in units of ``x``; above 0.
        eps_step: Step, in units of ``x``, above 0; None for ``min(1.25 eps, eps + 4/255) / nb_steps``.
        nb_steps: Number of steps, at least 1.
        norm: ``"Linf"`` or ``"L2"``.
        has_random_start: Whether to start at random (uniformly in the ball, or as above for ``"kl"``), or from ``x``.
        objective: What is maximized, ``"cross-entropy"`` or ``"kl"``.

    Raises:
        ValueError: If an argument is not as above, or ``"kl"`` starts from ``x``, where its gradient is 0; names every
            fault.
    """

    eps: float = 8 / 255
    eps_step: float | None = None
    nb_steps: int = 7
    norm: Norm = "Linf"
    has_random_start: bool = True
    objective: Objective = "cross-entropy"
    draws_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        plain_fields(self)
        faults = ball_faults(self.eps, self.norm, ("Linf", "L2")) + step_faults(self.eps_step)
        faults += count_faults({"nb_steps": self.nb_steps}) + flag_faults({"has_random_start": self.has_random_start})
        if not is_name_in(self.objective, get_args(Objective)):
            faults.append(f"objective must be one of {get_args(Objective)}, got {self.objective!r}.")
        if self.objective == "kl" and not self.has_random_start:
            faults.append("has_random_start must be True for objective 'kl', whose gradient is 0 at the input itself.")
        refuse(faults)

    @classmethod
    def for_evaluation(cls, eps: float, nb_steps: int, norm: Norm) -> PGD:
        """Return the attack that evaluates: ``nb_steps`` steps of ``2.5 eps / nb_steps``."""
        return cls(eps, 2.5 * eps / nb_steps, nb_steps, norm)

    def scaled(self, factor: float) -> PGD:
        """Return the attack with radius and step times a factor; the start for ``"kl"`` keeps its size."""
        return replace(self, eps=factor * self.eps, eps_step=factor * self.step)

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
        """Return attacked inputs; see :class:`~art_oat.attacks.protocol.TensorAttack`."""
        x = x.detach()
        x_adv, bounds = x, bounds_like(clip_values, x)
        if self.has_random_start:
            x_adv = clip(x + self._random_start(x, generator), bounds)
        target = self._target(network, x, y)
        for _ in range(self.nb_steps):
            gradient = input_gradient(network, x_adv, target)
            delta = x_adv + self.step * direction(gradient, self.norm) - x
            x_adv = clip(x + project(delta, self.eps, self.norm), bounds)
        return x_adv

    def _target(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What the scores move away from; the divergence is the cross-entropy up to a constant, the entropy."""
        if self.objective == "cross-entropy":
            return y
        with torch.no_grad():
            probabilities: Tensor = network(x).softmax(dim=1)
        return probabilities

    def _random_start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.objective == "kl":
            return project(_KL_START * draw(x, generator, is_normal=True), self.eps, self.norm)
        return self.eps * random_start(x, self.norm, generator)


@dataclass(frozen=True)
class NFGSM:
    """One step of the gradient's sign from much noise: N-FGSM (de Jorge et al. 2022, arXiv:2202.01181).

    ``x' = clip(x_noisy + eps_step * sign(gradient of the cross-entropy at x_noisy))`` with
    ``x_noisy = clip(x + noise * eps * U(-1, 1))``. The image is clipped to its range; the perturbation is not clipped
    to the ball, and may be ``noise * eps + eps_step`` large. It trains with one gradient in place of seven, and says
    nothing of robustness at ``eps``. Such training may fail by catastrophic overfitting: name a ``fallback`` in
    :class:`~art_oat.Method`. Linf only.

    Args:
        eps: Radius to be robust at, in units of ``x``; above 0.
        eps_step: Step, in units of ``x``, above 0; None for ``eps``.
        noise: Half width of the uniform noise, in units of ``eps``; above 0.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    eps: float = 8 / 255
    eps_step: float | None = None
    noise: float = 2.0
    draws_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        plain_fields(self)
        faults = ball_faults(self.eps, "Linf") + step_faults(self.eps_step)
        refuse(faults + number_faults({"noise": self.noise}, "be a number above 0", lambda it: it > 0))

    def scaled(self, factor: float) -> NFGSM:
        """Return the attack with radius and step, and so the noise, times a factor."""
        return replace(self, eps=factor * self.eps, eps_step=None if self.eps_step is None else factor * self.eps_step)

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return attacked inputs; see :class:`~art_oat.attacks.protocol.TensorAttack`."""
        x, bounds = x.detach(), bounds_like(clip_values, x)
        noisy = clip(x + self.noise * self.eps * (2 * draw(x, generator) - 1), bounds)
        step = self.eps if self.eps_step is None else self.eps_step
        return clip(noisy + step * input_gradient(network, noisy, y).sign(), bounds)


def input_gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of the cross-entropy; ``y`` are class indices ``[N]`` or probabilities ``[N, K]``."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(network(x), y, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def random_start(x: Tensor, norm: Norm, generator: torch.Generator | None) -> Tensor:
    """Draw a perturbation like ``x``, uniformly in the ball of radius 1 in Linf or L2."""
    if norm == "Linf":
        return 2 * draw(x, generator) - 1
    radius = draw(x.flatten(1)[:, 0], generator) ** (1 / math.prod(x.shape[1:]))
    return unit(draw(x, generator, is_normal=True)) * per_sample(radius, x)


def direction(gradient: Tensor, norm: Norm) -> Tensor:
    """Return where a step goes: along the sign of the gradient in Linf, along the gradient in L2, of length 1."""
    return gradient.sign() if norm == "Linf" else unit(gradient)


def project(delta: Tensor, radius: float | Tensor, norm: Norm) -> Tensor:
    """Return perturbations within a ball, whose radius each sample may have of its own, ``[N]``.

    In Linf they are cut to it; in L2 and L1 those that are longer are shortened along themselves.
    """
    if norm == "Linf":
        bound: Any = per_sample(radius, delta) if isinstance(radius, Tensor) else radius
        return delta.clamp(-bound, bound)
    length = distance(torch.zeros_like(delta), delta, norm)
    return delta * per_sample((radius / length.clamp_min(1e-12)).clamp_max(1), delta)


def unit(x: Tensor) -> Tensor:
    """Return each sample over its L2 norm."""
    return x / per_sample(x.flatten(1).norm(dim=1).clamp_min(1e-12), x)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Return values ``[N]`` as a factor of samples like ``[N, ...]``."""
    return values.view(-1, *[1] * (like.dim() - 1))


def bounds_like(clip_values: ClipValues | None, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return smallest and largest value of an input as tensors of the dtype and device of ``like``; or None."""
    if clip_values is None:
        return None
    low, high = (torch.as_tensor(value, dtype=like.dtype, device=like.device) for value in clip_values)
    return low, high


def clip(x: Tensor, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return inputs cut to the range of :func:`bounds_like`."""
    return x if bounds is None else torch.minimum(torch.maximum(x, bounds[0]), bounds[1])


def _counts(name: str) -> tuple[int, int]:
    """Steps and restarts."""
    nb_steps, _, nb_restarts = name.removeprefix("pgd-").partition("x")
    return int(nb_steps), int(nb_restarts or 1)


def _restarted(spec: AttackSpec, _classifier: PyTorchClassifier) -> Mapping[str, PGD]:
    nb_steps, nb_restarts = _counts(spec.name)
    attack, once = PGD.for_evaluation(spec.eps, nb_steps, spec.norm), f"pgd-{nb_steps}"
    return {once: attack} if nb_restarts == 1 else {f"{once} #{n}": attack for n in range(1, nb_restarts + 1)}


def _restart_faults(spec: AttackSpec, use: Use) -> list[str]:
    is_refused = use == "training" and "x" in spec.name
    return [f"attack must have no restarts in training, got {spec.name}."] if is_refused else []


def _noise(name: str) -> float:
    return float(name.removeprefix("n-fgsm").removeprefix("-") or NFGSM.noise)


def _one_step_faults(spec: AttackSpec, _use: Use) -> list[str]:
    faults = [] if _noise(spec.name) > 0 else ["noise must be above 0, as in n-fgsm-1, got 0."]
    if spec.eps_step is not None:
        faults.append(f"eps_step must be None for {spec.name}, which goes eps far at once.")
    return faults


register(
    AttackKind(
        pattern=r"pgd-[1-9]\d*(x[1-9]\d*)?",
        spelled="pgd-K, pgd-KxR (R restarts, in evaluation)",
        train=lambda spec, _classifier, objective: PGD(
            spec.eps, spec.eps_step, _counts(spec.name)[0], spec.norm, objective=objective
        ),
        evaluate=_restarted,
        faults=_restart_faults,
        display=lambda name: "PGD-{} ({} restarts)".format(*_counts(name)) if "x" in name else name.upper(),
        reserved=r"pgd-[1-9].*",
    )
)
register(
    AttackKind(
        pattern=r"n-fgsm(-\d+\.?\d*)?",
        spelled="n-fgsm[-NOISE]",
        train=lambda spec, _classifier, _objective: NFGSM(spec.eps, noise=_noise(spec.name)),
        faults=_one_step_faults,
        norms=("Linf",),
        is_one_step=True,
    )
)
