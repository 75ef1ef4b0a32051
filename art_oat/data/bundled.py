"""Data sets of what scikit-learn brings: its digits, and these on its photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split

from art_oat.checks import checked_seed
from art_oat.data.dataset import Dataset, Split

_SIZE = 16
_TILE = 32
_TILES = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}  # by (row + 2 * column) % 5, like a knight's moves
_COPIES = {"train": 10, "validation": 4, "test": 4}

Floats = NDArray[np.float32]


def digits(seed: int = 0) -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits, 1x8x8, split by class: 1,212 / 135 / 450.

    Args:
        seed: What the split is drawn from.
    """
    bunch = load_digits()
    x = (bunch.images[:, np.newaxis] / 16).astype(np.float32)
    y = bunch.target.astype(np.int64)
    seed = checked_seed(seed)
    x, x_test, y, y_test = train_test_split(x, y, test_size=450, stratify=y, random_state=seed)
    x, x_validation, y, y_validation = train_test_split(x, y, test_size=135, stratify=y, random_state=seed)
    return Dataset(Split(x, y), Split(x_validation, y_validation), Split(x_test, y_test))


def textured_digits(seed: int = 0) -> Dataset:
    """Return scikit-learn's digits on its two photographs, 3x16x16: 12,120 / 540 / 1,800.

    Made as MNIST-M is (Ganin et al. 2016, arXiv:1505.07818): ``|patch - digit|`` in each channel, see :func:`blend`.
    A digit is invisible where the patch is gray, and strong where it is dark or bright. So some digits are robust to an
    attack that others are not. Every training digit is on 10 patches, every other on 4. No digit and no pixel of a
    photograph is in two parts: of tiles of 32x32, three fifths are for training, and one for each other part.

    Args:
        seed: What the split of the digits and the patches are drawn from; the tiles are always the same.
    """
    seed = checked_seed(seed)
    plain, photographs = digits(seed), [_halved(photograph) for photograph in load_sample_images().images]
    parts = {}
    for number, name in enumerate(Dataset._fields):
        part: Split = getattr(plain, name)
        x, y = np.repeat(enlarge(part.x), _COPIES[name], axis=0), np.repeat(part.y, _COPIES[name])
        generator = np.random.default_rng([seed, number])
        patches = _patches(photographs, _tiles(name, photographs[0].shape[1:]), len(x), generator)
        parts[name] = Split(blend(x, patches), y)
    return Dataset(**parts)


def blend(x: Floats, patches: Floats) -> Floats:
    """Return ``|patch - digit|`` for ink ``(N, 1, H, W)`` on patches ``(N, C, H, W)``: ink turns them to negatives."""
    blended: Floats = np.abs(patches - x)
    return blended


def enlarge(x: Floats) -> Floats:
    """Return images ``(N, C, H, W)`` at 16x16, bilinear."""
    factors = (1, 1, _SIZE / x.shape[2], _SIZE / x.shape[3])
    larger: Floats = zoom(x, factors, order=1, mode="nearest", grid_mode=True)
    return larger


def _halved(photograph: NDArray[np.uint8]) -> Floats:
    """Average every two by two pixels, ``(3, 213, 320)`` in ``[0, 1]``."""
    height, width = (length // 2 for length in photograph.shape[:2])
    blocks = photograph[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1)
    halved: Floats = np.moveaxis(blocks.mean(axis=(1, 3)) / 255, -1, 0).astype(np.float32)
    return halved


def _tiles(part: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the first row and column of each tile of a part, ``(T, 2)``; the rest of a photograph is not used."""
    rows, columns = np.indices([length // _TILE for length in shape])
    is_own = np.isin((rows + 2 * columns) % 5, _TILES[part])
    return _TILE * np.stack([rows[is_own], columns[is_own]], axis=1)


def _patches(
    photographs: Sequence[Floats], tiles: NDArray[np.int64], nb_patches: int, generator: np.random.Generator
) -> Floats:
    """Draw patches that lie within tiles of either photograph, ``(N, 3, 16, 16)``."""
    stack = np.stack(photographs)
    windows = np.lib.stride_tricks.sliding_window_view(stack, (_SIZE, _SIZE), axis=(2, 3))
    which = generator.integers(len(stack), size=nb_patches)
    tops, lefts = (generator.choice(tiles, nb_patches) + generator.integers(_TILE - _SIZE + 1, size=(nb_patches, 2))).T
    return np.ascontiguousarray(windows[which, :, tops, lefts])


BUNDLED: Mapping[str, Callable[[int], Dataset]] = {"digits": digits, "textured-digits": textured_digits}
"""What makes a data set of a seed, by name."""
