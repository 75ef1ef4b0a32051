"""The safeguard of a step: weights that are known to be good, and the way back to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from art_oat.model import OATModel


class UnfitError(Exception):
    """The last step, or the network itself, must be undone; holds the error to raise then."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def check_finite(what: str, value: Tensor, epoch: int) -> None:
    """Refuse a value that is not finite.

    Raises:
        UnfitError: If it is not.
    """
    if bool(value.isfinite()):
        return
    raise UnfitError(
        RuntimeError(
            f"training must stay finite, got a {what} of {value.item()} in epoch {epoch}. Weights and statistics are "
            "back at ones that had a finite loss and gradient; the optimizer's own state is not. Lower the learning "
            "rate, or look for extreme inputs."
        )
    )


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
