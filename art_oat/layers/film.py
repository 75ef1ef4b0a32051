"""FiLM: a scale and a shift per channel, computed from the code of lam."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from art_oat.layers.channel_affine import channel_affine


class FiLM(nn.Module, ABC):
    """Feature-wise linear modulation of ``C`` channels by a code of length ``D`` (arXiv:1709.07871, 2010.11828).

    A subclass is made of ``D`` and ``C``. :func:`register_film` makes it known by name.

    Attributes:
        starts_as_identity: Whether scales start as 1 and shifts as 0.
        is_linear: Whether scale and shift are linear in the code, so that they can be continued beyond lam = 1.
    """

    starts_as_identity: ClassVar[bool] = True
    is_linear: ClassVar[bool] = False

    @abstractmethod
    def coefficients(self, code: Tensor, nb_channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[G, nb_channels]``, for codes ``[G, D]``.

        Args:
            code: Of each lam.
            nb_channels: How many channels to modulate, the first, where a network runs at a smaller width; None for
                all.
        """

    @abstractmethod
    def reset_parameters(self) -> None:
        """Go back to the start."""

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Return ``scale * x + shift`` for features ``[N, C, ...]`` and codes ``[1, D]`` or ``[N, D]``."""
        return channel_affine(x, *self.coefficients(code))


FILMS: dict[str, type[FiLM]] = {}
"""The forms of FiLM by name."""


def register_film(name: str) -> Callable[[type[FiLM]], type[FiLM]]:
    """Make a form of FiLM known as ``to_conditional(network, film=name)``."""

    def register(film: type[FiLM]) -> type[FiLM]:
        FILMS[name] = film
        return film

    return register


@register_film("linear")
class LinearFiLM(FiLM):
    """``scale - 1, shift = output(code)`` with a linear map ``D -> 2C`` without bias that starts at zero.

    With one-hot codes it is a table: a scale and a shift for every trained lam.
    """

    is_linear = True

    def __init__(self, code_dim: int, nb_channels: int) -> None:
        super().__init__()
        self.output = nn.Linear(code_dim, 2 * nb_channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Go back to the identity."""
        nn.init.zeros_(self.output.weight)

    def coefficients(self, code: Tensor, nb_channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[G, nb_channels]``, for codes ``[G, D]``."""
        return _around_one(self.output(code).to(code), nb_channels)


@register_film("two-layer")
class TwoLayerFiLM(FiLM):
    """``scale - 1, shift = output(leaky_relu(hidden(code)))``, with ``hidden: D -> 2C`` and ``output: 2C -> 2C``.

    ``output`` starts at zero.
    """

    def __init__(self, code_dim: int, nb_channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(code_dim, 2 * nb_channels)
        self.output = nn.Linear(2 * nb_channels, 2 * nb_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Go back to the identity."""
        self.hidden.reset_parameters()
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def coefficients(self, code: Tensor, nb_channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[G, nb_channels]``, for codes ``[G, D]``."""
        return _around_one(self.output(F.leaky_relu(self.hidden(code))).to(code), nb_channels)


@register_film("published")
class PublishedFiLM(TwoLayerFiLM):
    """``scale, shift = leaky_relu(output(leaky_relu(hidden(code))))``, as published (arXiv:2010.11828).

    It starts as torch initializes linear layers, hence with scales near 0.02. At a smaller width both layers are cut to
    their first ``2 nb_channels`` inputs and outputs before these are halved, as in the published slimmable networks: so
    what scales a channel at one width may shift another one at a smaller width.
    """

    starts_as_identity = False

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.hidden.reset_parameters()
        self.output.reset_parameters()

    def coefficients(self, code: Tensor, nb_channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[G, nb_channels]``, for codes ``[G, D]``."""
        size = None if nb_channels is None else 2 * nb_channels
        hidden = F.leaky_relu(F.linear(code, self.hidden.weight[:size], self.hidden.bias[:size]))
        result = F.leaky_relu(F.linear(hidden, self.output.weight[:size, :size], self.output.bias[:size])).to(code)
        scale, shift = result.chunk(2, dim=1)
        return scale, shift


def _around_one(result: Tensor, nb_channels: int | None) -> tuple[Tensor, Tensor]:
    """Split ``[G, 2C]`` into scales, which count from 1, and shifts; near 1, half precision holds no small changes."""
    scale, shift = result.chunk(2, dim=1)
    return scale[:, :nb_channels] + 1, shift[:, :nb_channels]


class NarrowFiLM(FiLM):
    """The FiLM of a smaller width: the first channels of one that holds the weights for all widths of a network.

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

    def coefficients(self, code: Tensor, nb_channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[G, nb_channels]``, for codes ``[G, D]``."""
        return self.whole.coefficients(code, nb_channels or self.nb_channels)
