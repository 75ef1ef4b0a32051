"""Refuses arguments that no network can be built from, all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from art_oat.checks import refuse
from art_oat.numbers import KindFault, count_faults, number_faults, sizes_faults


def refuse_faults(
    *,
    counts: Mapping[str, Any],
    sizes: Mapping[str, Any] = MappingProxyType({}),
    probabilities: Mapping[str, Any] = MappingProxyType({}),
    others: Callable[[], Iterable[str]] = list,
) -> None:
    """Raise one error that names all faults.

    Args:
        counts: By name; at least 1.
        sizes: By name, several to each; at least one, each at least 1.
        probabilities: By name; in ``[0, 1)``.
        others: Gives further faults; asked where all numbers are of their kind.

    Raises:
        TypeError: If all faults are numbers of another kind.
        ValueError: If there are others.
    """
    faults = count_faults(counts) + sizes_faults(sizes)
    faults += number_faults(probabilities, "lie in [0, 1)", lambda it: 0 <= it < 1)
    is_of_kind = not any(isinstance(fault, KindFault) for fault in faults)
    refuse([*faults, *(others() if is_of_kind else ())])
