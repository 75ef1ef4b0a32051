"""The layers of a conditional network: what they can do, whatever they are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from art_oat.condition import Condition
from art_oat.layers.channel_affine import ChannelAffine


class ConvertedLayer(nn.Module, ABC):
    """A layer, or a group of layers, that was made of an ordinary one, and can become one again."""

    @abstractmethod
    def fold(self, condition: Condition) -> nn.Module:
        """Return an ordinary, independent layer that answers alike for a condition of one lam, in evaluation."""


class ConditionalLayer(ConvertedLayer):
    """A layer that depends on lam: it reads the condition of the pass under way.

    Whoever registers a conversion returns a subclass. A pinned network holds a twin in place of the layer, made by
    :meth:`pin`, and calls :meth:`update` when its lams or a tensor of the layer have changed.
    """

    @abstractmethod
    def pin(self) -> nn.Module:
        """Return a twin of the layer for a pinned network; it does not read the condition."""

    @abstractmethod
    def update(self, twin: nn.Module, condition: Condition, rows: Tensor) -> None:
        """Let a twin answer as the layer does in evaluation.

        Threads may run the twin meanwhile, so what belongs together must be written by one assignment.

        Args:
            twin: From :meth:`pin`.
            condition: Of ``G`` lams.
            rows: Which of these lams each sample has, ``[1]`` where all have the same one, or ``[N]``.
        """


class AffineLayer(ConditionalLayer):
    """A conditional layer that is an affine map per channel in evaluation, as batch norm is."""

    @abstractmethod
    def affine(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return scale and shift in evaluation, each ``[G, C]``, for a condition of ``G`` lams."""

    def pin(self) -> nn.Module:
        """Return an affine map per channel."""
        return ChannelAffine()

    def update(self, twin: nn.Module, condition: Condition, rows: Tensor) -> None:
        """Write scale and shift of every sample."""
        assert isinstance(twin, ChannelAffine)
        scale, shift = self.affine(condition)
        twin.layout = condition.layout
        twin.coefficients = (scale[rows], shift[rows])
