"""Images of 256 levels: what inputs of dtype uint8 stand for, and how they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NB_AT_ONCE = 1024


def are_levels(x: Any, clip_values: Any) -> bool:
    """Whether inputs, an array or a tensor, are levels: of dtype uint8, where the clip values are (0, 1).

    Then ``k`` from 0 to 255 stands for ``k / 255``, as torchvision's ``ToTensor`` has it. Elsewhere a number stands for
    itself: in (0, 255) it is its level, and other ranges, or None, say nothing of levels.
    """
    if x.dtype not in (np.uint8, torch.uint8) or clip_values is None:
        return False
    low, high = (np.asarray(value) for value in clip_values)
    return bool(np.all(low == 0) and np.all(high == 1))


def level_faults(x: Any, clip_values: Any, name: str = "x") -> list[str]:
    """Say whether levels are most likely none: images of 0 and 1, which would become nearly black."""
    if not are_levels(x, clip_values) or not len(x) or int(x.max()) != 1:
        return []
    return [
        f"{name} must hold levels up to 255 where it is uint8, since k stands for k / 255, got none above 1: nearly "
        "black. Give images of 0 and 1 as floats, x.astype('float32'), and such dark ones as x.astype('float32') / 255."
    ]


def levels_like(x: Tensor) -> Tensor:
    """Return ``k / 255`` for ``k`` from 0 to 255, in the dtype and on the device of ``x``.

    A table, since dividing on a GPU is multiplying by 1 / 255, which rounds otherwise.
    """
    return (torch.arange(256, dtype=x.dtype, device="cpu") / 255).to(x.device)


def as_floats(x: Any, clip_values: Any) -> Any:
    """Return what an array or a tensor stands for: levels as float32, all else as it is."""
    if not are_levels(x, clip_values):
        return x
    if isinstance(x, Tensor):
        return Levels(x, torch.empty(0, device=x.device))[:]
    return np.divide(x, np.float32(255), dtype=np.float32)


def marked(x: Any, clip_values: Any) -> Any:
    """Return what a digest of an array is to be taken of: levels count as the float32 that they stand for."""
    return Levels(torch.as_tensor(x), torch.empty(0)).pieces() if are_levels(x, clip_values) else x


class Levels:
    """Inputs kept as bytes: a quarter of float32. Any part of them comes as what it stands for.

    Args:
        k: Levels, uint8 ``[N, ...]``.
        like: Gives what they stand for its dtype; on the same device.
        are_fractions: Whether they stand for ``k / 255``, or for ``k``.
    """

    def __init__(self, k: Tensor, like: Tensor, *, are_fractions: bool = True) -> None:
        self.k = k
        self._table = levels_like(like) if are_fractions else torch.arange(256, dtype=like.dtype, device=like.device)

    @classmethod
    def of(cls, x: Tensor, clip_values: Any, like: Tensor) -> Levels | None:
        """Return inputs of dtype uint8 as what they stand for; None for others, and where numbers may leave a range."""
        if x.dtype != torch.uint8:
            return None
        low, high = (0, 255) if clip_values is None else (np.asarray(value) for value in clip_values)
        are_fractions = are_levels(x, clip_values)
        is_wide = bool(np.all(low <= 0) and np.all(high >= 255))  # noqa: PLR2004 - the largest level
        return cls(x.to(like.device), like, are_fractions=are_fractions) if are_fractions or is_wide else None

    @classmethod
    def packed(cls, x: Tensor) -> Levels | None:
        """Return inputs as levels where each of their values is one, bit for bit; None where one is not."""
        levels, parts = levels_like(x), []
        for part in x.split(_NB_AT_ONCE):
            packed = (part * 255).round().clamp(0, 255).to(torch.uint8)
            if not _has_same_bits(levels[packed.long()], part):
                return None
            parts.append(packed)
        return cls(torch.cat(parts), x)

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.k.device

    @property
    def nbytes(self) -> int:
        """How much memory they take."""
        return self.k.nbytes

    def __len__(self) -> int:
        return len(self.k)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Return what some of the samples stand for."""
        return self._table[self.k[index].int()]

    def split(self, size: int) -> Iterator[Tensor]:
        """Give so many samples at a time, as what they stand for."""
        return (self._table[part.int()] for part in self.k.split(size))

    def pieces(self) -> Iterator[Any]:
        """Give the bytes that the digest of an array of what they stand for is made of."""
        yield f"{str(self._table.dtype).removeprefix('torch.')}{tuple(self.k.shape)}".encode()
        for part in self.split(_NB_AT_ONCE):
            yield part.cpu().contiguous().numpy().data


Inputs = Tensor | Levels
"""Inputs ``[N, ...]`` that are taken in parts."""


def _has_same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of floats are the same; unlike for ``torch.equal``, -0 is not 0."""
    return torch.equal(*(tensor.contiguous().view(torch.uint8) for tensor in (first, second)))
