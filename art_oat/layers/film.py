"""Owns FiLM: a scale and a shift per channel, computed from the code of lam."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat.fast import is_fast

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

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Return ``scale * x + shift`` for features ``[N, C, ...]`` and codes ``[1, D]`` or ``[N, D]``."""
        return channel_affine(x, *self.coefficients(code))


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

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Return ``scale * x + shift`` for features ``[N, nb_channels, ...]`` and codes ``[1, D]`` or ``[N, D]``."""
        return channel_affine(x, *self.coefficients(code))


def channel_affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return ``scale * x + shift``, in the dtype of ``x [N, C, ...]``, for scale and shift ``[1, C]`` or ``[N, C]``.

    Raises:
        RuntimeError: If scale and shift are for several samples, but not for ``N``.
    """
    if len(scale) not in (1, len(x)):
        raise RuntimeError(f"a layer with {len(scale)} lams, one per sample, got a batch of {len(x)}.")
    is_fast_here = is_fast("affine") and x.device.type == "cpu"
    if is_fast_here and _suits_kernel(x, scale):
        return _by_kernel(x, scale, shift)
    shape = scale.shape + (1,) * (x.dim() - 2)
    scale, shift = scale.view(shape), shift.view(shape)
    if is_fast_here and _is_mixed(x, scale) and x.dim() > len(("N", "C")):
        if scale.requires_grad or shift.requires_grad:
            result: Tensor = _HalfAffine.apply(x, scale, shift)  # type: ignore[no-untyped-call]
            return result
        scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    return shift.addcmul(x, scale).to(x.dtype)


def _is_mixed(x: Tensor, scale: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16) and scale.dtype == torch.float32


def _suits_kernel(x: Tensor, scale: Tensor) -> bool:
    """Whether the kernel of batch norm takes these, and is the faster way: channel by channel in memory, it is."""
    is_image = x.dim() > len(("N", "C")) and x.is_contiguous() and x.numel() > 0
    return is_image and (x.dtype == scale.dtype or _is_mixed(x, scale))


def _by_kernel(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalize by mean 0 and variance 1, as one sample of ``N C`` channels where every sample has a scale of its own.

    The kernel rounds half precision once, and gives the gradient of the scale without a product as large as ``x``.
    """
    channels = x if len(scale) == 1 else x.view(1, -1, *x.shape[2:])
    zeros, ones = scale.new_zeros(scale.numel()), scale.new_ones(scale.numel())
    scale, shift = scale.reshape(-1), shift.reshape(-1)
    result = torch.batch_norm(channels, scale, shift, zeros, ones, False, 0.0, 0.0, False)
    return result.view(x.shape)


class _HalfAffine(torch.autograd.Function):
    """``x + (change * x + shift)`` where scale is ``1 + change``: half precision holds small changes of 0, not of 1.

    Scale and shift are float32 and ``[1 or N, C, 1, ...]``; all that is as large as ``x`` stays in its dtype.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        change = (scale - 1).to(x.dtype)
        ctx.save_for_backward(x, change)
        return shift.to(x.dtype).addcmul(x, change).add_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, change = ctx.saved_tensors
        (gradient,) = gradients
        axes = tuple(axis for axis, size in enumerate(change.shape) if size == 1 and axis != 1)
        of_scale, of_shift = (part.sum(axes, keepdim=True, dtype=torch.float32) for part in (gradient * x, gradient))
        return gradient.addcmul(gradient, change), of_scale, of_shift
