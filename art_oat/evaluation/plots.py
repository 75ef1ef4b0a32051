"""Draws numbers: the trade-off between accuracies, and shares as a heat map."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from art_oat.storage import replaced

_CLEAN_COLOR = "#1b6ca8"
_ROBUST_COLOR = "#c0392b"
_CLEAN_STYLE: Mapping[str, Any] = {"linestyle": "-", "marker": "o"}
_ROBUST_STYLE: Mapping[str, Any] = {"linestyle": "--", "marker": "s", "markerfacecolor": "white"}

_LABEL_SIZE = (0.08, 0.035)
"""Width and height of a label, as shares of the axes."""

_HEAT = mpl.colormaps["Blues"].with_extremes(bad="0.94")
"""One hue from light to dark: readable with every kind of color vision, and in gray."""

_MIN_RANGE = 0.2
"""Shares that differ less than this look alike: noise must not look like a pattern."""

_MIDDLE = 0.179
"""Relative luminance (WCAG 2.1) at which black text and white text have the same contrast, 4.6 to 1."""


@dataclass(frozen=True)
class Line:
    """Accuracies along one curve, as fractions with standard errors, lams ascending; its label tells it from others."""

    label: str
    lams: Sequence[float]
    clean: Sequence[float]
    clean_error: Sequence[float]
    robust: Sequence[float]
    robust_error: Sequence[float]


def plot_tradeoff(
    lines: Sequence[Line], *, title: str, attack: str, others: Mapping[str, Sequence[float]], path: Path | None
) -> Figure:
    """Draw both accuracies against lam (left), and against each other (right), with standard errors.

    Args:
        lines: One curve, or several, which get a color each on either side.
        title: Written above.
        attack: What the robust accuracy is that of.
        others: What other attacks left at each lam; drawn for a single curve.
        path: Where to save the figure; None for nowhere.
    """
    figure = Figure(figsize=(10, 4.2 if len(lines) == 1 else 4.8), layout="constrained")
    against_lam, against_each_other = figure.subplots(1, 2)
    against_lam.set(xlabel="lam (0: accuracy, 1: robustness)", ylabel="accuracy", title="Turn the dial", ylim=(0, 1.03))
    against_each_other.set(xlabel="robust accuracy", ylabel="clean accuracy", title="What is traded for what")
    for axes in (against_lam, against_each_other):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(alpha=0.25)
    _frame(against_each_other, lines)
    if len(lines) == 1:
        _draw_against_lam(against_lam, lines[0], attack, others)
        _draw_against_each_other(against_each_other, lines[0])
    else:
        _draw_lines(figure, lines, attack)
    figure.suptitle(title, fontsize=10)
    return _saved(figure, path)


def _saved(figure: Figure, path: Path | None) -> Figure:
    """Save a figure in the format that the ending names, PNG without one; None for nowhere."""
    if path is not None:
        path = path if path.suffix else path.with_suffix(".png")
        with mpl.rc_context({"svg.hashsalt": "art_oat"}), replaced(path) as partial:
            figure.savefig(partial, dpi=150)
    return figure


def _frame(axes: Axes, lines: Sequence[Line]) -> None:
    """Show at least ten points of accuracy on either axis: noise must not look like a trend."""
    clean = [(line.clean, line.clean_error) for line in lines]
    robust = [(line.robust, line.robust_error) for line in lines]
    for pairs, limits in ((clean, axes.set_ylim), (robust, axes.set_xlim)):
        values, errors = (np.concatenate(it) for it in zip(*pairs, strict=True))
        low, high = float(min(values - errors)), float(max(values + errors))
        margin = max(0.1 - (high - low), 0.2 * (high - low)) / 2
        excess = max(high + margin - 1.005, 0)  # nothing is above 100%
        limits(low - margin - excess, high + margin - excess)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # steps of 2.5% would be labeled as 2 and 3
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _draw_against_lam(axes: Axes, line: Line, attack: str, others: Mapping[str, Sequence[float]]) -> None:
    style: dict[str, Any] = {"capsize": 3}
    axes.errorbar(line.lams, line.clean, line.clean_error, marker="o", color=_CLEAN_COLOR, label="clean", **style)
    label = f"robust: {attack}"
    axes.errorbar(line.lams, line.robust, line.robust_error, marker="s", color=_ROBUST_COLOR, label=label, **style)
    for name, shares in others.items():
        axes.plot(line.lams, shares, ":", color=_ROBUST_COLOR, alpha=0.7, label=f"{name} alone")
    axes.legend(loc="best", fontsize=8)


def _draw_against_each_other(axes: Axes, line: Line) -> None:
    style: dict[str, Any] = {"marker": "o", "linestyle": ":", "capsize": 2, "elinewidth": 0.7}
    drawn = axes.errorbar(line.robust, line.clean, line.clean_error, line.robust_error, **style)
    text_style: dict[str, Any] = {"fontsize": 8, "color": drawn[0].get_color(), "textcoords": "offset points"}
    for group in _neighbors(line, axes):
        text = "lam " + ", ".join(f"{line.lams[index]:g}" for index in group)
        middle = group[len(group) // 2]
        place = (line.robust[middle], line.clean[middle])
        is_right = place[0] > (min(line.robust) + max(line.robust)) / 2  # text keeps off the border and the curve
        side: dict[str, Any] = {"xytext": (-6, -13), "ha": "right"} if is_right else {"xytext": (6, 6), "ha": "left"}
        axes.annotate(text, place, **side, **text_style)


def _neighbors(line: Line, axes: Axes) -> list[list[int]]:
    """Group consecutive points, by index, that lie too close together to be labeled one by one."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width, height = _LABEL_SIZE[0] * (right - left), _LABEL_SIZE[1] * (top - bottom)
    groups = [[0]]
    for index in range(1, len(line.lams)):
        last = groups[-1][-1]
        is_close = abs(line.robust[index] - line.robust[last]) < width
        if is_close and abs(line.clean[index] - line.clean[last]) < height:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _draw_lines(figure: Figure, lines: Sequence[Line], attack: str) -> None:
    """Draw a curve each in a color of its own; other attacks than the deciding one are left to the table."""
    against_lam, against_each_other = figure.axes
    shades = (0.72 * index / (len(lines) - 1) for index in range(len(lines)))
    colors = [to_hex(mpl.colormaps["viridis"](shade)) for shade in shades]
    for height, (color, line) in enumerate(reversed(list(zip(colors, lines, strict=True))), start=3):
        style: dict[str, Any] = {"color": color, "elinewidth": 0.8}
        against_lam.errorbar(line.lams, line.clean, line.clean_error, **style, **_CLEAN_STYLE)
        against_lam.errorbar(line.lams, line.robust, line.robust_error, **style, **_ROBUST_STYLE)
        errors = line.clean_error, line.robust_error
        against_each_other.errorbar(line.robust, line.clean, *errors, linestyle=":", **style)
        _draw_circles(against_each_other, line, color, height)
    against_each_other.set(title="What is traded for what (in the circles: lam)")
    labels = {"clean": _CLEAN_STYLE, f"robust: {attack}": _ROBUST_STYLE}
    kinds = [Line2D([], [], color="0.3", label=label, **style) for label, style in labels.items()]
    against_lam.legend(handles=kinds, loc="best", fontsize=8)
    widths = [Line2D([], [], color=it, linewidth=4, label=line.label) for it, line in zip(colors, lines, strict=True)]
    figure.legend(handles=widths, loc="outside lower center", ncols=min(len(widths), 3), fontsize=8)


