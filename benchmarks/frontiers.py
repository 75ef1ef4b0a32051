"""What a comparison of two frontiers says: hypervolumes, gaps and differences, with intervals over images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from art_oat import Frontier
from art_oat.frontier import MeasuredPoint
from benchmarks.statistics import bootstrap

CORNER = (1 / 10, 0.0)
"""What hypervolumes are measured from, where there are ten classes."""

SMALLEST_RANGE = 0.03
"""Below that, a ratio of ranges would be one of noise."""
Shares = NDArray[np.float64]
Figure = Callable[[Shares, Shares], float]


@dataclass(frozen=True)
class Arm:
    """A method on all seeds.

    Attributes:
        name: Of the method.
        lambdas: Where it was judged.
        right: Which images are answered right: clean, then under every judge, per lam, seed and image,
            ``[1 + judges, lams, seeds, images]``; NaN where one was not asked.
        seconds: Of training, a mean over the seeds; of all folds together.
        clock: What they are seconds of, "processor" or "wall".
        nb_bytes: Of weights.
        commits: Of the code that trained it.
    """

    name: str
    lambdas: tuple[float, ...]
    right: Shares
    seconds: float
    clock: str
    nb_bytes: int
    commits: str


def accuracies(arm: Arm) -> tuple[Shares, Shares]:
    """Return means over seeds and images ``[1 + judges, lams]``, and their standard errors over images.

    An image that several seeds answer is one image: its mean over the seeds is one observation.
    """
    asked = np.isfinite(arm.right).sum(axis=2)
    per_image = np.where(asked, np.nansum(arm.right, axis=2) / np.maximum(asked, 1), np.nan)
    errors = np.nanstd(per_image, axis=2) / np.sqrt(np.isfinite(per_image).sum(axis=2))
    return np.nansum(arm.right, axis=(2, 3)) / asked.sum(axis=2), errors


def frontier(shares: NDArray[np.float64], lambdas: Sequence[float]) -> Frontier:
    """Return points from accuracies ``[1 + judges, lams]``: clean, and by the last judge."""
    points = zip(lambdas, shares[0], shares[-1], strict=True)
    return Frontier(tuple(MeasuredPoint(lam, 1.0, float(c), float(r), 1, 1) for lam, c, r in points))


def area(shares: Shares, lambdas: Sequence[float]) -> float:
    """Return the hypervolume of accuracies ``[1 + judges, lams]``: clean, and by the last judge."""
    return frontier(shares, lambdas).area(CORNER)


def robust_at(points: Frontier, clean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the robust accuracy at clean accuracies, on straight lines between the points that no other beats.

    Left of the first, where clean accuracy is lower than any, it is the largest; right of the last there is none.
    """
    best: list[MeasuredPoint] = []
    for point in sorted(points.points, key=lambda point: (-point.clean, -point.robust)):
        if not best or point.robust > best[-1].robust:
            best.append(point)
    best.reverse()
    values = np.interp(clean, [point.clean for point in best], [point.robust for point in best])
    return np.where(clean <= best[-1].clean, values, np.nan)


def largest_gap(ours: Frontier, theirs: Frontier) -> float:
    """Return by how much the other frontier is ahead at most, in robust accuracy at equal clean accuracy.

    Over all clean accuracies that both reach; negative where it is behind everywhere.
    """
    lowest = min(point.clean for it in (ours, theirs) for point in it.points)
    highest = min(max(point.clean for point in it.points) for it in (ours, theirs))
    clean = np.unique([*np.linspace(lowest, highest, 1001), *(p.clean for it in (ours, theirs) for p in it.points)])
    clean = clean[clean <= highest]
    return float(np.max(robust_at(theirs, clean) - robust_at(ours, clean)))


def joined(arms: Sequence[Arm]) -> Arm:
    """Take the dedicated networks together: one point each, the sum of their times and sizes."""
    right = np.concatenate([arm.right for arm in arms], axis=1)
    lambdas = tuple(float(arm.name.removeprefix("lam-")) for arm in arms)
    seconds, nb_bytes = sum(arm.seconds for arm in arms), sum(arm.nb_bytes for arm in arms)
    return Arm("dedicated", lambdas, right, seconds, arms[0].clock, nb_bytes, arms[0].commits)


