"""Draws the trade-offs of several runs: a color and a mark for each, a column for each width."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from art_oat.evaluation.labels import label_points
from art_oat.evaluation.plots import Line, alike, frame, saved
from art_oat.frontier import MeasuredPoint

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "black", "#E69F00", "#56B4E9")
"""Of Okabe and Ito, which people with every kind of color vision tell apart; but for yellow, which is faint."""

_MARKS = ("o", "s", "^", "D", "v", "P", "X")


def plot_comparison(points: Mapping[str, Sequence[MeasuredPoint]], *, title: str, path: Path | None) -> Figure:
    """Draw clean against robust accuracy with standard errors; a run that has one lam alone is a larger mark.

    Args:
        points: What was measured of each run, by what the legend calls it.
        title: Written above.
        path: Where to save the figure; None for nowhere.
    """
    widths = sorted({point.width for every in points.values() for point in every}, reverse=True)
    figure = Figure(figsize=(max(4.4 * len(widths), 6.6), 5.4), layout="constrained")
    panels = figure.subplots(1, len(widths), squeeze=False)[0]
    lines = {width: _lines(points, width) for width in widths}
    handles: dict[str, Any] = {}
    for width, axes in zip(widths, panels, strict=True):
        for line in lines[width]:
            handles.setdefault(line.label, _draw(axes, line, [*points].index(line.label)))
        axes.set(xlabel="robust accuracy", title=f"width {width:g}" if len(widths) > 1 else None)
        axes.grid(alpha=0.25)
        frame(axes, [line for every in lines.values() for line in every])
    panels[0].set_ylabel("clean accuracy")
    rows = {name: handles[name] for name in points}
    figure.legend(rows.values(), rows, loc="outside lower center", ncols=min(len(rows), 3), fontsize=8)
    figure.suptitle(textwrap.fill(title, int(13 * figure.get_figwidth())), fontsize=10)
    figure.draw_without_rendering()  # labels are placed where the axes then are
    figure.set_layout_engine("none")
    for width, axes in zip(widths, panels, strict=True):
        _label(axes, lines[width])
    return saved(figure, path)


def _lines(points: Mapping[str, Sequence[MeasuredPoint]], width: float) -> list[Line]:
    """Return the curves of the runs that have a width."""
    names = ("lam", "clean", "clean_error", "robust", "robust_error")
    own = {label: [point for point in every if point.width == width] for label, every in points.items()}
    return [
        Line(label, *([getattr(it, name) for it in every] for name in names)) for label, every in own.items() if every
    ]


def _draw(axes: Axes, line: Line, number: int) -> Any:
    round_, color = divmod(number, len(_COLORS))
    style: dict[str, Any] = {"color": _COLORS[color], "marker": _MARKS[(number + round_) % len(_MARKS)], "capsize": 2}
    style |= {"linestyle": ":", "elinewidth": 0.7, "markersize": 5 if len(line.lams) > 1 else 9}
    return axes.errorbar(line.robust, line.clean, line.clean_error, line.robust_error, **style)


def _label(axes: Axes, lines: Sequence[Line]) -> None:
    """Write its lam beside each point of a run that has several, in the color of the run."""
    places, texts, colors, ends = [], [], [], []
    for number, line in enumerate(lines):
        points = [*zip(line.robust, line.clean, strict=True)]
        ends += [*itertools.pairwise(np.array(points))]
        for point, errors in zip(np.array(points), zip(line.robust_error, line.clean_error, strict=True), strict=True):
            ends += [(point - bar, point + bar) for bar in np.diag(errors)]
        for group in alike(axes, points) if len(points) > 1 else []:
            places.append(points[group[len(group) // 2]])
            texts.append(", ".join(f"{line.lams[index]:g}" for index in group))
            colors.append(_COLORS[number % len(_COLORS)])
    steps = np.linspace(0, 1, 25)[:, None]
    label_points(axes, places, texts, np.vstack([a + steps * (b - a) for a, b in ends]), colors)
