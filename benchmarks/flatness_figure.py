"""The picture of ``flatness.py``: landscapes of every arm, a panel per lam, and what they come to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from art_oat.attacks import format_eps
from art_oat.evaluation import Flatness
from art_oat.evaluation.flatness_plots import label_ends
from art_oat.evaluation.plots import saved
from art_oat.evaluation.style import BLUE, TITLE

COLORS = ("0.35", BLUE)
"""Gray for what is compared with, and the blue of Okabe and Ito."""

PANELS = {"average": "On average, xi {0.average:g}", "worst": "At worst, xi {0.worst:g}", "loss": "Robust loss itself"}


def plot(found: Mapping[str, Sequence[Flatness]], lambdas: Sequence[float], path: Path) -> None:
    """Draw a landscape for each lam above, and below the rise on average, the rise at worst, and the loss itself.

    Args:
        found: By arm, of every seed; two arms at most.
        lambdas: Three.
        path: Of the file.
    """
    first = next(iter(found.values()))[0]
    figure = Figure(figsize=(10.8, 6.6), layout="constrained")
    upper, lower = figure.subplots(2, len(lambdas), squeeze=False)
    for axes, lam in zip(upper, lambdas, strict=True):
        _draw_landscapes(axes, found, lam)
    for axes, (name, title) in zip(lower, PANELS.items(), strict=True):
        _draw_figures(axes, found, lambdas, name)
        axes.set_title(title.format(first.displacements), fontsize=TITLE)
    upper[0].set_ylabel("rise of the robust loss (nats)")
    lower[0].set_ylabel("nats; the lower, the flatter")
    nb_seeds = len(next(iter(found.values())))
    figure.suptitle(
        f"A small CNN on digits, PGD-{first.displacements.nb_attack_steps} at eps {format_eps(first.eps)}, anew at "
        f"every displaced weight; {nb_seeds} seeds (thin, small) and their means",
        fontsize=TITLE,
    )
    figure.draw_without_rendering()  # labels are placed where the axes then are
    figure.set_layout_engine("none")
    for axes, lam in zip(upper, lambdas, strict=True):
        ends = [float(np.mean([_rise(it, lam)[-1] for it in of_seeds])) for of_seeds in found.values()]
        label_ends(axes, first.displacements.distances[-1], ends, [*found], COLORS[: len(found)])
    saved(figure, path)


def _rise(flatness: Flatness, lam: float) -> np.ndarray:
    point = flatness.at(lam)
    return np.asarray(point.landscape.mean(axis=0) - point.loss)


def _draw_landscapes(axes: Axes, found: Mapping[str, Sequence[Flatness]], lam: float) -> None:
    for color, of_seeds in zip(COLORS, found.values(), strict=False):
        distances = of_seeds[0].displacements.distances
        rises = [_rise(it, lam) for it in of_seeds]
        for rise in rises:
            axes.plot(distances, rise, color=color, linewidth=0.7, alpha=0.45)
        axes.plot(distances, np.mean(rises, axis=0), color=color, linewidth=2)
        axes.set_xlim(distances[0], distances[-1] + 0.42 * (distances[-1] - distances[0]))  # room for labels
        axes.set_xticks([distances[0], 0, distances[-1]])
    axes.set_title(f"lam {lam:g}: along random directions", fontsize=TITLE)
    axes.set_xlabel("distance (filter-normalized)")
    axes.grid(alpha=0.25)


def _draw_figures(axes: Axes, found: Mapping[str, Sequence[Flatness]], lambdas: Sequence[float], name: str) -> None:
    nb_arms = len(found)
    for number, (color, (arm, of_seeds)) in enumerate(zip(COLORS, found.items(), strict=False)):
        values = np.array([[float(getattr(it.at(lam), name)) for lam in lambdas] for it in of_seeds])
        places = np.arange(len(lambdas)) + 0.2 * (number - (nb_arms - 1) / 2)
        for of_seed in values:
            axes.plot(places, of_seed, "o", color=color, markersize=3, alpha=0.55)
        axes.plot(places, values.mean(axis=0), "_", color=color, markersize=14, markeredgewidth=2.5, label=arm)
    axes.set_xticks(range(len(lambdas)), [f"lam {lam:g}" for lam in lambdas])
    axes.set_xlim(-0.5, len(lambdas) - 0.5)
    axes.set_ylim(0, None)
    axes.grid(alpha=0.25, axis="y")
