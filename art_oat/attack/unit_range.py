"""Owns the range that attacks from outside ART know: images in [0, 1]."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from art_oat.attack.protocol import ClipValues


class UnitRange(nn.Module):
    """A network that takes inputs in [0, 1] in place of ``[low, low + span]``.

    Args:
        network: Takes inputs in ``[low, low + span]``.
        clip_values: Smallest and largest value of an input; the same for every feature.
    """

    def __init__(self, network: nn.Module, clip_values: ClipValues) -> None:
        super().__init__()
        self.network = network
        low, high = (float(np.min(value)) for value in clip_values)
        self.low = low
        self.span = high - low
        self.training = network.training

    def to_unit(self, x: Tensor) -> Tensor:
        """Bring inputs to [0, 1]; what rounding leaves outside is cut off."""
        return ((x - self.low) / self.span).clamp(0, 1)

    def from_unit(self, x: Tensor) -> Tensor:
        """Undo :meth:`to_unit`."""
        return x * self.span + self.low

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for inputs in [0, 1], ``[N, ...]``."""
        scores: Tensor = self.network(x if (self.low, self.span) == (0, 1) else self.from_unit(x))
        return scores


def unit_range_faults(clip_values: ClipValues | None, name: str) -> list[str]:
    """Say what keeps an attack that knows [0, 1] only from working within ``clip_values``."""
    if clip_values is None:
        return [f"{name} needs the classifier's clip_values, got None. Inputs in [0, 1] have (0, 1)."]
    if any(len(np.unique(value)) > 1 for value in clip_values):
        return [f"{name} needs the same clip_values for every feature, got several."]
    return []
