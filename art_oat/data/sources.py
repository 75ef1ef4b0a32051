"""The data sets of others: the files that they come in, how to get these, and how they are read."""

from __future__ import annotations

import codecs
import hashlib
import pickle
import re
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from art_oat.checks import Array, one_line
from art_oat.data.dataset import Parts

_GRAY_AXES = 3


@dataclass(frozen=True)
class _Source:
    """A data set on disk: its files, who offers them, and the SHA-256 of what ART downloads, if ART does."""

    files: tuple[str, ...]
    origin: str
    sha256: str = ""

    def missing(self, folder: Path) -> list[str]:
        return [file for file in self.files if not (folder / file).is_file()]


# The checksums are those that Keras verifies for CIFAR-10 and MNIST, and that several loaders pin for STL-10.
SOURCES = {
    "cifar10": _Source(
        files=tuple(
            f"cifar-10-batches-py/{name}" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        ),
        origin="Unpack cifar-10-python.tar.gz there, from the page 'The CIFAR-10 dataset' (A. Krizhevsky, Toronto)",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "mnist": _Source(
        files=("mnist.npz",),
        origin="Put mnist.npz there, the file that Keras offers for keras.datasets.mnist",
        sha256="731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    ),
    "stl10": _Source(
        files=tuple(f"stl10_binary/{part}_{kind}.bin" for part in ("train", "test") for kind in ("X", "y")),
        origin="Unpack stl10_binary.tar.gz there, from the page 'STL-10 dataset' (A. Coates, Stanford)",
        sha256="f31fd99273a1acb8609c8db427cebb1de3f71de77758cdc0e22956e1289b9866",
    ),
    "svhn": _Source(
        files=("train_32x32.mat", "test_32x32.mat"),
        origin="Put both there, 'Format 2: Cropped Digits' of the page 'The Street View House Numbers (SVHN) Dataset' "
        "(Stanford)",
    ),
}


def read_source(name: str, folder: Path | None = None, *, download: bool = False) -> Parts:
    """Return the train and test part of one of :data:`SOURCES`, see :func:`art_oat.data.load`.

    Raises:
        FileNotFoundError: If files are missing; says which, and how to get them.
        OSError: If a download fails or brings something else.
        ValueError: If the files hold something else.
    """
    folder = _art_folder() if folder is None else folder
    source = SOURCES[name]
    if source.missing(folder) and not (download and source.sha256):
        raise FileNotFoundError(_how_to_get(name, folder))
    try:
        return _read_svhn(folder) if name == "svhn" else _read_through_art(name, folder)
    except OSError:
        raise
    except Exception as error:  # whatever pickle, zipfile, NumPy and SciPy raise
        raise ValueError(f"{name} in {folder} must be as published, but {error!r}. {source.origin}.") from error


def _how_to_get(name: str, folder: Path) -> str:
    source = SOURCES[name]
    missing = f"{name} must lie in {folder}, but {', '.join(source.missing(folder))} is missing."
    download = ", or let download=True (--download) get it" if source.sha256 else ""
    return f"{missing} {source.origin}; or name the folder that holds it{download}."


def _art_folder() -> Path:
    from art import config

    return Path(config.ART_DATA_PATH)


def _read_through_art(name: str, folder: Path) -> Parts:
    from art import utils

    loaders = {
        "cifar10": partial(utils.load_cifar10, raw=True),  # raw is uint8; float64 would take 1.2 GB
        "mnist": partial(utils.load_mnist, raw=True),
        "stl10": utils.load_stl,
    }
    with _files_for_art(name, folder):
        train, test, *_ = loaders[name]()
    return {"train": _from_art(*train), "test": _from_art(*test)}


def _from_art(x: Array, y: Array | list[int]) -> tuple[Array, Array]:
    """Bring images ``(N, H, W[, C])`` and labels, indices or one-hot, into the form that all parts have here."""
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    x = x[:, np.newaxis] if x.ndim == _GRAY_AXES else np.moveaxis(x, -1, 1)
    labels = np.asarray(y)
    return x, labels.argmax(axis=1) if labels.ndim > 1 else labels


@contextmanager
def _files_for_art(name: str, folder: Path) -> Iterator[None]:
    """Have ART's loaders take a data set from a folder; files that are missing there are fetched and checked.

    By itself ART looks into a folder of its own alone, downloads without asking, turns TLS verification off for the
    whole process, and unpacks what it got unseen.
    """
    from art import utils

    def find(filename: str, url: str, **_: Any) -> str:
        if SOURCES[name].missing(folder):
            _fetch(name, url, folder)
        for file in SOURCES[name].files if name == "cifar10" else ():
            _refuse_code(folder / file)
        return str(folder / filename)

    original, utils.get_file = utils.get_file, find
    try:
        yield
    finally:
        utils.get_file = original


class _Array:
    """Stands for an array in a pickle that is looked at, and takes only what is one of numbers."""

    def __init__(self, *parts: Any) -> None:
        if not all(isinstance(part, _Numbers | tuple | bytes | bytearray | str) or part is _ARRAY for part in parts):
            raise pickle.UnpicklingError("it holds an array of something else than numbers")

    def __setstate__(self, state: Any) -> None:
        _, _, dtype, _, content = state
        if not (isinstance(dtype, _Numbers) and isinstance(content, bytes | str)):
            raise pickle.UnpicklingError("it holds an array of something else than numbers")


class _Numbers:
    """Stands for the dtype of an array; others, or the same with flags that let bytes pass for objects, are refused."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        if not _OF_NUMBERS.fullmatch(code.decode("ascii") if isinstance(code, bytes) else code):
            raise pickle.UnpicklingError(f"it holds an array of dtype {code!r}")

    def __setstate__(self, state: Any) -> None:
        if tuple(state[2:]) != (None, None, None, -1, -1, 0):
            raise pickle.UnpicklingError("it holds an array of a dtype that has been tampered with")


class _ArrayUnpickler(pickle.Unpickler):
    """Makes what Python itself is written in, and stand-ins for arrays of numbers; runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class or function of a pickle."""
        found = _STANDS_FOR.get((module.replace("numpy.core", "numpy._core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it would run {module}.{name}, which no data set needs")
        return found


_OF_NUMBERS = re.compile(r"[|<>=]?[biuf][0-9]{1,2}")
_ARRAY = object()
_STANDS_FOR: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY,  # which is not to be called
    ("numpy", "dtype"): _Numbers,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.numeric", "_frombuffer"): _Array,
    ("_codecs", "encode"): codecs.encode,
}


def _refuse_code(path: Path) -> None:
    """Look at a pickle that ART will read; nothing in it is run, and no array is made.

    Raises:
        ValueError: If it holds anything but arrays of numbers, or is no pickle.
    """
    try:
        with path.open("rb") as file:
            _ArrayUnpickler(file, encoding="bytes").load()
    except OSError:
        raise
    except Exception as error:  # whatever a damaged pickle raises
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from error


def _fetch(name: str, url: str, folder: Path) -> None:
    """Download an archive, or the only file itself, and put the files in place when the checksum is right."""
    files = SOURCES[name].files
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as scratch:
        download = Path(scratch) / "download"
        try:
            urllib.request.urlretrieve(url, download)  # noqa: S310, the address is ART's
        except OSError as error:
            raise OSError(f"{name} could not be downloaded: {error}. {_how_to_get(name, folder)}") from error
        with download.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != SOURCES[name].sha256:
            wanted = SOURCES[name].sha256
            raise OSError(f"the download of {name} must have SHA-256 {wanted}, got {found}. It was not kept.")
        if tarfile.is_tarfile(download):
            with tarfile.open(download) as archive:
                archive.extractall(scratch, [archive.getmember(file) for file in files], filter="data")
        else:
            download.replace(Path(scratch) / files[0])
        for file in files:
            (folder / file).parent.mkdir(exist_ok=True)
            (Path(scratch) / file).replace(folder / file)


def _read_svhn(folder: Path) -> Parts:
    from scipy.io import loadmat, matlab

    try:
        files = {part: loadmat(folder / f"{part}_32x32.mat") for part in ("train", "test")}
    except matlab.MatReadError as error:
        raise ValueError(str(error)) from error
    # X is (H, W, C, N); the digit 0 has the label 10
    return {part: (np.transpose(file["X"], (3, 2, 0, 1)), file["y"].ravel() % 10) for part, file in files.items()}
