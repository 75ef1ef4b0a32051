"""How users name layers of a network: by dotted path, or by a predicate."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from torch import nn

Selector = Iterable[str] | Callable[[str, nn.Module], bool]
"""Dotted paths, of layers or of what holds them; or a predicate on the path of a layer and the layer itself."""


def select(selector: Selector, layers: Mapping[str, nn.Module], name: str, kind: str = "norms") -> dict[str, nn.Module]:
    """Return the layers that a selector means, by dotted path and in their order; messages call it ``name``.

    Raises:
        TypeError: If ``selector`` is neither paths nor a predicate.
        ValueError: If a path is neither that of a layer nor of what holds one; names all of those, and what is near.
    """
    if callable(selector):
        return {path: layer for path, layer in layers.items() if selector(path, layer)}
    if isinstance(selector, str) or not isinstance(selector, Iterable):
        raise TypeError(f"{name} must hold dotted paths, or be a predicate on path and layer, got {selector!r}.")
    wanted = list(selector)
    if unknown := [path for path in wanted if not any(is_within(layer, path) for layer in layers)]:
        known = sorted({*layers, *(holder for layer in layers for holder in holders(layer))} - {""})
        near = [with_near_names(path, known) for path in unknown]
        raise ValueError(f"{name} must hold dotted paths of {kind} or of what holds them, got {', '.join(near)}.")
    return {layer: module for layer, module in layers.items() if any(is_within(layer, path) for path in wanted)}


def with_near_names(path: object, known: Iterable[str]) -> str:
    """Write down a path that is not among those known, and up to three that are like it."""
    return f"{path!r} (near: {difflib.get_close_matches(str(path), known, 3, 0.3)})"


def is_within(layer: str, path: str) -> bool:
    """Whether a path is another one, or lies in it."""
    return layer == path or layer.startswith(f"{path}.")


def holders(path: str) -> list[str]:
    """Return the paths of all that a module lies in, the root (``""``) first, itself not."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts))] if path else []
