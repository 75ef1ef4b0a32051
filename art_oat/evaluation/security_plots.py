"""Draws accuracy over the radius of the attacker."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from art_oat.attacks import format_eps
from art_oat.evaluation.flatness_plots import label_ends
from art_oat.evaluation.plots import saved

_COLORS = mpl.colormaps["viridis"]
"""Readable with every kind of color vision, and in gray: the larger lam, the lighter."""

_LIGHTEST = 0.85
_ROOM = 1.26
"""How much longer the axis is than the radii, so that lams stand beside their lines."""


@dataclass(frozen=True)
class Steps:
    """The accuracy at one point: how near the next wrong answers lie, ascending, and what was left where checked."""

    lam: float
    width: float
    nearest: NDArray[np.float64]
    checked: NDArray[np.float64]

    def steps(self, eps_max: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return radii from 0 to ``eps_max``, and the accuracy from each of them on."""
        within = self.nearest[self.nearest <= eps_max]
        left = 1 - np.arange(len(within) + 1) / len(self.nearest)
        return np.array([0, *within, eps_max]), np.array([*left, left[-1]])


def plot_security(
    lines: Sequence[Steps],
    *,
    eps_max: float,
    marks: tuple[float | None, Sequence[float]],
    title: str,
    path: Path | None,
) -> Figure:
    """Draw accuracy over the radius: a panel for each width, widest first, a line for each lam, named at its end.

    Args:
        lines: One for each point.
        eps_max: Where the axis ends.
        marks: A radius that a vertical line marks, or None; and the radii that were checked, which get dots.
        title: Written above.
        path: Where to save the figure; None for nowhere.
    """
    widths = sorted({line.width for line in lines}, reverse=True)
    figure = Figure(figsize=(max(3.9 * len(widths), 6.2), 4.4), layout="constrained")
    panels = figure.subplots(1, len(widths), squeeze=False, sharey=True)[0]
    by_width = [sorted((it for it in lines if it.width == width), key=lambda it: it.lam) for width in widths]
    for axes, own, width in zip(panels, by_width, widths, strict=True):
        _draw(axes, own, eps_max, marks)
        axes.set(xlabel="eps of the attacker", title=f"width {width:g}" if len(widths) > 1 else None)
    panels[0].set_ylabel("accuracy under attack")
    figure.suptitle(textwrap.fill(title, int(13 * figure.get_figwidth())), fontsize=10)
    figure.draw_without_rendering()  # labels are placed where the axes then are
    figure.set_layout_engine("none")
    for axes, own in zip(panels, by_width, strict=True):
        ends = [float(line.steps(eps_max)[1][-1]) for line in own]
        colors = [_color(number, len(own)) for number in range(len(own))]
        label_ends(axes, eps_max, ends, [f"lam {line.lam:g}" for line in own], colors)
    return saved(figure, path)


def _color(number: int, nb: int) -> tuple[float, float, float, float]:
    return _COLORS(_LIGHTEST * number / max(nb - 1, 1))


def _draw(axes: Axes, lines: Sequence[Steps], eps_max: float, marks: tuple[float | None, Sequence[float]]) -> None:
    trained, checked = marks
    for number, line in enumerate(lines):
        color, (radii, left) = _color(number, len(lines)), line.steps(eps_max)
        axes.step(radii, left, where="post", color=color, linewidth=1.5)
        axes.plot(checked, line.checked, "o", color=color, markersize=5)
    if trained is not None:
        axes.axvline(trained, color="0.6", linewidth=1, linestyle="--", zorder=0)
        axes.text(trained, 1.01, f" eps of training: {format_eps(trained)}", fontsize=8, color="0.35", va="top")
    axes.set(xlim=(0, _ROOM * eps_max), ylim=(0, 1.03))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.25)
