"""Rules for arguments and data, each once; and warnings told at the caller's line."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from art_oat.numbers import KindFault, plain, seed_faults, shown

Array = NDArray[Any]

_MAX_SAID = 300
_ROUNDING = 1e-6
"""Share of a range by which float32 may carry values out of it; its own step is a sixteenth of that."""


def as_array(data: Any, name: str = "x") -> Array:
    """Return data as an array that torch can read, of numbers if it is one of numbers.

    Tensors leave their graph and device, and floats that NumPy has not, such as bfloat16, become float32; those that
    torch has not, float64. Flips and locks are copied.

    Raises:
        TypeError: If it is no array: rows of different lengths, a tensor without data, a sparse one.
        ValueError: If some of it is masked.
    """
    if np.ma.is_masked(data):
        nb_masked = int(np.ma.getmaskarray(data).sum())
        raise ValueError(f"{name} must hold no masked values, got {nb_masked} of {data.size}. Fill or drop them first.")
    try:
        array = np.asarray(_on_cpu(data) if isinstance(data, Tensor) else data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array, got {type(data).__name__} that is none: {one_line(error)}") from None
    if array.dtype == np.longdouble:
        return array.astype(np.float64)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    is_unfit = not array.flags.writeable or any(stride < 0 for stride in array.strides)
    return array.copy() if is_unfit else array


def _on_cpu(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    has_numpy = tensor.dtype in (torch.float16, torch.float32, torch.float64)
    return tensor.float() if tensor.is_floating_point() and not has_numpy else tensor


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


def path_faults(paths: Mapping[str, Any]) -> list[str]:
    """Say which values, by name, are no paths that the system can look for: neither text nor ``Path``, or too long."""
    faults: list[str] = []
    for name, path in paths.items():
        if not isinstance(path, str | os.PathLike):
            faults.append(KindFault(f"{name} must be a path, got {shown(path)}."))
            continue
        try:
            Path(path).stat()
        except ValueError as error:  # a zero in it
            faults.append(f"{name} must be a path, got {shown(path)}: {one_line(error)}.")
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                faults.append(f"{name} must be a path that is shorter, got {shown(path)}.")
    return faults


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
    if faults := shape_faults(x, input_shape, name):
        return faults
    nb_faulty = int(is_non_finite(x).sum())
    return [f"{name} must be finite, got NaN or infinity in {nb_faulty} of {len(x)} samples."] if nb_faulty else []


def shape_faults(x: Array | Tensor, input_shape: tuple[int, ...], name: str = "x") -> list[str]:
    """Say what is wrong with inputs, apart from NaN and infinity: their kind, their shape (``(N, *input_shape)``)."""
    if not _is_real(x):
        got = f"a tensor of {x.dtype} ({x.layout}, {x.device})" if isinstance(x, Tensor) else f"dtype {x.dtype}"
        return [KindFault(f"{name} must hold real numbers, got {got}.")]
    if x.ndim == 0 or x.shape[1:] != tuple(input_shape):
        return [f"{name} must have shape (N, {', '.join(map(str, input_shape))}), got {tuple(x.shape)}."]
    return []


def _is_real(x: Array | Tensor) -> bool:
    if isinstance(x, Tensor):
        is_plain = x.layout == torch.strided and not (x.is_meta or x.is_quantized)
        return is_plain and not (x.is_complex() or x.dtype == torch.bool)
    return x.dtype.kind in "fiu"


def is_non_finite(x: Array) -> NDArray[np.bool_]:
    """Return which samples hold NaN, infinity, or what is too large for float32, bool ``[N]``."""
    if x.dtype.kind != "f":
        return np.zeros(len(x), dtype=bool)
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(x.astype(np.float32, copy=False))
    result: NDArray[np.bool_] = np.logical_not(is_finite.all(axis=tuple(range(1, x.ndim))))
    return result


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
    has_ends = x.dtype.kind != "f" and low.ndim == high.ndim == 0  # which need no memory, and are never NaN
    least, most = (x.min(), x.max()) if has_ends else (x, x)
    try:
        is_outside = bool(np.any(least < low - tolerance) or np.any(most > high + tolerance))
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
        return [*faults, KindFault(f"{name} must hold whole numbers, got dtype {y.dtype}.")]
    if is_one_hot:
        is_valid = np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
        return faults if is_valid else [*faults, f"{name} must hold exactly one 1 per row where it is one-hot."]
    if not np.all((y >= 0) & (y < nb_classes) & (y == np.floor(y))):
        faults.append(f"{name} must hold class indices in [0, {nb_classes}), got {_some_outside(y, nb_classes)}.")
    return faults


def target_faults(y: Array, nb_samples: int, nb_classes: int, name: str = "y") -> list[str]:
    """Say why no loss compares scores with labels: indices ``(N,)``, or any weights of the classes ``(N, K)``."""
    if y.shape == (nb_samples, nb_classes) and y.dtype.kind in "fiub":
        return []
    if y.ndim == 0:
        return [f"{name} must hold one label per sample, {nb_samples}, got a single value."]
    return label_faults(y, nb_samples, nb_classes, name)


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
