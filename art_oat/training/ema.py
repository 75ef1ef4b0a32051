"""The moving average of weights and statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor


class WeightAverage:
    """An exponential moving average of a network's tensors, beside the tensors that are trained.

    Update ``t``, counted from 0, is ``average <- d average + (1 - d) tensor`` with
    ``d = min(decay, (1 + t) / (10 + t))``: without the second term (that of TensorFlow's
    ``ExponentialMovingAverage``), the weights before training would weigh on the average for ``1 / (1 - decay)``
    steps. Whole numbers, such as the batches that a norm has seen, are not averaged. Half precision, in which small
    changes would be lost, is averaged in float32.

    Torch's ``AveragedModel`` is not used: its decay is fixed, it truncates averaged counters, and it is a second
    network, whereas plain networks and ART's estimators follow the tensors of the first.

    Args:
        tensors: What is averaged: parameters and buffers. Their values now are the start.
        decay: In ``(0, 1)``; the average is over some ``1 / (1 - decay)`` steps.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.nb_updates = 0
        self._floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        self._averages = [tensor.detach().to(_precise(tensor), copy=True) for tensor in self._floats]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the tensors as they are now."""
        decay = min(self.decay, (1 + self.nb_updates) / (10 + self.nb_updates))
        values = [tensor.to(_precise(tensor)) for tensor in self._floats]
        torch._foreach_lerp_(self._averages, values, 1 - decay)
        self.nb_updates += 1

    @torch.no_grad()
    def install(self) -> None:
        """Write the average into the tensors."""
        torch._foreach_copy_(self._floats, self._averages)

    @contextmanager
    def installed(self, writing: AbstractContextManager[Any]) -> Iterator[None]:
        """Let the tensors hold the average within the block; they are written while ``writing`` is held."""
        with writing:
            trained = [tensor.detach().clone() for tensor in self._floats]
            self.install()
        try:
            yield
        finally:
            with writing, torch.no_grad():
                torch._foreach_copy_(self._floats, trained)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and how many updates it has taken in."""
        return {"nb_updates": self.nb_updates, "averages": self._averages}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` of an average of the same tensors returned."""
        self.nb_updates = state["nb_updates"]
        torch._foreach_copy_(self._averages, state["averages"])


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
