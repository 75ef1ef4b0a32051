"""The phases of a training: clean epochs, epochs with attack, and steps in which its radius grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from art_oat.training.method import Method


@dataclass(frozen=True)
class Phases:
    """When a call of ``fit`` does what.

    Attributes:
        nb_before: Epochs of earlier calls; in these alone the first phases may be.
        nb_clean: Epochs, the first, without attack.
        clean_share: Their share of all epochs of the call.
        nb_clean_steps: How many steps they have.
        nb_warmup_steps: Over how many steps after them the radius of the attack grows; need not be whole.
    """

    nb_before: int
    nb_clean: int
    clean_share: float
    nb_clean_steps: int
    nb_warmup_steps: float

    @classmethod
    def of(cls, method: Method, nb_epochs: int, nb_batches: int | None, nb_before: int) -> Self:
        """Return the phases of a call of ``fit``; without a number of batches per epoch, the radius is whole."""
        is_first = nb_before == 0
        nb_clean = min(round(method.clean_share * nb_epochs), nb_epochs - 1) if is_first else 0
        nb_warmup = method.eps_warmup * (nb_epochs - nb_clean) if is_first else 0.0
        nb_batches = nb_batches or 0
        return cls(nb_before, nb_clean, nb_clean / nb_epochs, nb_clean * nb_batches, nb_warmup * nb_batches)

    def is_clean(self, epoch: int) -> bool:
        """Whether an epoch, counted from 1 over all calls, is without attack."""
        return epoch <= self.nb_clean

    def eps_share(self, nb_steps: int) -> float:
        """Return which share of its radius, in ``(0, 1]``, the attack has after so many steps of the call."""
        nb_attacked = max(nb_steps - self.nb_clean_steps, 0) + 1
        return nb_attacked / self.nb_warmup_steps if nb_attacked < self.nb_warmup_steps else 1.0
