"""What a network with the dial as its second input is made of."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat.condition import Layout, repeated
from art_oat.layers import FiLM

_SPATIAL = 2
"""Where the axes begin that a scale per channel does not have."""


class _Pass(threading.local):
    """The pass under way in this thread; unlike a context variable, ``torch.compile`` can read and write it.

    Attributes:
        values: Scale and shift of every layer, each ``[N, C]``.
    """

    values: Sequence[tuple[Tensor, Tensor]] = ()


_PASS = _Pass()


class DialNetwork(nn.Module):
    """A network with the dial as its second input; made by :func:`dial_network`.

    Args:
        network: Of plain layers, and of such as read scale and shift of the pass under way.
        dial: Computes these.
    """

    def __init__(self, network: nn.Module, dial: Dial) -> None:
        super().__init__()
        self.network, self.dial = network, dial

    def forward(self, x: Tensor, lam: Tensor) -> Any:
        """Answer as the original network does.

        Args:
            x: Inputs ``[N, ...]``, of the dtype of the network.
            lam: One number per sample, ``[N]``. What lies outside of the range of the dial counts as its nearest end.

        Raises:
            ValueError: If ``lam`` does not hold one number per sample.
        """
        if lam.shape != x.shape[:1]:
            raise ValueError(f"lam must hold one number per sample, {list(x.shape[:1])}, got {list(lam.shape)}.")
        _PASS.values = self.dial(lam)
        try:
            return self.network(x)
        finally:
            _PASS.values = ()


class Dial(nn.Module):
    """Computes scale and shift of every layer of a network from lam.

    Args:
        knots: Lams that the tables are for, ``[k]``, ascending.
        tables: Scale and shift of every layer at these, each ``[k, C]``.
        curves: By number of the layer, those whose FiLM is not linear.
        codes: Of the knots, ``[k, D]``.
        end_of_slope: The lam from which on curves hold; below it, tables do.
    """

    knots: Tensor
    gaps: Tensor
    steps: Tensor
    start: Tensor
    table: Tensor
    codes: Tensor

    def __init__(
        self,
        knots: Tensor,
        tables: Sequence[tuple[Tensor, Tensor]],
        curves: dict[int, Curve],
        codes: Tensor,
        end_of_slope: float,
    ) -> None:
        super().__init__()
        self.sizes = [table.shape[1] for pair in tables for table in pair]
        self.register_buffer("knots", knots)
        self.register_buffer("gaps", knots.diff())
        identity = torch.eye(len(knots), dtype=knots.dtype, device=knots.device)
        self.register_buffer("steps", identity[:, 1:] - identity[:, :-1])
        self.register_buffer("start", identity[0].clone())
        columns = [knots.new_zeros(len(knots), 0), *(table for pair in tables for table in pair)]
        self.register_buffer("table", torch.cat(columns, dim=1))
        self.register_buffer("codes", codes if curves else None)
        self.curves = nn.ModuleDict({str(number): curve for number, curve in curves.items()})
        self.end_of_slope = end_of_slope

    def shares(self, lam: Tensor) -> Tensor:
        """Return how much each knot counts at ``lam [N]``, ``[N, k]``: at most two do, and their sum is 1."""
        climbed = ((lam.unsqueeze(1) - self.knots[:-1]) / self.gaps).clamp(0, 1)
        return F.linear(climbed, self.steps, self.start)

    def forward(self, lam: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return scale and shift of every layer, each ``[N, C]``, for ``lam [N]``."""
        lam = lam.to(self.knots.dtype)
        shares = self.shares(lam)
        values = (shares @ self.table).split(self.sizes, dim=1)
        found = [*zip(values[::2], values[1::2], strict=True)]
        for number, curve in self.curves.items():
            is_on_slope = (lam < self.end_of_slope).unsqueeze(1)
            (low_scale, low_shift), (scale, shift) = found[int(number)], curve(shares @ self.codes)
            found[int(number)] = torch.where(is_on_slope, low_scale, scale), torch.where(is_on_slope, low_shift, shift)
        return found


class Curve(nn.Module):
    """Scale and shift of a layer for lam > 0 whose FiLM is not linear in the code.

    Args:
        film: The FiLM.
        scale: Of the layer without it, ``[1, C]``.
        shift: Likewise.
        has_shift: Whether the FiLM shifts.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, film: FiLM, scale: Tensor, shift: Tensor, *, has_shift: bool) -> None:
        super().__init__()
        self.film, self.has_shift = film, has_shift
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each ``[N, C]``, for codes ``[N, D]``."""
        scale, shift = self.film.coefficients(code)
        moved = self.shift * scale
        return self.scale * scale, moved + shift if self.has_shift else moved


class DialedAffine(nn.Module):
    """A scale and a shift of every sample, as the dial has them in the pass under way.

    Args:
        number: Of the layer.
        norm: What normalizes before, if anything does.
        shape: Of scale and shift of one sample.
        is_trailing: Whether channels lie along the last axes of the features, otherwise along the second.
        layout: How the network lays out several samples that it makes of one.
    """

    def __init__(
        self, number: int, norm: nn.Module | None, shape: torch.Size, *, is_trailing: bool, layout: Layout
    ) -> None:
        super().__init__()
        self.number, self.norm, self.shape = number, norm, shape
        self.is_trailing, self.layout = is_trailing, layout

    def forward(self, x: Tensor) -> Tensor:
        """Return ``scale * x + shift`` for features ``[N, C, ...]``, or ``[N, ..., *S]`` where trailing."""
        x = x if self.norm is None else self.norm(x)
        scale, shift = (repeated(values, x.shape[0], self.layout) for values in _PASS.values[self.number])
        spread = [1] * (x.dim() - 1 - len(self.shape))
        if spread and not self.is_trailing and x.dtype == scale.dtype:
            return _by_kernel(x, scale, shift)
        axes = [*spread, *self.shape] if self.is_trailing else [*self.shape, *spread]
        result = x * scale.view(-1, *axes) + shift.view(-1, *axes)
        return result if result.dtype == x.dtype else result.to(x.dtype)


def _by_kernel(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute in one go over ``x [N, C, ...]``, by the kernel of batch norm on one sample of ``N C`` channels.

    It is the fastest way in torch and in onnxruntime, also among those that let the latter keep features in blocks.
    """
    rows = x.reshape(1, -1, *x.shape[_SPATIAL:])
    weight, bias = scale.reshape(-1), shift.reshape(-1)
    mean, var = torch.zeros_like(weight), torch.ones_like(weight)
    return torch.batch_norm(rows, weight, bias, mean, var, False, 0.0, 0.0, False).view(x.shape)
