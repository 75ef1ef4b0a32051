"""What a training computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch

Precision = Literal["float32", "bf16"]
"""What attacks, or forward passes, compute in; weights, loss and measurements stay float32."""


def precision_faults(precision: str, attack_precision: str | None = None) -> list[str]:
    """Say which precisions are unknown."""
    named = {"precision": precision} | ({} if attack_precision is None else {"attack_precision": attack_precision})
    return [
        f"{name} must be one of {get_args(Precision)}, got {value!r}."
        for name, value in named.items()
        if value not in get_args(Precision)
    ]


def weight_faults(precision: Precision, attack_precision: Precision | None, dtype: torch.dtype) -> list[str]:
    """Say which precisions do not suit weights of a dtype."""
    if dtype == torch.float32:
        return []
    named = {"precision": precision, "attack_precision": attack_precision}
    return [
        f"{name} bf16 needs weights in float32, got {dtype}. Convert them: model.float()."
        for name, value in named.items()
        if value == "bf16"
    ]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in a precision within the block."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
