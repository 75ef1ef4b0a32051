"""Owns a scale and a shift per channel: what norms and FiLM are in evaluation, and what FiLM is in training."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from art_oat.fast import is_fast

_IMAGE_AXES = ("N", "C", "...")
_SPATIAL = 2


class Source(NamedTuple):
    """What features come from, per channel: ``slope * x + offset``.

    Attributes:
        x: Kept for the gradient of something else already, ``[N, C, ...]``.
        slope: ``[N, C]``.
        offset: ``[N, C]``.
    """

    x: Tensor
    slope: Tensor
    offset: Tensor


def channel_affine(x: Tensor, scale: Tensor, shift: Tensor, source: Source | None = None) -> Tensor:
    """Return ``scale * x + shift``, in the dtype of ``x [N, C, ...]``, for scale and shift ``[1, C]`` or ``[N, C]``.

    Args:
        x: Features.
        scale: Of each channel.
        shift: Likewise.
        source: What ``x`` comes from, if that is known: it serves to find the gradient of ``scale``, so that ``x``
            needs not be kept.

    With a source, or in half precision with channels last, coefficients that learn have no second derivatives.

    Raises:
        RuntimeError: If scale and shift are for several samples, but not for ``N``.
    """
    if len(scale) not in (1, len(x)):
        raise RuntimeError(f"a layer with {len(scale)} lams, one per sample, got a batch of {len(x)}.")
    is_learned = torch.is_grad_enabled() and (scale.requires_grad or shift.requires_grad)
    if is_learned and (kept := _kept(x, scale, source)) is not None:
        result: Tensor = _Learned.apply(x, scale, shift, *kept)  # type: ignore[no-untyped-call]
        return result
    return _affine(x, scale, shift)


def _kept(x: Tensor, scale: Tensor, source: Source | None) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
    """Return what to keep for the gradient where torch's own way costs more: ``x``, slope and offset of a source.

    None stands for torch's own way; so it is within ``torch.func``, which knows no such gradient.
    """
    if not _is_image(x) or torch._C._are_functorch_transforms_active():
        return None
    if source is not None and x.dtype == scale.dtype:
        return source.x.detach(), source.slope, source.offset
    return (x.detach(), None, None) if _is_mixed(x, scale) and _is_on_processor(x) and not x.is_contiguous() else None


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """By the kernel of batch norm where the channels of a sample lie together in memory, on a processor."""
    if _is_on_processor(x):
        if _is_image(x) and x.is_contiguous() and (x.dtype == scale.dtype or _is_mixed(x, scale)):
            return _by_kernel(x, scale, shift)
        if _is_mixed(x, scale) and not (scale.requires_grad or shift.requires_grad):
            scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    return _spread(shift, x).addcmul(x, _spread(scale, x)).to(x.dtype)


def _by_kernel(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalize by mean 0 and variance 1, as one sample of ``N C`` channels where every sample has a scale of its own.

    The kernel rounds half precision once, and gives the gradient of the scale without a product as large as ``x``. The
    result is no view, also where its shape is restored: layers that work in place may follow.
    """
    zeros, ones = scale.new_zeros(scale.numel()), scale.new_ones(scale.numel())
    channels = x if len(scale) == 1 else x.view(1, -1, *x.shape[_SPATIAL:])
    result = torch.batch_norm(channels, scale.reshape(-1), shift.reshape(-1), zeros, ones, False, 0.0, 0.0, False)
    return result if len(scale) == 1 else torch.ops.aten._unsafe_view(result, x.shape)


class _Learned(torch.autograd.Function):
    """``scale * y + shift``, where the gradient of the scale is found from ``y = slope * x + offset``.

    In half precision, a scale counts by two numbers, it rounded and what that leaves out: else small changes of scales
    near 1 would be lost. Without slope and offset, ``x`` is ``y``.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, scale: Tensor, shift: Tensor, x: Tensor, slope: Tensor | None, offset: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(scale, x, slope, offset)
        if not _is_mixed(y, scale):
            return _affine(y, scale, shift)
        rounded, rest = _in_two(scale, y)
        return _spread(shift.to(y.dtype), y).addcmul(y, rest).addcmul_(y, rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "FiLM in training keeps no second derivatives. Ask for them within without_fast_paths()."
            )
        scale, x, slope, offset = ctx.saved_tensors
        (gradient,) = gradients
        spatial = tuple(range(_SPATIAL, x.dim()))
        of_shift = gradient.sum(spatial).to(scale.dtype)  # torch sums up half precision in float32
        of_scale = (gradient * x).sum(spatial).to(scale.dtype)
        if slope is not None:
            of_scale = torch.addcmul(of_scale * slope, of_shift, offset)
        of_y = _scaled(gradient, scale) if ctx.needs_input_grad[0] else None
        return of_y, of_scale.sum_to_size(scale.shape), of_shift.sum_to_size(scale.shape), None, None, None


def _is_on_processor(x: Tensor) -> bool:
    return is_fast("affine") and x.device.type == "cpu"


def _is_image(x: Tensor) -> bool:
    return x.dim() >= len(_IMAGE_AXES) and x.numel() > 0


def _is_mixed(x: Tensor, scale: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16) and scale.dtype == torch.float32


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    """Return ``scale * x`` in the dtype of ``x``."""
    if not _is_mixed(x, scale):
        return x * _spread(scale, x)
    rounded, rest = _in_two(scale, x)
    return (x * rest).addcmul_(x, rounded)


def _in_two(scale: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a scale rounded to the half precision of ``x``, and the rest of it."""
    rounded = scale.to(x.dtype)
    return _spread(rounded, x), _spread((scale - rounded).to(x.dtype), x)


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """Give coefficients ``[G, C]`` the axes of features ``[N, C, ...]``."""
    return values.view(values.shape + (1,) * (x.dim() - _SPATIAL))
