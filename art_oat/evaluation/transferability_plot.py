"""Owns the picture of a transfer matrix."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from art_oat.evaluation.plots import save

if TYPE_CHECKING:
    from art_oat.evaluation.transferability import TransferMatrix

_COLORS = mpl.colormaps["Blues"].with_extremes(bad="0.94")
"""One hue from light to dark: readable with every kind of color vision, and in gray."""

_MIN_RANGE = 0.2
"""Shares that differ less than this look alike: noise must not look like a pattern."""

_MIDDLE = 0.179
"""Relative luminance (WCAG 2.1) at which black text and white text have the same contrast, 4.6 to 1."""


def plot_transfer(matrix: TransferMatrix, path: Path | None) -> Figure:
    """Draw the shares as a heat map with numbers; the diagonal, where the attacker knows the dial, is framed.

    Colors span what the attacks leave; the row without attack has none.
    """
    nb_lams = len(matrix.lambdas)
    figure = Figure(figsize=(4.6 + 0.7 * nb_lams, 3.4 + 0.5 * nb_lams), layout="constrained")
    axes = figure.subplots()
    _draw_shares(axes, matrix)
    for index in range(nb_lams):
        axes.add_patch(
            Rectangle((index - 0.46, index + 0.58), 0.92, 0.84, fill=False, edgecolor="black", linewidth=1.5)
        )
    for position in (0.5, nb_lams + 0.5):
        axes.axhline(position, color="white", linewidth=4)
    axes.axvline(nb_lams - 0.5, color="white", linewidth=4)
    _name_sides(axes, matrix)
    letters_per_line = int(13 * figure.get_figwidth())
    figure.suptitle(textwrap.fill(matrix.title(), letters_per_line), fontsize=10)
    findings = [textwrap.fill(sentence, int(1.25 * letters_per_line)) for sentence in matrix.findings()]
    figure.supxlabel("\n".join(findings), fontsize=8)
    save(figure, path)
    return figure


def _draw_shares(axes: Axes, matrix: TransferMatrix) -> None:
    attacked = np.ma.array(matrix.shares)
    attacked[0] = np.ma.masked
    margin = max(_MIN_RANGE - (attacked.max() - attacked.min()), 0) / 2
    image = axes.imshow(attacked, _COLORS, vmin=attacked.min() - margin, vmax=attacked.max() + margin, aspect="auto")
    colors = image.to_rgba(attacked)[..., :3]
    luminance = colors**2.2 @ (0.2126, 0.7152, 0.0722)
    for (row, column), share in np.ndenumerate(matrix.shares):
        ink = "white" if luminance[row, column] < _MIDDLE else "black"
        axes.text(column, row, f"{100 * share:.1f}", color=ink, ha="center", va="center", fontsize=9)


def _name_sides(axes: Axes, matrix: TransferMatrix) -> None:
    lams = [f"{lam:g}" for lam in matrix.lambdas]
    rows, columns = ["not attacked", *lams, "all at once\n(adaptive)", "worst case"], [*lams, "random dial"]
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns)
    axes.set(xlabel="answered at lam (framed: the one attacked)", ylabel="attacked at lam")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
