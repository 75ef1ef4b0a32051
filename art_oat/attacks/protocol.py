"""What an attack is, and what one on tensors promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

import torch
from art.attacks.attack import EvasionAttack
from torch import Tensor, nn

Norm = Literal["Linf", "L2", "L1"]
ClipValues = tuple[Any, Any]
Objective = Literal["cross-entropy", "kl"]
"""What an attack maximizes: the loss of the labels, or how far the scores move from those of the clean input."""


class TensorAttack(Protocol):
    """Anything that perturbs a batch; the i-th output belongs to the i-th input.

    It gives the network whole batches. One that continues with a part of a batch has an attribute ``keeps_batch`` that
    is False: a network that is bound to one lam per sample could not tell which samples those are.

    One that draws everything by :func:`~art_oat.attacks.draw` may have ``draws_rows = True``. Where several processes
    train, each attacking its share of a batch, its samples then meet the very noise that they would in one process.
    """

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return attacked inputs ``[N, ...]``, without gradient.

        Args:
            network: Gives scores ``[N, K]``; a plain network in evaluation mode, preprocessing included.
            x: Inputs, ``[N, ...]``.
            y: Class indices, ``[N]``.
            clip_values: Smallest and largest value of an input, numbers or arrays that fit one sample; or None.
            generator: What random starts are drawn from; None for torch's global one.
        """
        ...


@runtime_checkable
class ScalableAttack(Protocol):
    """An attack, on tensors or any callable, whose radius can grow while it trains: ``Method(eps_warmup=...)``."""

    def scaled(self, factor: float) -> Self:
        """Return the same attack with radius and step, in units of ``x``, times a factor in ``(0, 1]``."""
        ...


Attack: TypeAlias = TensorAttack | EvasionAttack | Callable[..., Tensor]
"""What can be bound to a classifier; torchattacks' attacks are among the callables."""
