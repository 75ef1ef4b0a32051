"""The safeguard of a step: weights that are known to be good, and the way back to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from art_oat.model import OATModel
from art_oat.numbers import shown

MAX_RESTORES = 3
"""How often a call of ``fit`` may go back to the beginning of an epoch that diverged."""
OnNaN = Literal["raise", "restore"]


class DivergenceError(RuntimeError):
    """Something, such as "a loss of nan in epoch 2", is no longer finite; says what to do."""

    def __init__(self, what: str, remedy: str = "Lower the learning rate (as on_nan='restore' does)") -> None:
        super().__init__(
            f"training must stay finite, got {what}. Weights and statistics are back at ones that had a finite loss "
            f"and gradient; the optimizer's own state is not. {remedy}, or look for extreme inputs."
        )
        self.what = what


class DivergenceWarning(UserWarning):
    """A training diverged; it goes on at half the learning rate from the beginning of the epoch."""


class UnfitError(Exception):
    """The last step, or the network itself, must be undone; holds the error to raise then."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def divergence_faults(on_nan: Any) -> list[str]:
    """Say that there is no such way to meet a training that diverges."""
    known = get_args(OnNaN)
    return [] if on_nan in known else [f"on_nan must be one of {known}, got {shown(on_nan)}."]


def check_finite(what: str, value: Tensor, epoch: int) -> None:
    """Refuse a value that is not finite.

    Raises:
        UnfitError: If it is not.
    """
    if bool(value.isfinite()):
        return
    raise UnfitError(DivergenceError(f"a {what} of {value.item()} in epoch {epoch}"))


class Safeguard:
    """Keeps as ``good`` the last weights and statistics that had a finite loss and gradient; ``tensors`` are live."""

    def __init__(self, model: OATModel, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.tensors = [*model.parameters(), *model.buffers()]
        self.good = [tensor.detach().clone() for tensor in self.tensors]

    @torch.no_grad()
    def keep(self) -> None:
        """Take the weights and statistics for good as they are."""
        torch._foreach_copy_(self.good, self.tensors)

    @torch.no_grad()
    def load(self, tensors: list[Tensor], good: list[Tensor] | None) -> None:
        """Put others in the network, and take these for good, or others yet."""
        torch._foreach_copy_(self.tensors, tensors)
        torch._foreach_copy_(self.good, tensors if good is None else good)

    @contextmanager
    def undone_where_unfit(self) -> Iterator[None]:
        """Go back where the block fails, be it by an :class:`UnfitError` or otherwise.

        This comes last of all that ends with the block: perturbed weights, too, are back before it.
        """
        try:
            yield
        except Exception as error:
            with torch.no_grad():
                torch._foreach_copy_(self.tensors, self.good)
            self.optimizer.zero_grad()
            if isinstance(error, UnfitError):
                raise error.error from None
            raise
