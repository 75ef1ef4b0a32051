"""One rule for numbers: whatever kind one comes as, it is checked, and used, as Python's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, TypeVar

T = TypeVar("T")

_SEEDS = 2**32
"""NumPy's legacy generator and scikit-learn take seeds below this, and so does everything here."""
_MOST = 2**63
_MAX_SHOWN = 80


class KindFault(str):
    """What is wrong with an argument of another kind; if there is nothing else, it is a ``TypeError``."""

    __slots__ = ()


def plain(value: T) -> T:
    """Return one number as Python's own ``bool``, ``int`` or ``float``, and everything else as it is.

    Numbers are Python's (fractions, too), NumPy's scalars, and arrays and tensors without axes. What has a mask, and a
    span of time, is none. A fraction too large for a float is infinite.
    """
    number: Any = _unwrapped(value)
    if isinstance(number, bool):
        return number  # type: ignore[return-value]
    if isinstance(number, Integral):
        return int(number)  # type: ignore[return-value]
    try:
        return float(number) if isinstance(number, Real) else value  # type: ignore[return-value]
    except OverflowError:
        return math.inf  # type: ignore[return-value]


def _unwrapped(value: Any) -> Any:
    """Return what a scalar, array or tensor without axes holds; None where that is no number."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or getattr(value, "ndim", None) != 0 or hasattr(value, "mask"):
        return value
    try:
        return value.item() if getattr(dtype, "kind", "f") in "biuf" else None
    except (RuntimeError, ValueError):  # a tensor without data
        return None


def plain_fields(instance: Any) -> None:
    """Make every field of a dataclass, also of a frozen one, that is a number Python's own."""
    for field in fields(instance):
        object.__setattr__(instance, field.name, plain(getattr(instance, field.name)))


def is_number(value: object) -> bool:
    """Whether ``value`` is one real number, of whatever kind; truth values are none."""
    value = plain(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite_number(value: object) -> bool:
    """Whether ``value`` is one real number that is neither NaN nor infinite, nor too large for a float."""
    try:
        return is_number(value) and math.isfinite(plain(value))  # type: ignore[arg-type]
    except OverflowError:
        return False


def number_faults(values: Mapping[str, Any], what: str, holds: Callable[[float], bool]) -> list[str]:
    """Say which values, by name, are no finite numbers, or are none that ``what`` calls for.

    Args:
        values: By the name of the argument.
        what: What it must, such as ``"be a number above 0"``.
        holds: Whether a number is as ``what`` says.
    """
    return [
        _fault(f"{name} must {what}, got {shown(value)}.", is_of_kind=is_number(value))
        for name, value in values.items()
        if not (is_finite_number(value) and holds(plain(value)))
    ]


def count_faults(counts: Mapping[str, Any], least: int = 1) -> list[str]:
    """Say which counts, by name, are no whole numbers of at least 1, or another least one, that 64 bits hold."""
    return [
        _fault(f"{name} must be a whole number, at least {least}, got {shown(count)}.", is_of_kind=is_whole(count))
        for name, count in counts.items()
        if not _is_count(count, least)
    ]


def sizes_faults(sizes: Mapping[str, Any]) -> list[str]:
    """Say which sizes, several to each name, are not at least one whole number, each at least 1."""
    return [
        _fault(
            f"{name} must hold whole numbers, each at least 1, got {shown(several)}.", is_of_kind=_are_whole(several)
        )
        for name, several in sizes.items()
        if not (_are_whole(several) and len(several) and all(_is_count(it, 1) for it in several))
    ]


def plain_sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    """Return checked sizes as Python's own numbers."""
    return tuple(plain(size) for size in sizes)


def _is_count(value: Any, least: int) -> bool:
    return is_whole(value) and least <= plain(value) < _MOST


def _are_whole(values: Any) -> bool:
    is_several = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    return (is_several or getattr(values, "ndim", None) == 1) and all(is_whole(it) for it in values)


def is_whole(value: object) -> bool:
    """Whether ``value`` is one whole number by its kind: neither ``True`` nor ``2.0`` is."""
    value = plain(value)
    return isinstance(value, int) and not isinstance(value, bool)


def seed_faults(seed: Any, name: str = "seed") -> list[str]:
    """Say that a seed is no whole number in ``[0, 2**32)``, which every generator takes."""
    if is_whole(seed) and 0 <= plain(seed) < _SEEDS:
        return []
    return [_fault(f"{name} must be a whole number in [0, 2**32), got {shown(seed)}.", is_of_kind=is_whole(seed))]


def flag_faults(flags: Mapping[str, Any]) -> list[str]:
    """Say which values, by name, are neither True nor False (NumPy's count, too)."""
    return [
        KindFault(f"{name} must be True or False, got {shown(flag)}.")
        for name, flag in flags.items()
        if not isinstance(plain(flag), bool)
    ]


def is_name_in(value: object, known: Container[str]) -> bool:
    """Whether a value is one of some names; a list or an array, say, is none, and breaks nothing."""
    return isinstance(value, str) and value in known


def shown(value: object) -> str:
    """Return how a value is written in a message: its ``repr`` in one line of at most 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - such as an int of more digits than Python writes
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."


def _fault(message: str, *, is_of_kind: bool) -> str:
    return message if is_of_kind else KindFault(message)
