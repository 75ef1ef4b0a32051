"""Owns the pictures of a trade-off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from art_oat.evaluation.robustness import display_name
from art_oat.files import replaced
from art_oat.frontier import MeasuredPoint

if TYPE_CHECKING:
    from art_oat.evaluation.tradeoff import TradeoffCurve

_CLEAN_COLOR = "#1b6ca8"
_ROBUST_COLOR = "#c0392b"
_LABEL_SIZE = (0.08, 0.035)
"""Width and height of a label, as shares of the axes."""


def plot_tradeoff(curve: TradeoffCurve, path: Path | None) -> Figure:
    """Draw both accuracies against lam (left), and against each other (right), with standard errors."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    against_lam, against_each_other = figure.subplots(1, 2)
    _frame(against_each_other, curve.points)
    by_width: dict[float, list[MeasuredPoint]] = {}
    for point in sorted(curve.points, key=lambda point: point.lam):
        by_width.setdefault(point.width, []).append(point)
    for index, (width, points) in enumerate(sorted(by_width.items(), reverse=True)):
        is_only = len(by_width) == 1
        _draw_against_lam(against_lam, points, "" if is_only else f", width {width:g}", 1 - 0.5 * index / len(by_width))
        _draw_against_each_other(against_each_other, points, None if is_only else f"width {width:g}")
    against_lam.set(xlabel="lam (0: accuracy, 1: robustness)", ylabel="accuracy", title="Turn the dial", ylim=(0, 1.03))
    against_each_other.set(xlabel="robust accuracy", ylabel="clean accuracy", title="What is traded for what")
    for axes in (against_lam, against_each_other):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="best", fontsize=8)
    figure.suptitle(_title(curve), fontsize=10)
    if path is not None:
        path = path if path.suffix else path.with_suffix(".png")
        with mpl.rc_context({"svg.hashsalt": "art_oat"}), replaced(path) as partial:
            figure.savefig(partial, dpi=150)
    return figure


def _title(curve: TradeoffCurve) -> str:
    point = curve.points[0]
    names = " and ".join(display_name(name) for name in point.by_attack)
    return (
        f"One network. {names} at eps {curve.eps:.3g} ({curve.norm}) on {point.nb_robust} images, "
        f"clean on {point.nb_clean}; bars: one standard error"
    )


def _frame(axes: Axes, points: Sequence[MeasuredPoint]) -> None:
    """Show at least ten points of accuracy on either axis: noise must not look like a trend."""
    for name, limits in (("clean", axes.set_ylim), ("robust", axes.set_xlim)):
        values = [getattr(point, name) for point in points]
        errors = [getattr(point, f"{name}_error") for point in points]
        low = min(value - error for value, error in zip(values, errors, strict=True))
        high = max(value + error for value, error in zip(values, errors, strict=True))
        margin = max(0.1 - (high - low), 0.2 * (high - low)) / 2
        excess = max(high + margin - 1.005, 0)  # nothing is above 100%
        limits(low - margin - excess, high + margin - excess)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _draw_against_lam(axes: Axes, points: list[MeasuredPoint], suffix: str, alpha: float) -> None:
    lams, robust = [point.lam for point in points], [point.robust for point in points]
    alone = {name: [point.by_attack[name] for point in points] for name in points[0].by_attack}
    deciding = [display_name(name) for name, shares in alone.items() if shares == robust]
    what = deciding[0] if deciding else "worst case of all attacks"
    series = [
        (_CLEAN_COLOR, "o", [p.clean for p in points], [p.clean_error for p in points], "clean"),
        (_ROBUST_COLOR, "s", robust, [p.robust_error for p in points], f"robust: {what}"),
    ]
    for color, marker, values, errors, label in series:
        axes.errorbar(
            lams, values, errors, marker=marker, capsize=3, color=color, alpha=alpha, label=f"{label}{suffix}"
        )
    for name, shares in alone.items():
        if shares != robust:
            label = f"{display_name(name)} alone{suffix}"
            axes.plot(lams, shares, ":", color=_ROBUST_COLOR, alpha=0.7 * alpha, label=label)


def _draw_against_each_other(axes: Axes, points: list[MeasuredPoint], label: str | None) -> None:
    robust, clean = [point.robust for point in points], [point.clean for point in points]
    line = axes.errorbar(
        robust,
        clean,
        [point.clean_error for point in points],
        [point.robust_error for point in points],
        marker="o",
        linestyle=":",
        capsize=2,
        elinewidth=0.7,
        label=label,
    )
    for group in _neighbors(points, axes):
        text = "lam " + ", ".join(f"{point.lam:g}" for point in group)
        middle = group[len(group) // 2]
        is_right = middle.robust > (min(robust) + max(robust)) / 2  # text keeps off the border and a falling curve
        style = {"fontsize": 8, "color": line[0].get_color(), "ha": "right" if is_right else "left"}
        place = (middle.robust, middle.clean)
        axes.annotate(text, place, xytext=(-6, -13) if is_right else (6, 6), textcoords="offset points", **style)


def _neighbors(points: list[MeasuredPoint], axes: Axes) -> list[list[MeasuredPoint]]:
    """Group consecutive points that lie too close together to be labeled one by one."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width, height = _LABEL_SIZE[0] * (right - left), _LABEL_SIZE[1] * (top - bottom)
    groups: list[list[MeasuredPoint]] = []
    for point in points:
        last = groups[-1][-1] if groups else None
        if last and abs(point.robust - last.robust) < width and abs(point.clean - last.clean) < height:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups
