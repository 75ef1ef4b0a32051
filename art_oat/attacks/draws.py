"""What attacks draw, sample by sample, also where a process attacks a part of the samples only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Which samples of a batch are attacked here.

    Args:
        index: Their numbers, ``[A]``.
        nb_samples: How many the batch has.
    """

    index: Tensor
    nb_samples: int


_ROWS: ContextVar[Rows | None] = ContextVar("_ROWS", default=None)


@contextmanager
def drawing_for(rows: Rows | None) -> Iterator[None]:
    """Within the block, let :func:`draw` draw for a whole batch, and give the rows that are attacked here."""
    token = _ROWS.set(rows)
    try:
        yield
    finally:
        _ROWS.reset(token)


def draw(like: Tensor, generator: torch.Generator | None, *, is_normal: bool = False) -> Tensor:
    """Draw a tensor like one that has a row per sample, uniformly in ``[0, 1)`` or normally.

    It is drawn where the generator lives, so that one seed means the same on every device.
    """
    rows = _ROWS.get()
    shape = like.shape if rows is None else (rows.nb_samples, *like.shape[1:])
    device = like.device if generator is None else generator.device
    drawn = (torch.randn if is_normal else torch.rand)(shape, dtype=like.dtype, device=device, generator=generator)
    return (drawn if rows is None else drawn[rows.index.to(device)]).to(like.device)