def at(arm: Arm, lambdas: Sequence[float]) -> Arm:
    """Return a method at some of the lams where it was judged."""
    places = [arm.lambdas.index(lam) for lam in lambdas]
    return replace(arm, lambdas=tuple(lambdas), right=arm.right[:, places])


def ratio(ours: float, theirs: float) -> float:
    """Return how many times as large ours is; NaN where theirs is nothing."""
    return ours / theirs if theirs else math.nan


def reach(shares: Shares) -> float:
    """Return how far clean accuracy goes from the first lam to the last."""
    return float(shares[0, 0] - shares[0, -1])


def resampled(ours: Arm, theirs: Arm, figure: Figure) -> dict[str, str]:
    """Return a figure made of mean accuracies ``[1 + judges, lams]``, with a 95% bootstrap interval over images."""
    sums = [(np.nansum(arm.right, axis=2), np.isfinite(arm.right).sum(axis=2)) for arm in (ours, theirs)]

    def at_counts(counts: NDArray[np.int64]) -> float:
        return figure(*((total * counts).sum(axis=-1) / (asked * counts).sum(axis=-1) for total, asked in sums))

    nb_images = ours.right.shape[-1]
    low, high = bootstrap(at_counts, nb_images)
    return {"value": f"{at_counts(np.ones(nb_images, int)):.4f}", "low": f"{low:.4f}", "high": f"{high:.4f}"}


def summary(ours: Arm, theirs: Arm, nb_classes: int) -> list[dict[str, str]]:
    """Compare two frontiers at the lams where theirs was judged; and ours with all of its lams, where it has more."""
    whole, ours = ours, at(ours, theirs.lambdas)
    has_range = reach(accuracies(theirs)[0]) >= SMALLEST_RANGE
    figures = _figures(ours.lambdas, (1 / nb_classes, 0.0))
    if has_range:
        figures["clean range ratio"] = lambda a, b: ratio(reach(a), reach(b))
    found = [{"figure": name, **resampled(ours, theirs, figure)} for name, figure in figures.items()]
    if whole.lambdas != ours.lambdas:
        corner = (1 / nb_classes, 0.0)
        far: dict[str, Figure] = {
            "hypervolume ratio, with lams beyond 1": lambda a, b: ratio(
                frontier(a, whole.lambdas).area(corner), frontier(b, ours.lambdas).area(corner)
            )
        }
        if has_range:
            far["clean range ratio, with lams beyond 1"] = lambda a, b: ratio(reach(a), reach(b))
        found += [{"figure": name, **resampled(whole, theirs, figure)} for name, figure in far.items()]
    times = {"figure": "ratio of training times", "value": f"{ours.seconds / theirs.seconds:.4f}"}
    return [*found, times, {"figure": "ratio of weights", "value": f"{ours.nb_bytes / theirs.nb_bytes:.4f}"}]


def _figures(lambdas: Sequence[float], corner: tuple[float, float]) -> dict[str, Figure]:
    """Return what is said of two methods at the same lams."""

    def area(shares: Shares) -> float:
        return frontier(shares, lambdas).area(corner)

    figures: dict[str, Figure] = {
        "hypervolume, one network": lambda a, _: area(a),
        "hypervolume, dedicated networks": lambda _, b: area(b),
        "hypervolume ratio": lambda a, b: ratio(area(a), area(b)),
        "largest gap at equal clean accuracy": lambda a, b: largest_gap(frontier(a, lambdas), frontier(b, lambdas)),
        "clean difference, mean over lams": lambda a, b: float((a[0] - b[0]).mean()),
        "robust difference, mean over lams": lambda a, b: float((a[-1] - b[-1]).mean()),
    }
    for (place, lam), (row, what) in product(enumerate(lambdas), ((0, "clean"), (-1, "robust"))):
        figures[f"{what} difference at lam {lam:g}"] = lambda a, b, row=row, place=place: float(
            a[row, place] - b[row, place]
        )
    return figures
