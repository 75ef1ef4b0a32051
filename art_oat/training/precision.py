"""What a training computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch

from art_oat.numbers import is_name_in

Precision = Literal["float32", "bf16"]
"""What attacks, or forward passes, compute in; weights, loss and measurements stay float32."""


def precision_faults(**precisions: str | None) -> list[str]:
    """Say which precisions, by name, are unknown; None is none."""
    return [
        f"{name} must be one of {get_args(Precision)}, got {value!r}."
        for name, value in precisions.items()
        if value is not None and not is_name_in(value, get_args(Precision))
    ]


def weight_faults(dtype: torch.dtype, **precisions: str | None) -> list[str]:
    """Say which precisions, by name, do not suit weights of a dtype."""
    return [
        f"{name} bf16 needs weights in float32, got {dtype}. Convert them: model.float()."
        for name, value in precisions.items()
        if value == "bf16" and dtype != torch.float32
    ]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in a precision within the block."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
