"""Draws how flat the robust loss is: its landscape along random directions, and both figures against lam."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from art_oat.evaluation.displacement import Displacements
from art_oat.evaluation.plots import saved
from art_oat.evaluation.point_flatness import PointFlatness
from art_oat.evaluation.style import ROBUST, SMALL, entitle

_COLORS = mpl.colormaps["viridis"]
"""From dark to light, readable with every kind of color vision, and in gray; its lightest end is left out."""

_LINE_HEIGHT = 1.25


def plot_flatness(
    points: Sequence[PointFlatness], moves: Displacements, *, title: str, path: Path | None = None
) -> Figure:
    """Draw a row for each width: how the loss rises along directions, on average, and at worst.

    Args:
        points: At least one; lams ascending within a width.
        moves: How weights were moved.
        title: Written above.
        path: Where to save the figure; None for nowhere.
    """
    widths = sorted({point.width for point in points})
    nb_columns = 3 if moves.distances else 2
    figure = Figure(figsize=(3.6 * nb_columns, 0.8 + 2.9 * len(widths)), layout="constrained")
    grid = figure.subplots(len(widths), nb_columns, squeeze=False)
    for width, row in zip(widths, grid, strict=True):
        own = [point for point in points if point.width == width]
        _draw_figures(row[-2], row[-1], own, moves)
        row[0].set_ylabel("rise of the robust loss (nats)" if len(widths) == 1 else f"width {width:g}\nrise (nats)")
    entitle(figure, title)
    if moves.distances:
        for width, row in zip(widths, grid, strict=True):
            _draw_landscape(row[0], [point for point in points if point.width == width], moves)
        figure.draw_without_rendering()  # labels are placed where the axes then are
        figure.set_layout_engine("none")
        for width, row in zip(widths, grid, strict=True):
            own = [point for point in points if point.width == width]
            ends = [float(line.get_ydata()[-1]) for line in row[0].get_lines()]
            label_ends(row[0], moves.distances[-1], ends, [f"lam {point.lam:g}" for point in own], _colors(own))
    return saved(figure, path)


def _colors(points: Sequence[PointFlatness]) -> list[tuple[float, float, float, float]]:
    return [_COLORS(share) for share in np.linspace(0, 0.8, len(points))]


def _draw_landscape(axes: Axes, points: Sequence[PointFlatness], moves: Displacements) -> None:
    for point, color in zip(points, _colors(points), strict=True):
        axes.plot(moves.distances, point.landscape.mean(axis=0) - point.loss, color=color, linewidth=1.6)
    axes.set(title="Along a random direction, mean", xlabel="distance (filter-normalized)")
    axes.grid(alpha=0.25)
    low, high = moves.distances[0], moves.distances[-1]
    axes.set_xlim(low, high + 0.3 * (high - low))  # room for labels
    axes.set_xticks([tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high])


def _draw_figures(average: Axes, worst: Axes, points: Sequence[PointFlatness], moves: Displacements) -> None:
    lams = [point.lam for point in points]
    means = np.array([point.average for point in points])
    margins = [point.average_interval[1] - point.average for point in points]
    average.errorbar(lams, means, margins, color="0.25", marker="o", markersize=5, capsize=3, elinewidth=0.8)
    average.set_title(f"On average, xi {moves.average:g}")
    worst.plot(lams, [point.worst for point in points], color=ROBUST, marker="s", markersize=5)
    worst.set_title(f"At worst, xi {moves.worst:g}")
    for axes in (average, worst):
        axes.set_xlabel("lam (0: accuracy, 1: robustness)")
        axes.set_ylim(min(0, axes.get_ylim()[0]), None)
        axes.grid(alpha=0.25)


def label_ends(
    axes: Axes,
    x: float,
    ends: Sequence[float],
    texts: Sequence[str],
    colors: Sequence[tuple[float, float, float, float] | str],
) -> None:
    """Write texts to the right of where lines end, in their colors, so far apart that none covers another.

    Args:
        axes: Has its limits; the figure is laid out.
        x: Where the lines end.
        ends: Their last values.
        texts: As many.
        colors: As many.
    """
    scale = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    pixels = axes.transData.transform([(x, end) for end in ends])[:, 1] / scale
    frame = axes.bbox.get_points()[:, 1] / scale
    gap = _LINE_HEIGHT * SMALL
    places = apart([*pixels], gap, (frame[0], frame[1]))
    for place, end, text, color, at in zip(places, ends, texts, colors, pixels, strict=True):
        style = {"textcoords": "offset points", "fontsize": SMALL, "va": "center", "color": color}
        axes.annotate(text, (x, end), (5, place - at), **style)  # type: ignore[arg-type]


def apart(places: Sequence[float], gap: float, frame: tuple[float, float]) -> list[float]:
    """Return places in the same order, moved so that neighbors are at least a gap apart, within a frame if they fit."""
    order = np.argsort(places, kind="stable")
    moved = np.array(places, dtype=float)[order]
    moved[0] = max(moved[0], frame[0] + gap / 2)
    for index in range(1, len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + gap)
    moved[-1] = min(moved[-1], max(frame[1] - gap / 2, frame[0] + gap * (len(moved) - 0.5)))
    for index in range(len(moved) - 2, -1, -1):
        moved[index] = min(moved[index], moved[index + 1] - gap)
    result = np.empty_like(moved)
    result[order] = moved
    return [float(it) for it in result]
