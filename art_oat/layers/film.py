"""Owns FiLM: a scale and a shift per channel, computed from the code of lam."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from art_oat.layers.affine import Source, channel_affine

FiLMKind = Literal["identity", "published"]


class FiLM(nn.Module):
    """Feature-wise linear modulation of ``C`` channels by a code of length ``D`` (arXiv:1709.07871, 2010.11828).

    ``scale, shift = output(leaky_relu(hidden(code)))``, with ``hidden: D -> 2C`` and ``output: 2C -> 2C``.

    Args:
        code_dim: Length ``D`` of a code.
        nb_channels: ``C``.
        kind: ``"identity"`` starts as the identity: ``output`` starts at zero and its scale counts from 1, so a
            converted network keeps its answers. ``"published"`` is the published form: a second leaky ReLU after
            ``output``, torch's default initialization, and hence scales near 0.02 at the start.

    Raises:
        ValueError: If ``kind`` is unknown.
    """

    def __init__(self, code_dim: int, nb_channels: int, kind: FiLMKind = "identity") -> None:
        super().__init__()
        if kind not in get_args(FiLMKind):
            raise ValueError(f"film must be one of {get_args(FiLMKind)}, got {kind!r}.")
        self.kind: FiLMKind = kind
        self.hidden = nn.Linear(code_dim, 2 * nb_channels)
        self.output = nn.Linear(2 * nb_channels, 2 * nb_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Go back to the start: the identity, or the published one."""
        self.hidden.reset_parameters()
        self.output.reset_parameters()
        if self.kind == "identity":
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    def coefficients(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[G, C]``, for codes ``[G, D]``."""
        result = self.output(F.leaky_relu(self.hidden(code))).to(code)  # near 1, half precision holds no small changes
        if self.kind == "published":
            result = F.leaky_relu(result)
        scale, shift = result.chunk(2, dim=1)
        return (scale + 1 if self.kind == "identity" else scale), shift

    def forward(self, x: Tensor, code: Tensor, source: Source | None = None) -> Tensor:
        """Return ``scale * x + shift`` for features ``[N, C, ...]`` and codes ``[1, D]`` or ``[N, D]``."""
        return channel_affine(x, *self.coefficients(code), source)


class NarrowFiLM(nn.Module):
    """The first channels of a FiLM, which holds the weights for all widths of a network.

    Args:
        film: Of all channels.
        nb_channels: How many are left.
    """

    def __init__(self, film: FiLM, nb_channels: int) -> None:
        super().__init__()
        self.whole = film
        self.nb_channels = nb_channels

    def reset_parameters(self) -> None:
        """Reset the FiLM of all channels."""
        self.whole.reset_parameters()

    def coefficients(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[G, nb_channels]``, for codes ``[G, D]``."""
        scale, shift = self.whole.coefficients(code)
        return scale[:, : self.nb_channels], shift[:, : self.nb_channels]

    def forward(self, x: Tensor, code: Tensor, source: Source | None = None) -> Tensor:
        """Return ``scale * x + shift`` for features ``[N, nb_channels, ...]`` and codes ``[1, D]`` or ``[N, D]``."""
        return channel_affine(x, *self.coefficients(code), source)
