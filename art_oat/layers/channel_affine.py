"""A scale and a shift per channel: what norms and FiLM are in evaluation, and what FiLM is in training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from art_oat.condition import Layout, repeated

_IMAGE_AXES = ("N", "C", "...")
_SPATIAL = 2


def channel_affine(x: Tensor, scale: Tensor, shift: Tensor, *, is_trailing: bool = False) -> Tensor:
    """Return ``scale * x + shift``, in the dtype of ``x``, with one per channel, for all samples or for each.

    On a processor, the kernel of batch norm computes it where the channels of a sample lie together in memory.

    Args:
        x: Features ``[N, C, ...]``, or ``[N, ..., *S]`` where ``is_trailing``.
        scale: ``[1, C]`` or ``[N, C]``; or ``[1, *S]`` or ``[N, *S]``.
        shift: Likewise.
        is_trailing: Whether channels lie along the last axes.

    Raises:
        RuntimeError: If scale and shift are for several samples, but not for ``N``.
    """
    if len(scale) not in (1, len(x)):
        raise RuntimeError(f"a layer with {len(scale)} lams, one per sample, got a batch of {len(x)}.")
    is_mixed = x.dtype in (torch.bfloat16, torch.float16) and scale.dtype == torch.float32
    is_image = x.dim() >= len(_IMAGE_AXES) and x.numel() > 0
    spread = _spread_last if is_trailing else _spread
    if x.device.type == "cpu":
        if is_image and not is_trailing and x.is_contiguous() and (x.dtype == scale.dtype or is_mixed):
            return _by_kernel(x, scale, shift)
        if is_mixed and not (scale.requires_grad or shift.requires_grad):
            scale, shift = scale.to(x.dtype), shift.to(x.dtype)
        elif is_mixed and is_image and torch.is_grad_enabled():
            return _by_two_numbers(x, scale, shift, spread)
    return spread(shift, x).addcmul(x, spread(scale, x)).to(x.dtype)


class ChannelAffine(nn.Module):
    """An affine map per channel, in a pinned network.

    Args:
        is_trailing: Whether channels lie along the last axes.

    Attributes:
        coefficients: Scale and shift, each ``[1, C]`` or ``[N, C]``. They are replaced together: a thread in the middle
            of a pass sees either both old ones or both new ones.
        layout: How the network lays out several samples that it makes of one.
    """

    coefficients: tuple[Tensor, Tensor]
    layout: Layout

    def __init__(self, *, is_trailing: bool = False) -> None:
        super().__init__()
        self.is_trailing = is_trailing

    def forward(self, x: Tensor) -> Tensor:
        """Return ``scale * x + shift``, see :func:`channel_affine`."""
        scale, shift = (repeated(values, len(x), self.layout) for values in self.coefficients)
        return channel_affine(x, scale, shift, is_trailing=self.is_trailing)


def _by_kernel(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalize by mean 0 and variance 1, as one sample of ``N C`` channels where every sample has a scale of its own.

    The kernel rounds half precision once, and gives the gradient of the scale without a product as large as ``x``. The
    result is no view, also where its shape is restored: layers that work in place may follow.
    """
    zeros, ones = scale.new_zeros(scale.numel()), scale.new_ones(scale.numel())
    channels = x if len(scale) == 1 else x.view(1, -1, *x.shape[_SPATIAL:])
    result = torch.batch_norm(channels, scale.reshape(-1), shift.reshape(-1), zeros, ones, False, 0.0, 0.0, False)
    return result if len(scale) == 1 else torch.ops.aten._unsafe_view(result, x.shape)


def _by_two_numbers(x: Tensor, scale: Tensor, shift: Tensor, spread: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Compute in the half precision of ``x``, without a copy of it in float32.

    The scale counts by two numbers, it rounded and what that leaves out: else small changes of scales near 1 were lost.
    """
    rounded = scale.to(x.dtype)
    rest = (scale - rounded).detach().to(x.dtype)
    return spread(shift.to(x.dtype), x).addcmul(x, spread(rest, x)).addcmul(x, spread(rounded, x))


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """Give coefficients ``[G, C]`` the axes of features ``[N, C, ...]``."""
    return values.view(values.shape + (1,) * (x.dim() - _SPATIAL))


def _spread_last(values: Tensor, x: Tensor) -> Tensor:
    """Give coefficients ``[G, *S]`` the axes of features ``[N, ..., *S]``."""
    return values.view(values.shape[:1] + (1,) * (x.dim() - values.dim()) + values.shape[1:])
