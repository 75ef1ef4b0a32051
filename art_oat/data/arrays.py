"""A user's own data set, from an archive of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zipfile import is_zipfile

import numpy as np

from art_oat.checks import Array, class_indices, label_faults, one_line, refuse
from art_oat.data.dataset import Dataset, Parts
from art_oat.levels import level_faults

_IMAGE_AXES, _ONE_HOT_AXES = 4, 2


def read_arrays(path: Path) -> Parts:
    """Return the parts that an archive of ``numpy.savez`` holds, see :func:`art_oat.data.load`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such archive, or holds something else than a data set; all faults at once.
    """
    arrays, faults = _load_arrays(path)
    for name in ("x", "y"):
        if name in arrays and f"{name}_train" not in arrays:
            arrays[f"{name}_train"] = arrays.pop(name)
    images = {name: x for name, x in arrays.items() if name in _names("x")}
    faults += _name_faults(arrays) + _image_faults(images) + _target_faults(arrays)
    refuse([f"{path} must hold a data set.", *faults] if faults else [])
    nb_classes = _nb_classes(arrays["y_train"])
    return {
        part: (_channels_first(arrays[f"x_{part}"]), class_indices(arrays[f"y_{part}"], nb_classes))
        for part in Dataset._fields
        if f"x_{part}" in arrays
    }


def _load_arrays(path: Path) -> tuple[dict[str, Array], list[str]]:
    """Return the arrays of an archive by name, and what is wrong with those that cannot be read."""
    if not path.is_file():
        raise FileNotFoundError(f"name_or_path must be a file where it ends in .npz, but there is no {path}.")
    with path.open("rb") as file:
        if not is_zipfile(file):
            raise ValueError(f"{path} must be an archive of arrays, as numpy.savez writes it.")
    arrays, faults = {}, []
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                try:
                    arrays[name] = np.asarray(archive[name])
                except Exception as error:  # noqa: BLE001 - whatever zipfile, zlib and NumPy raise
                    faults.append(f"{name} must be an array of numbers, but: {one_line(error)}.")
    except Exception as error:
        raise ValueError(f"{path} must be an archive of arrays, but cannot be read: {one_line(error)}") from error
    return arrays, faults


def _names(letter: str) -> list[str]:
    return [f"{letter}_{part}" for part in Dataset._fields]


def _name_faults(arrays: Mapping[str, Array]) -> list[str]:
    known = [*_names("x"), *_names("y")]
    faults = [f"{name} must be one of {', '.join(known)}." for name in arrays if name not in known]
    for part in Dataset._fields:
        absent = [name for name in (f"x_{part}", f"y_{part}") if name not in arrays]
        if len(absent) == 1 or (absent and part == "train"):
            faults.append(f"{' and '.join(absent)} must be there, got {', '.join(arrays) or 'no array'}.")
    return faults


def _image_faults(images: Mapping[str, Array]) -> list[str]:
    faults = [fault for name, x in images.items() for fault in _array_faults(name, x)]
    shapes = {} if faults else {name: _channels_first(x).shape[1:] for name, x in images.items()}
    if len(set(shapes.values())) > 1:
        faults.append(f"all images must have one shape (C, H, W), got {shapes}.")
    return faults


def _array_faults(name: str, x: Array) -> list[str]:
    faults = []
    if _channel_axis(x) is None or not x.size:
        layouts = "(N, C, H, W) or (N, H, W, C) with fewer channels than rows and columns"
        faults.append(f"{name} must hold images {layouts}, got shape {x.shape}.")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        faults.append(f"{name} must be uint8, or floating-point in [0, 1], got dtype {x.dtype}.")
    elif x.size and x.dtype.kind == "f" and not (x.min() >= 0 and x.max() <= 1):  # NaN compares as false
        faults.append(f"{name} must lie in [0, 1] where it is floating-point, got [{x.min()}, {x.max()}].")
    return faults + (level_faults(x, (0, 1), name) if x.size else [])


def _channel_axis(x: Array) -> int | None:
    """Return the axis of the channels, 1 or 3: the one that is smaller than the other two; None where there is none."""
    shape = x.shape[1:] if x.ndim == _IMAGE_AXES else (0, 0, 0)
    return next((axis for axis in (1, 3) if shape[axis - 1] < min(np.delete(shape, axis - 1))), None)


def _channels_first(x: Array) -> Array:
    return x if _channel_axis(x) == 1 else np.moveaxis(x, -1, 1)


def _target_faults(arrays: Mapping[str, Array]) -> list[str]:
    """Say what is wrong with labels, and whether there are images enough for the parts to split off."""
    if not {"x_train", "y_train"} <= arrays.keys():
        return []
    faults = []
    nb_classes = _nb_classes(arrays["y_train"])
    for name_x, name_y in zip(_names("x"), _names("y"), strict=True):
        if name_x in arrays and name_y in arrays and arrays[name_x].ndim:
            faults += label_faults(arrays[name_y], len(arrays[name_x]), nb_classes, name_y)
    if not faults and (absent := set(range(nb_classes)) - set(class_indices(arrays["y_train"], nb_classes).tolist())):
        faults.append(f"y_train must hold every class from 0 to {nb_classes - 1}, but has no {sorted(absent)[:3]}.")
    nb_least = 1 + ("x_validation" not in arrays) + ("x_test" not in arrays)
    if arrays["y_train"].ndim and len(arrays["y_train"]) < nb_least:
        faults.append(f"y_train must hold at least {nb_least} labels, one per part, got {len(arrays['y_train'])}.")
    return faults


def _nb_classes(y: Array) -> int:
    """Return ``K`` of one-hot labels or class indices; 1 where they are neither."""
    if y.ndim == _ONE_HOT_AXES and y.shape[1] > 1:
        return int(y.shape[1])
    indices = y[np.isfinite(y)] if y.dtype.kind in "fiub" else y[:0].astype(np.int64)
    return max(1, 1 + int(indices.max())) if indices.size else 1
