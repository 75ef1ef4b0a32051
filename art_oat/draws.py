"""What is drawn sample by sample, also where a process has a part of the samples of a batch only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Which samples of a batch are here.

    Args:
        index: Their numbers, ``[N]``.
        nb_samples: How many the batch has.
    """

    index: Tensor
    nb_samples: int


_ROWS: ContextVar[Rows | None] = ContextVar("_ROWS", default=None)


@contextmanager
def drawing_for(rows: Rows | None) -> Iterator[None]:
    """Within the block, let what is drawn be drawn for a whole batch, and give the rows that are here."""
    token = _ROWS.set(rows)
    try:
        yield
    finally:
        _ROWS.reset(token)


@contextmanager
def drawing_for_some(group: Tensor) -> Iterator[None]:
    """Within the block, draw for some of the samples that are here as if it were for all of them.

    Args:
        group: Which ones, booleans, ``[N]``.
    """
    rows = _ROWS.get()
    index = torch.arange(len(group), device=group.device) if rows is None else rows.index.to(group.device)
    with drawing_for(Rows(index[group], len(group) if rows is None else rows.nb_samples)):
        yield


def draw_rows(nb_samples: int, function: Callable[[int], Tensor]) -> Tensor:
    """Return what a function draws for so many samples, ``[N, ...]``, or the rows here of what it draws for all."""
    rows = _ROWS.get()
    if rows is None:
        return function(nb_samples)
    drawn = function(rows.nb_samples)
    return drawn[rows.index.to(drawn.device)]


def draw(like: Tensor, generator: torch.Generator | None, *, is_normal: bool = False) -> Tensor:
    """Draw a tensor like one that has a row per sample, uniformly in ``[0, 1)`` or normally.

    It is drawn where the generator lives, so that one seed means the same on every device.
    """
    make = torch.randn if is_normal else torch.rand
    device = like.device if generator is None else generator.device

    def drawn(nb_samples: int) -> Tensor:
        return make((nb_samples, *like.shape[1:]), dtype=like.dtype, device=device, generator=generator)

    return draw_rows(len(like), drawn).to(like.device)
