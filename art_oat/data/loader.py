"""Data sets by name, or from a file of arrays."""

from __future__ import annotations

from pathlib import Path

from art_oat.checks import refuse
from art_oat.data.arrays import read_arrays
from art_oat.data.bundled import BUNDLED
from art_oat.data.dataset import Dataset, Parts, as_dataset, complete, reduce, size_faults
from art_oat.data.sources import SOURCES, read_source
from art_oat.numbers import count_faults, flag_faults, plain, seed_faults

NAMES = tuple(sorted({*SOURCES, *BUNDLED}))
"""Train / validation / test: cifar10 45,000 / 5,000 / 10,000 (3x32x32), mnist 54,000 / 6,000 / 10,000 (1x28x28), svhn
65,931 / 7,326 / 26,032 (3x32x32), stl10 4,500 / 500 / 8,000 (3x96x96; takes 4 GB for a moment, in ART's loader), digits
1,212 / 135 / 450 (1x8x8), textured-digits 12,120 / 540 / 1,800 (3x16x16)."""


def load(
    name_or_path: str | Path,
    *,
    folder: str | Path | None = None,
    seed: int = 0,
    nb_train: int | None = None,
    nb_test: int | None = None,
    download: bool = False,
    keeps_levels: bool = False,
) -> Dataset:
    """Return a data set by name, or from a file of arrays.

    The test images are those that the data set calls so. A tenth of its training images, drawn by class, is the
    validation part. A file ``.npz`` holds ``x_train`` and ``y_train`` (or ``x`` and ``y``), perhaps ``x_validation``,
    ``y_validation``, ``x_test``, ``y_test``; without a test part, a fifth of the images becomes it. Its images are
    ``(N, C, H, W)`` or ``(N, H, W, C)``, uint8, or floating-point in ``[0, 1]``; its labels are class indices or
    one-hot. Python objects in it are refused, never run.

    Args:
        name_or_path: One of :data:`NAMES`, or a path that ends in ``.npz``.
        folder: Where the files of a data set lie; None for ART's. Pickles (CIFAR-10) that would run code are refused.
        seed: What splits and subsets are drawn from, in ``[0, 2**32)``.
        nb_train: Training images to keep, in the classes' shares; the validation part shrinks in proportion.
        nb_test: Test images to keep, in the classes' shares.
        download: Whether missing files of CIFAR-10, MNIST or STL-10 are downloaded, and kept if their SHA-256 is right.
        keeps_levels: Whether images that files hold as uint8 stay so; what is trained and measured is the same.

    Raises:
        FileNotFoundError: If files are missing; says which, and how to get them.
        OSError: If a download fails or brings something else.
        TypeError: If a number is of another kind.
        ValueError: If another argument, or a file, is not as above; all faults at once.
    """
    counts = {name: count for name, count in (("nb_train", nb_train), ("nb_test", nb_test)) if count is not None}
    faults = _request_faults(name_or_path, folder) + count_faults(counts) + seed_faults(seed)
    refuse(faults + flag_faults({"keeps_levels": keeps_levels}))
    seed, nb_train, nb_test = plain(seed), plain(nb_train), plain(nb_test)
    parts = complete(_read(name_or_path, folder, seed=seed, download=download), seed)
    refuse(size_faults(parts, nb_train, nb_test, seed))
    return as_dataset(reduce(parts, nb_train, nb_test, seed), keeps_levels=keeps_levels)


def _request_faults(name_or_path: str | Path, folder: str | Path | None) -> list[str]:
    if Path(name_or_path).suffix != ".npz" and name_or_path not in NAMES:
        return [f"name_or_path must be one of {', '.join(NAMES)}, or end in .npz, got {str(name_or_path)!r}."]
    if folder is not None and name_or_path not in SOURCES:
        return [f"folder must be None for {name_or_path}, which lies in no folder of data sets, got {str(folder)!r}."]
    return []


def _read(name_or_path: str | Path, folder: str | Path | None, *, seed: int, download: bool) -> Parts:
    """Return the parts that a data set comes in."""
    if name_or_path in BUNDLED:
        return BUNDLED[str(name_or_path)](seed)._asdict()
    if name_or_path in SOURCES:
        return read_source(str(name_or_path), None if folder is None else Path(folder).expanduser(), download=download)
    return read_arrays(Path(name_or_path).expanduser())
