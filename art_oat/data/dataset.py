"""The parts of a data set, drawn by class from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from art_oat.checks import Array
from art_oat.levels import marked
from art_oat.storage import digest

_VALIDATION_SHARE = 0.1
_TEST_SHARE = 0.2

Parts = Mapping[str, tuple[Array, Array]]  # by part: images (N, C, H, W), uint8 or in [0, 1], and class indices (N,)


class Split(NamedTuple):
    """Images ``(N, C, H, W)``, float32 in ``[0, 1]``, or the uint8 ``k`` of ``k / 255``, and class indices ``(N,)``."""

    x: Array
    y: NDArray[np.int64]

    def digest(self) -> str:
        """Return the SHA-256 of all of it, which is the same for the same images in either form."""
        return digest(marked(self.x, (0, 1)), self.y)


class Dataset(NamedTuple):
    """The parts of a data set; no image is in two of them."""

    train: Split
    validation: Split
    test: Split

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape ``(C, H, W)`` of an image."""
        return self.train.x.shape[1:]

    @property
    def nb_classes(self) -> int:
        """``K``: one more than the largest class index in any part."""
        return 1 + max(int(part.y.max()) for part in self)


def draw(y: Array, nb_drawn: int, seed: int) -> NDArray[np.int64]:
    """Draw samples of each class in its share of the whole, rounded up or down; return increasing indices."""
    order = np.random.default_rng(seed).permutation(len(y))
    by_class = order[np.argsort(y[order], kind="stable")]
    # evenly spaced positions meet a run of c among N samples floor or ceil of c * nb_drawn / N times
    return np.sort(by_class[np.arange(nb_drawn) * len(y) // nb_drawn]) if nb_drawn else order[:0]


def complete(parts: Parts, seed: int) -> Parts:
    """Split off the train part what is missing: a fifth for the test part, then a tenth for the validation part."""
    (x, y), completed = parts["train"], dict(parts)
    for name, share in (("test", _TEST_SHARE), ("validation", _VALIDATION_SHARE)):
        if name not in parts:
            taken = draw(y, max(1, round(share * len(y))), seed)
            completed[name] = x[taken], y[taken]
            x, y = np.delete(x, taken, axis=0), np.delete(y, taken)
    return {**completed, "train": (x, y)}


def size_faults(parts: Parts, nb_train: int | None, nb_test: int | None, seed: int) -> list[str]:
    """Say which numbers of images cannot be kept; every class must have one to train on."""
    (_, y), (_, y_test) = parts["train"], parts["test"]
    faults = []
    nb_classes = len(np.unique(y))
    if nb_train is not None and not nb_classes <= nb_train <= len(y):
        faults.append(f"nb_train must lie in [{nb_classes}, {len(y)}], classes and training images, got {nb_train}.")
    elif nb_train is not None and len(np.unique(y[draw(y, nb_train, seed)])) < nb_classes:
        faults.append(f"nb_train must be large enough for every class to keep an image, got {nb_train}.")
    if nb_test is not None and nb_test > len(y_test):
        faults.append(f"nb_test must be at most {len(y_test)}, the number of test images, got {nb_test}.")
    return faults


def reduce(parts: Parts, nb_train: int | None, nb_test: int | None, seed: int) -> Parts:
    """Keep as many images as are asked for, None for all; the validation part shrinks as the train part does."""
    nb_all, nb_all_validation = (len(parts[part][1]) for part in ("train", "validation"))
    nb_validation = None if nb_train is None else max(1, round(nb_train / nb_all * nb_all_validation))
    wanted = {"train": nb_train, "validation": nb_validation, "test": nb_test}
    reduced = dict(parts)
    for part, (x, y) in parts.items():
        if (nb_kept := wanted[part]) is not None:
            kept = draw(y, nb_kept, seed)
            reduced[part] = x[kept], y[kept]
    return reduced


def as_dataset(parts: Parts, *, keeps_levels: bool = False) -> Dataset:
    """Bring all parts to float32 in ``[0, 1]``, or leave those that are uint8 so, and to int64."""
    splits = {}
    for part, (x, y) in parts.items():
        is_kept = keeps_levels and x.dtype == np.uint8
        images = np.ascontiguousarray(x) if is_kept else x.astype(np.float32, order="C", copy=False)
        if x.dtype == np.uint8 and not is_kept:
            images /= 255
        splits[part] = Split(images, y.astype(np.int64, copy=False))
    return Dataset(**splits)
