"""Draws how sure a network is, and how right: a reliability diagram for every operating point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from art_oat.evaluation.plots import saved
from art_oat.evaluation.style import CLEAN, TITLE, entitle

Bins = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""Mean confidence, accuracy and count of every bin."""

_NB_COLUMNS = 3


def plot_reliability(
    panels: Mapping[str, Bins], errors: Mapping[str, float], *, title: str, path: Path | None = None
) -> Figure:
    """Draw accuracy against confidence; a mark is the larger, the more samples fall into its bin.

    Args:
        panels: By title; at least one.
        errors: The calibration error of each, a fraction.
        title: Written above.
        path: Where to save the figure; None for nowhere.
    """
    nb_columns = min(_NB_COLUMNS, len(panels))
    nb_rows = -(-len(panels) // nb_columns)
    figure = Figure(figsize=(max(3.2 * nb_columns, 4.5), 0.6 + 3 * nb_rows), layout="constrained")
    grid = figure.subplots(nb_rows, nb_columns, squeeze=False, sharex=True, sharey=True)
    for axes, (name, bins) in zip(grid.flat, panels.items(), strict=False):
        _draw_bins(axes, bins)
        axes.set_title(f"{name}: error {100 * errors[name]:.1f}%", fontsize=TITLE)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    for axes in grid[-1]:
        axes.set_xlabel("confidence")
    entitle(figure, f"{title}: on the diagonal, a network is as right as it is sure")
    return saved(figure, path)


def _draw_bins(axes: Axes, bins: Bins) -> None:
    confidence, accuracy, counts = bins
    kept = counts > 0
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    axes.plot(confidence[kept], accuracy[kept], color=CLEAN, linewidth=1)
    axes.scatter(confidence[kept], accuracy[kept], 8 + 90 * counts[kept] / counts.sum(), color=CLEAN)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.25)