def _draw_circles(axes: Axes, line: Line, color: str, height: int) -> None:
    """Draw the points as circles that hold their lam; a circle hides what is below."""
    for lam, robust, clean in zip(line.lams, line.robust, line.clean, strict=True):
        place = (robust, clean)
        order, text = height + lam / 100, f"{lam:.2g}".removeprefix("0") or "0"
        axes.plot(*place, "o", color=color, markersize=14, markeredgecolor="white", zorder=order)
        axes.annotate(text, place, color="white", fontsize=6.5, ha="center", va="center", zorder=order)


def plot_transfer(
    shares: NDArray[np.float64], lambdas: Sequence[float], *, title: str, findings: Sequence[str], path: Path | None
) -> Figure:
    """Draw shares as a heat map with numbers; the diagonal, where the attacker knows the dial, is framed.

    Colors span what the attacks leave; the row without attack has none.

    Args:
        shares: ``[A + 3, A + 1]``, the rows not attacked, attacked at each lam, at all at once, and the worst case; the
            columns each lam, and one drawn at random.
        lambdas: The ``A`` lams.
        title: Written above.
        findings: Sentences written below.
        path: Where to save the figure; None for nowhere.
    """
    nb_lams = len(lambdas)
    figure = Figure(figsize=(4.6 + 0.7 * nb_lams, 3.4 + 0.5 * nb_lams), layout="constrained")
    axes = figure.subplots()
    _draw_shares(axes, shares)
    for index in range(nb_lams):
        corner = (index - 0.46, index + 0.58)
        axes.add_patch(Rectangle(corner, 0.92, 0.84, fill=False, edgecolor="black", linewidth=1.5))
    for position in (0.5, nb_lams + 0.5):
        axes.axhline(position, color="white", linewidth=4)
    axes.axvline(nb_lams - 0.5, color="white", linewidth=4)
    lams = [f"{lam:g}" for lam in lambdas]
    axes.set_yticks(range(nb_lams + 3), ["not attacked", *lams, "all at once\n(adaptive)", "worst case"])
    axes.set_xticks(range(nb_lams + 1), [*lams, "random dial"])
    axes.set(xlabel="answered at lam (framed: the one attacked)", ylabel="attacked at lam")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    letters_per_line = int(13 * figure.get_figwidth())
    figure.suptitle(textwrap.fill(title, letters_per_line), fontsize=10)
    wrapped = [textwrap.fill(sentence, int(1.25 * letters_per_line)) for sentence in findings]
    figure.supxlabel("\n".join(wrapped), fontsize=8)
    return _saved(figure, path)


def _draw_shares(axes: Axes, shares: NDArray[np.float64]) -> None:
    attacked = np.ma.array(shares)
    attacked[0] = np.ma.masked
    margin = max(_MIN_RANGE - (attacked.max() - attacked.min()), 0) / 2
    image = axes.imshow(attacked, _HEAT, vmin=attacked.min() - margin, vmax=attacked.max() + margin, aspect="auto")
    colors = image.to_rgba(attacked)[..., :3]
    luminance = colors**2.2 @ (0.2126, 0.7152, 0.0722)
    for (row, column), share in np.ndenumerate(shares):
        ink = "white" if luminance[row, column] < _MIDDLE else "black"
        axes.text(column, row, f"{100 * share:.1f}", color=ink, ha="center", va="center", fontsize=9)
