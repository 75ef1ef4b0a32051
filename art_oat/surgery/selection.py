"""Owns how users name norms of a network: by dotted path, or by a predicate."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from torch import nn

Selector = Iterable[str] | Callable[[str, nn.Module], bool]
"""Dotted paths, of norms or of what holds them; or a predicate on the path of a norm and the norm itself."""


def select(selector: Selector, norms: Mapping[str, nn.Module], name: str) -> dict[str, nn.Module]:
    """Return the norms that a selector means, by dotted path and in their order.

    Args:
        selector: Dotted paths or a predicate.
        norms: All norms to choose from, by dotted path.
        name: What the selector is called in messages.

    Raises:
        TypeError: If ``selector`` is neither paths nor a predicate.
        ValueError: If a path is neither that of a norm nor of what holds one; names all of those, and what is near.
    """
    if callable(selector):
        return {path: norm for path, norm in norms.items() if selector(path, norm)}
    if isinstance(selector, str) or not isinstance(selector, Iterable):
        raise TypeError(f"{name} must hold dotted paths, or be a predicate on path and norm, got {selector!r}.")
    wanted = list(selector)
    if unknown := [path for path in wanted if not any(_is_within(norm, path) for norm in norms)]:
        known = sorted({*norms, *(holder for norm in norms for holder in holders(norm))} - {""})
        near = [f"{path!r} (near: {difflib.get_close_matches(str(path), known, 3, 0.3)})" for path in unknown]
        raise ValueError(f"{name} must hold dotted paths of norms or of what holds them, got {', '.join(near)}.")
    return {norm: module for norm, module in norms.items() if any(_is_within(norm, path) for path in wanted)}


def _is_within(norm: str, path: str) -> bool:
    return norm == path or norm.startswith(f"{path}.")


def holders(path: str) -> list[str]:
    """Return the paths of all that a module lies in, the root (``""``) first, itself not."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts))] if path else []
