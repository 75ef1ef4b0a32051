"""Owns the loaders of data sets, as arrays that ART takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Split(NamedTuple):
    """Images ``(N, C, H, W)``, float32 in ``[0, 1]``, and class indices ``(N,)``."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


class Dataset(NamedTuple):
    """The parts of a data set; no image is in two of them."""

    train: Split
    validation: Split
    test: Split


def digits(seed: int = 0) -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits, 1x8x8, split by class: 1,212 / 135 / 450.

    Args:
        seed: What the split is drawn from.
    """
    bunch = load_digits()
    x = (bunch.images[:, np.newaxis] / 16).astype(np.float32)
    y = bunch.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(x, y, test_size=450, stratify=y, random_state=seed)
    x, x_validation, y, y_validation = train_test_split(x, y, test_size=135, stratify=y, random_state=seed)
    return Dataset(Split(x, y), Split(x_validation, y_validation), Split(x_test, y_test))
