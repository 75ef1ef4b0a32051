"""Rules for arguments and data, each once; and warnings told at the caller's line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from art_oat.numbers import KindFault, plain, seed_faults

Array = NDArray[Any]

_MAX_SAID = 300
_ROUNDING = 1e-6
"""Share of a range by which float32 may carry values out of it; its own step is a sixteenth of that."""


def as_array(data: Any) -> Array:
    """Return data as an array that torch can read: tensors leave their graph and device; flips and locks are copied."""
    data = data.detach().cpu() if hasattr(data, "detach") else data
    array = np.asarray(data)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    is_unfit = not array.flags.writeable or any(stride < 0 for stride in array.strides)
    return array.copy() if is_unfit else array


def one_line(error: BaseException) -> str:
    """Return what an error of another library says, in one line of at most 300 characters; its kind if that is all."""
    said = " ".join(str(error).split())
    known = isinstance(error, ValueError | RuntimeError) and said
    said = said if known else f"{type(error).__name__}: {said}" if said else type(error).__name__
    return said if len(said) <= _MAX_SAID else f"{said[:_MAX_SAID]} ..."


def refuse(faults: Sequence[str]) -> None:
    """Raise one error that names all faults; do nothing where there is none.

    Raises:
        TypeError: If ``faults`` holds some, and each is one of kind.
        ValueError: If it holds others.
    """
    if faults:
        is_of_kind = all(isinstance(fault, KindFault) for fault in faults)
        raise (TypeError if is_of_kind else ValueError)(" ".join(faults))


def checked_seed(seed: Any) -> int:
    """Return a seed as Python's own number.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is not in ``[0, 2**32)``.
    """
    refuse(seed_faults(seed))
    return int(plain(seed))


def refusals(*checks: Callable[[], Any]) -> list[str]:
    """Return what checks refuse: the texts of what they raise, of ``TypeError`` as faults of kind."""
    faults = []
    for check in checks:
        try:
            check()
        except (TypeError, ValueError) as error:
            faults.append(KindFault(error) if isinstance(error, TypeError) else str(error))
    return faults


def input_faults(x: Array, input_shape: tuple[int, ...], name: str = "x") -> list[str]:
    """Say what is wrong with inputs: their kind, their shape (``(N, *input_shape)``), NaN or infinity in them."""
    if x.dtype.kind not in "fiu":
        return [f"{name} must hold real numbers, got dtype {x.dtype}."]
    if x.ndim == 0 or x.shape[1:] != tuple(input_shape):
        return [f"{name} must have shape (N, {', '.join(map(str, input_shape))}), got {x.shape}."]
    nb_faulty = int((~np.isfinite(x)).reshape(len(x), -1).any(axis=1).sum()) if x.size else 0
    return [f"{name} must be finite, got NaN or infinity in {nb_faulty} of {len(x)} samples."] if nb_faulty else []


def rounding(clip_values: Array | tuple[Any, Any]) -> Array:
    """Return how far from a range is still in it, as a number or one per feature.

    ``1e-6 max(high - low, |low|, |high|)``: inputs, augmented inputs and attacked inputs are in float32, and so are the
    bounds that ART keeps. Whatever is compared with clip values may leave them by this, and by no more.

    Args:
        clip_values: Smallest and largest value, numbers or arrays that fit one sample.
    """
    low, high = (np.asarray(value, dtype=np.float64) for value in clip_values)
    tolerance: Array = _ROUNDING * np.maximum(high - low, np.maximum(np.abs(low), np.abs(high)))
    return tolerance


def range_faults(x: Array, clip_values: Array | tuple[Any, Any] | None, name: str = "x") -> list[str]:
    """Say whether inputs leave the range that attacks clip to by more than :func:`rounding`.

    Faults of another kind are not looked for.
    """
    if clip_values is None or x.dtype.kind not in "fiu" or not x.size:
        return []
    low, high = (np.asarray(value) for value in clip_values)
    tolerance = rounding(clip_values)
    try:
        is_outside = bool(np.any(x < low - tolerance) or np.any(x > high + tolerance))
    except ValueError:
        return [f"clip_values must be two numbers, or two arrays that fit one sample, got shape {low.shape}."]
    if not is_outside:
        return []
    return [
        f"{name} must lie within clip_values [{np.min(low)}, {np.max(high)}], got [{x.min()}, {x.max()}]. "
        "Scale the inputs, or give the classifier their range."
    ]


def label_faults(y: Array, nb_samples: int, nb_classes: int, name: str = "y", *, takes_soft: bool = False) -> list[str]:
    """Say what is wrong with labels: indices ``(N,)`` in ``[0, K)``, one-hot or, if allowed, soft ones ``(N, K)``."""
    if takes_soft and is_soft(y, nb_classes):
        return label_faults(y.argmax(axis=1), nb_samples, nb_classes, name) + soft_label_faults(y, name)
    is_index = y.ndim == 1 or (y.ndim > 1 and y.shape[1:] == (1,))
    is_one_hot = not is_index and y.shape[1:] == (nb_classes,)
    if not is_index and not is_one_hot:
        return [f"{name} must be indices (N,) or one-hot (N, {nb_classes}), got shape {y.shape}."]
    faults = []
    if len(y) != nb_samples:
        faults.append(f"{name} must hold one label per sample, {nb_samples}, got {len(y)}.")
    if y.dtype.kind not in "fiub":
        return [*faults, f"{name} must hold whole numbers, got dtype {y.dtype}."]
    if is_one_hot:
        is_valid = np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
        return faults if is_valid else [*faults, f"{name} must hold exactly one 1 per row where it is one-hot."]
    if not np.all((y >= 0) & (y < nb_classes) & (y == np.floor(y))):
        faults.append(f"{name} must hold class indices in [0, {nb_classes}), got {_some_outside(y, nb_classes)}.")
    return faults


def is_soft(y: Array, nb_classes: int) -> bool:
    """Whether labels are class probabilities ``(N, K)``, rather than indices or one-hot."""
    is_table = y.shape[1:] == (nb_classes,) and y.dtype.kind == "f"
    return is_table and not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all())


def soft_label_faults(y: Array, name: str = "y") -> list[str]:
    """Say which soft labels ``(N, K)`` are no probabilities: at least 0, of sum 1 up to rounding (1e-3) in each row."""
    is_valid = (y >= 0).all(axis=1) & (np.abs(y.sum(axis=1, dtype=np.float64) - 1) <= 1e-3)  # noqa: PLR2004
    nb_faulty = int((~is_valid).sum())
    if not nb_faulty:
        return []
    return [f"{name} must hold probabilities of sum 1 per row, got {nb_faulty} of {len(y)} rows that are none."]


def _some_outside(y: Array, nb_classes: int) -> str:
    outside = np.unique(y[~((y >= 0) & (y < nb_classes) & (y == np.floor(y)))])
    shown = outside[:3]
    return ", ".join(map(str, shown.tolist())) + (", ..." if len(outside) > len(shown) else "")


def class_indices(y: Array, nb_classes: int) -> NDArray[np.int64]:
    """Return checked labels as indices ``(N,)``, whichever way they were written."""
    is_one_hot = y.shape[1:] == (nb_classes,)
    indices: NDArray[np.int64] = (y.argmax(axis=1) if is_one_hot else y.reshape(-1)).astype(np.int64)
    return indices


_INNER = ("art_oat", "art")
"""Packages that call each other on the way."""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is neither of this library nor of ART."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INNER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
