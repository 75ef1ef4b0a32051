"""How all figures look: one palette, one size of type, and files whose bytes depend on what is drawn alone."""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, VERMILLION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#009E73", "#B0608F", "#B87800"
"""Of Okabe and Ito, whom people with every kind of color vision tell apart; the last two darkened, so that lines of
each have a contrast of 3 to 1 and more on white."""

CLEAN, ROBUST = BLUE, VERMILLION
INK, QUIET, BEHIND = "black", "0.45", "0.75"
"""What is told, what it is compared with, and what lies behind it."""

SMALL, TITLE = 8, 10
"""Sizes of type in points: of labels and legends, and of titles."""

_LETTERS_PER_INCH = 13
FILES: Any = {"svg.hashsalt": "art_oat", "svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42}
"""Text stays text, which can be searched, edited and set in the type of a paper."""
UNDATED: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def entitle(figure: Figure, title: str) -> None:
    """Write a title above all panels, in lines that the figure is wide enough for."""
    figure.suptitle(textwrap.fill(title, int(_LETTERS_PER_INCH * figure.get_figwidth())), fontsize=TITLE)


def in_percent(*axes: Axis) -> None:
    """Write shares along axes in percent, at round ones."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # steps of 2.5% would be labeled as 2 and 3
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def whole_range(axes: Axes) -> None:
    """Show shares upwards from 0 to 100%, with room for marks at either end."""
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.25)
