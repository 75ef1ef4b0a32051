"""Owns drawing dropout masks quickly on a processor, whatever network they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from art_oat.fast import is_fast

_LEVELS = 2**16
"""One mask takes 16 random bits."""


class QuickDropout(TorchFunctionMode):
    """Draws four masks of dropout from one number of 64 random bits, for tensors on a processor.

    torch draws one number per mask, one after the other, which is a tenth of a training step. Here a value is kept
    with probability ``round(65536 (1 - p)) / 65536``, and divided by just that, so its expectation is exact. The
    masks come from torch's global generator: the same seed gives the same ones, though not those that torch would draw.

    Both ``nn.Dropout`` and ``torch.nn.functional.dropout`` are met; dropout of whole channels stays as it is.

    Args:
        device: Where the network is; elsewhere than on a processor, everything stays as it is.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._is_needed = device.type == "cpu"

    def installed(self) -> AbstractContextManager[object]:
        """Let dropout within the block be drawn here; after a first block without any, look out for it no more."""
        return self if self._is_needed and is_fast("dropout") else nullcontext()

    def __enter__(self) -> QuickDropout:
        self._is_needed = False
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.dropout:
            self._is_needed = True
            return _dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    """As ``torch.nn.functional.dropout``, whose names these are."""
    nb_kept = round(_LEVELS * (1 - p)) if 0 <= p <= 1 else 0
    if not training or input.device.type != "cpu" or not input.is_floating_point() or not 0 < nb_kept < _LEVELS:
        return F.dropout(input, p, training, inplace)
    factors = _factors(input, nb_kept)
    return input.mul_(factors) if inplace else input * factors


def _factors(x: Tensor, nb_kept: int) -> Tensor:
    """Draw what the values of ``x`` are multiplied by: 0, or the inverse of the probability of being kept."""
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[: x.numel()]
    factors = (bits < nb_kept - _LEVELS // 2).to(x.dtype).mul_(_LEVELS / nb_kept)
    layouts = [torch.contiguous_format, *({4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(x.dim(), []))]
    is_dense = any(x.is_contiguous(memory_format=layout) for layout in layouts)
    return factors.as_strided(x.shape, x.stride()) if is_dense else factors.view(x.shape)
