"""Batch norm by the statistics of a batch that several processes share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import _BatchNorm

from art_oat.launch import communicate

_IS_JOINT: ContextVar[bool] = ContextVar("_IS_JOINT", default=False)


@contextmanager
def joint_norms() -> Iterator[None]:
    """Within the block, let converted norms in training see the samples of all processes of the default group.

    Every process runs the same passes then, each on at least one sample.
    """
    token = _IS_JOINT.set(True)
    try:
        yield
    finally:
        _IS_JOINT.reset(token)


def is_joint() -> bool:
    """Whether this is run within :func:`joint_norms`."""
    return _IS_JOINT.get()


def _sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, with gradient."""
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """Sums a tensor over all processes; so is the gradient, as what each makes of the sum adds to one loss."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        communicate(distributed.all_reduce, total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        communicate(distributed.all_reduce, total)
        return total


def normalize_jointly(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Normalize ``x [N, C, ...]`` as a norm in training would all samples of all processes at once.

    ``(x - mean) / sqrt(var + eps) * weight + bias``, with the mean over all of them, and then the variance about it.
    ``N`` may be 0 here. Where it is 0 everywhere, or there is one value per channel, the running statistics stay.
    torch's ``SyncBatchNorm`` does the same, but on GPUs alone.

    Returns:
        What it makes of ``x``; ``x`` itself, without a graph, where no process has any.
    """
    axes, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
    values = x if x.dtype == torch.float64 else x.float()
    own = values.new_full((1,), x.numel() // x.shape[1])
    sums = _sum(torch.cat([values.sum(axes), own]))
    count = sums[-1].detach()
    nb_values = int(count)
    if nb_values == 0:
        return x
    if nb_values == 1 and norm.running_mean is not None and norm.running_var is not None:
        mean, var = norm.running_mean, norm.running_var
    else:
        mean = sums[:-1] / count
        var = _sum((values - mean.view(shape)).square().sum(axes)) / count
        _move(norm, mean.detach(), var.detach(), nb_values)
    result = (values - mean.view(shape)) * torch.rsqrt(var + norm.eps).view(shape)
    if norm.weight is not None:
        result = result * norm.weight.view(shape)
    if norm.bias is not None:
        result = result + norm.bias.view(shape)
    return result.to(x.dtype)


@torch.no_grad()
def _move(norm: _BatchNorm, mean: Tensor, var: Tensor, nb_values: int) -> None:
    """Move the running statistics, as torch does: the variance is that of a sample."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = norm.momentum if norm.momentum is not None else 1 / int(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)
    norm.running_var.lerp_(var.to(norm.running_var) * nb_values / max(nb_values - 1, 1), share)
