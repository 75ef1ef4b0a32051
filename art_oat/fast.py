"""Owns the switch of everything that is computed in a faster way than the plain one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

FastPath = Literal["affine", "source", "split", "dropout", "terms"]
"""``affine``: scale and shift per channel by the batch-norm kernel. ``source``: FiLM keeps what its norm got in place
of what the norm gave, which the norm keeps anyway. ``split``: the sides of a dual norm are cut by one
operation whose gradient is one copy. ``dropout``: masks from 16 random bits each. ``terms``: the gradient of the clean
term of a loss is taken before the attacked samples are answered, which halves the memory of a step."""

_switched_off: ContextVar[frozenset[str]] = ContextVar("art_oat_switched_off", default=frozenset())


def is_fast(path: FastPath) -> bool:
    """Whether a fast path may be taken here."""
    return path not in _switched_off.get()


@contextmanager
def without_fast_paths(*paths: FastPath) -> Iterator[None]:
    """Compute in the plain way within the block, in this thread: to see whether a fast path is to blame.

    Results are the same up to rounding, except that ``"dropout"`` draws other masks of the same distribution.

    Args:
        *paths: Which to leave: ``"affine"``, ``"source"``, ``"split"``, ``"dropout"``, ``"terms"``; all of
            them where none is named.

    Raises:
        ValueError: If there is no such path.

    Example:
        >>> with without_fast_paths("dropout"):
        ...     is_fast("dropout"), is_fast("affine")
        (False, True)
    """
    known = get_args(FastPath)
    if unknown := [path for path in paths if path not in known]:
        raise ValueError(f"fast paths must be among {known}, got {unknown}.")
    token = _switched_off.set(_switched_off.get() | set(paths or known))
    try:
        yield
    finally:
        _switched_off.reset(token)
