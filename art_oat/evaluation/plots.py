"""Draws numbers: the trade-off between accuracies, and shares as a heat map."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from art_oat.evaluation.labels import label_points
from art_oat.evaluation.style import BEHIND, CLEAN, FILES, INK, ROBUST, SMALL, UNDATED, entitle, in_percent, whole_range
from art_oat.storage import replaced

_SAME = 3.0
"""Points of a curve that are so near to each other, in points of type, share a label."""

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
    """Draw both accuracies against lam, and against each other, with standard errors.

    Args:
        lines: One curve, or one for each width, which get a column each, with the other curves in gray behind.
        title: Written above.
        attack: What the robust accuracy is that of.
        others: What other attacks left at each lam; drawn for a single curve.
        path: Where to save the figure; None for nowhere.
    """
    nb = len(lines)
    figure = Figure(figsize=(10, 4.6) if nb == 1 else (max(3.4 * nb, 7.5), 6.8), layout="constrained")
    panels = np.reshape(figure.subplots(*((1, 2) if nb == 1 else (2, nb)), squeeze=False), (2, nb))
    for number, (line, dial, trade) in enumerate(zip(lines, *panels, strict=True)):
        dial.set(xlabel="lam (0: accuracy, 1: robustness)", title="Turn the dial" if nb == 1 else None)
        trade.set(xlabel="robust accuracy", title="What is traded for what" if nb == 1 else None)
        if nb > 1:
            dial.set_title(line.label.replace(": ", "\n"), fontsize=9)
        if number == 0:
            dial.set_ylabel("accuracy")
            trade.set_ylabel("clean accuracy")
        _draw_dial(dial, line, [it for it in lines if it is not line], attack, others if nb == 1 else {})
        _draw_trade(trade, line, [it for it in lines if it is not line])
        frame(trade, lines)
    pairs = zip(*panels[0, 0].get_legend_handles_labels(), strict=True)
    handles, labels = zip(*sorted(pairs, key=lambda pair: isinstance(pair[0], Line2D)), strict=True)  # first: our two
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), fontsize=SMALL)
    entitle(figure, title)
    figure.draw_without_rendering()  # labels are placed where the axes then are
    figure.set_layout_engine("none")
    for line, trade in zip(lines, panels[1], strict=True):
        _label(trade, line)
    return saved(figure, path)


def saved(figure: Figure, path: Path | None) -> Figure:
    """Save a figure in the format that the ending names, PNG without one; None for nowhere.

    The same figure gives the same bytes.
    """
    if path is not None:
        path = path if path.suffix else path.with_suffix(".png")
        with mpl.rc_context(FILES), replaced(path) as partial:
            figure.savefig(partial, dpi=150, metadata=UNDATED.get(path.suffix.lower()))
    return figure


def frame(axes: Axes, lines: Sequence[Line]) -> None:
    """Show at least ten points of accuracy on either axis: noise must not look like a trend."""
    clean = [(line.clean, line.clean_error) for line in lines]
    robust = [(line.robust, line.robust_error) for line in lines]
    for pairs, limits in ((clean, axes.set_ylim), (robust, axes.set_xlim)):
        values, errors = (np.concatenate(it) for it in zip(*pairs, strict=True))
        low, high = float(min(values - errors)), float(max(values + errors))
        margin = max(0.1 - (high - low), 0.2 * (high - low)) / 2
        excess = max(high + margin - 1.005, 0)  # nothing is above 100%
        limits(low - margin - excess, high + margin - excess)
    in_percent(axes.xaxis, axes.yaxis)


def _draw_dial(
    axes: Axes, line: Line, behind: Sequence[Line], attack: str, others: Mapping[str, Sequence[float]]
) -> None:
    """Draw accuracies against lam."""
    style: dict[str, Any] = {"capsize": 3, "markersize": 5, "elinewidth": 0.8}
    axes.errorbar(line.lams, line.clean, line.clean_error, label="clean", color=CLEAN, marker="o", **style)
    style |= {"color": ROBUST, "marker": "s", "linestyle": "--"}
    axes.errorbar(line.lams, line.robust, line.robust_error, label=f"robust: {attack}", **style)
    for name, shares in others.items():
        axes.plot(line.lams, shares, ":", color=ROBUST, alpha=0.7, label=f"{name} alone")
    for number, other in enumerate(behind):
        label = "" if number else "other widths"
        axes.plot(other.lams, other.clean, color=BEHIND, linewidth=1, zorder=1, label=label)
        axes.plot(other.lams, other.robust, "--", color=BEHIND, linewidth=1, zorder=1)
    whole_range(axes)


def _draw_trade(axes: Axes, line: Line, behind: Sequence[Line]) -> None:
    """Draw accuracies against each other."""
    style: dict[str, Any] = {"marker": "o", "linestyle": ":", "capsize": 2, "elinewidth": 0.7, "markersize": 5}
    axes.errorbar(line.robust, line.clean, line.clean_error, line.robust_error, color=INK, **style)
    for other in behind:
        axes.plot(other.robust, other.clean, ".:", color=BEHIND, linewidth=1, markersize=4, zorder=1)
    axes.grid(alpha=0.25)


def _label(axes: Axes, line: Line) -> None:
    """Write its lam beside each point."""
    points = [*zip(line.robust, line.clean, strict=True)]
    groups = alike(axes, points)
    middles = [group[len(group) // 2] for group in groups]
    texts = ["lam " + ", ".join(f"{line.lams[index]:g}" for index in group) for group in groups]
    steps = np.linspace(0, 1, 25)[:, None]
    ends = [*itertools.pairwise(np.array(points))]
    for point, error in zip(np.array(points), zip(line.robust_error, line.clean_error, strict=True), strict=True):
        ends += [(point - bar, point + bar) for bar in np.diag(error)]
    label_points(axes, [points[index] for index in middles], texts, np.vstack([a + steps * (b - a) for a, b in ends]))


def alike(axes: Axes, points: Sequence[tuple[float, float]]) -> list[list[int]]:
    """Group consecutive points, by index, whose marks cover each other."""
    pixels, groups = axes.transData.transform(points), [[0]]
    for index in range(1, len(points)):
        distance = np.linalg.norm(pixels[index] - pixels[groups[-1][0]])
        if distance < _SAME * axes.figure.dpi / 72:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


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
    entitle(figure, title)
    wrapped = [textwrap.fill(sentence, int(16 * figure.get_figwidth())) for sentence in findings]
    figure.supxlabel("\n".join(wrapped), fontsize=SMALL)
    return saved(figure, path)


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
