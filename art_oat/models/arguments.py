"""Refuses arguments that no network can be built from, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def refuse_faults(counts: Mapping[str, int], probabilities: Mapping[str, float], others: Iterable[str] = ()) -> None:
    """Raise one error that names all faults.

    Args:
        counts: By name; at least 1.
        probabilities: By name; in ``[0, 1)``.
        others: Further faults, as sentences.

    Raises:
        ValueError: If there is one.
    """
    faults = [f"{name} must be at least 1, got {count}." for name, count in counts.items() if count < 1]
    faults += [f"{name} must lie in [0, 1), got {it}." for name, it in probabilities.items() if not 0 <= it < 1]
    if faults := [*faults, *others]:
        raise ValueError(" ".join(faults))
