"""The one bootstrap of all studies, and differences that are paired by image."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import Row

NB_RESAMPLES = 2000


def bootstrap(
    figure: Callable[[NDArray[np.int64]], float], nb_images: int, nb_resamples: int = NB_RESAMPLES
) -> tuple[float, float]:
    """Return the 95% percentile interval of a figure over images that are drawn anew with replacement.

    Args:
        figure: Takes how many times each image counts, ``[N]``.
        nb_images: ``N``.
        nb_resamples: How many times they are drawn.
    """
    generator = np.random.default_rng(0)
    draws = (generator.integers(nb_images, size=nb_images) for _ in range(nb_resamples))
    low, high = np.percentile([figure(np.bincount(draw, minlength=nb_images)) for draw in draws], (2.5, 97.5))
    return float(low), float(high)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% bootstrap interval of a mean over images, ``[N]``."""
    return bootstrap(lambda counts: float(counts @ values) / len(values), len(values))


def paired(values: NDArray[np.float64], reference: NDArray[np.float64], against: str) -> Row:
    """Report accuracies, and their differences to a reference, paired by image and averaged over lams.

    Args:
        values: Clean and robust, ``[2, N, lams]``.
        reference: Likewise.
        against: What to call it.
    """
    row: Row = {}
    for name, own, other in zip(("clean", "robust"), values, reference, strict=True):
        difference = own.mean(axis=1) - other.mean(axis=1)
        low, high = interval(difference)
        row |= {name: f"{own.mean():.4f}", f"{name} minus {against}": f"{difference.mean():+.4f}"}
        row |= {f"{name} 95% interval": f"{low:+.4f} to {high:+.4f}"}
    return row
