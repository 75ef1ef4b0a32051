"""Owns the pictures of a trade-off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from art_oat.attacks import format_eps
from art_oat.evaluation.cost import readable
from art_oat.evaluation.suite import display_name
from art_oat.frontier import MeasuredPoint
from art_oat.storage import replaced

if TYPE_CHECKING:
    from art_oat.evaluation.tradeoff import TradeoffCurve

_CLEAN_COLOR = "#1b6ca8"
_ROBUST_COLOR = "#c0392b"
_CLEAN_STYLE: Mapping[str, Any] = {"linestyle": "-", "marker": "o"}
_ROBUST_STYLE: Mapping[str, Any] = {"linestyle": "--", "marker": "s", "markerfacecolor": "white"}
_LABEL_SIZE = (0.08, 0.035)
"""Width and height of a label, as shares of the axes."""


def plot_tradeoff(curve: TradeoffCurve, path: Path | None) -> Figure:
    """Draw both accuracies against lam (left), and against each other (right), with standard errors.

    Several widths make a curve each, in a color of their own on either side.
    """
    by_width = _by_width(curve)
    figure = Figure(figsize=(10, 4.2 if len(by_width) == 1 else 4.8), layout="constrained")
    against_lam, against_each_other = figure.subplots(1, 2)
    against_lam.set(xlabel="lam (0: accuracy, 1: robustness)", ylabel="accuracy", title="Turn the dial", ylim=(0, 1.03))
    against_each_other.set(xlabel="robust accuracy", ylabel="clean accuracy", title="What is traded for what")
    for axes in (against_lam, against_each_other):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(alpha=0.25)
    _frame(against_each_other, curve.points)
    if len(by_width) == 1:
        (points,) = by_width.values()
        _draw_against_lam(against_lam, points)
        _draw_against_each_other(against_each_other, points)
    else:
        _draw_widths(figure, curve, by_width)
    figure.suptitle(_title(curve), fontsize=10)
    save(figure, path)
    return figure


def save(figure: Figure, path: Path | None) -> None:
    """Save a figure in the format that the ending names, PNG without one; None for nowhere."""
    if path is not None:
        path = path if path.suffix else path.with_suffix(".png")
        with mpl.rc_context({"svg.hashsalt": "art_oat"}), replaced(path) as partial:
            figure.savefig(partial, dpi=150)


def _by_width(curve: TradeoffCurve) -> dict[float, list[MeasuredPoint]]:
    """Points of equal width together, lams ascending, the widest first."""
    groups: dict[float, list[MeasuredPoint]] = {}
    for point in sorted(curve.points, key=lambda point: (-point.width, point.lam)):
        groups.setdefault(point.width, []).append(point)
    return groups


def _network(curve: TradeoffCurve) -> str:
    widths = {point.width for point in curve.points}
    return "One network" if len(widths) > 1 or widths == {1.0} else f"One network at width {min(widths):g}"


def _title(curve: TradeoffCurve) -> str:
    point = curve.points[0]
    names = " and ".join(display_name(name) for name in point.by_attack)
    return (
        f"{_network(curve)}. {names} at eps {format_eps(curve.eps)} ({curve.norm}) on {point.nb_robust} images, "
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
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # steps of 2.5% would be labeled as 2 and 3
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _deciding(points: Sequence[MeasuredPoint]) -> str:
    """Say which attack the robust accuracy is that of."""
    for name in points[0].by_attack:
        if all(point.by_attack[name] == point.robust for point in points):
            return display_name(name)
    return "worst case of all attacks"


def _draw_against_lam(axes: Axes, points: list[MeasuredPoint]) -> None:
    lams, robust = [point.lam for point in points], [point.robust for point in points]
    series = [
        (_CLEAN_COLOR, "o", [p.clean for p in points], [p.clean_error for p in points], "clean"),
        (_ROBUST_COLOR, "s", robust, [p.robust_error for p in points], f"robust: {_deciding(points)}"),
    ]
    for color, marker, values, errors, label in series:
        axes.errorbar(lams, values, errors, marker=marker, capsize=3, color=color, label=label)
    for name in points[0].by_attack:
        shares = [point.by_attack[name] for point in points]
        if shares != robust:
            axes.plot(lams, shares, ":", color=_ROBUST_COLOR, alpha=0.7, label=f"{display_name(name)} alone")
    axes.legend(loc="best", fontsize=8)


def _draw_against_each_other(axes: Axes, points: list[MeasuredPoint]) -> None:
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


def _draw_widths(figure: Figure, curve: TradeoffCurve, by_width: dict[float, list[MeasuredPoint]]) -> None:
    """Draw a curve per width; other attacks than the deciding one are left to the table."""
    against_lam, against_each_other = figure.axes
    shades = (0.72 * index / (len(by_width) - 1) for index in range(len(by_width)))
    colors = [to_hex(mpl.colormaps["viridis"](shade)) for shade in shades]
    for color, points in reversed(list(zip(colors, by_width.values(), strict=True))):
        _draw_width_against_lam(against_lam, points, color)
        _draw_width_against_each_other(against_each_other, points, color)
    against_each_other.set(title="What is traded for what (in the circles: lam)")
    labels = {"clean": _CLEAN_STYLE, f"robust: {_deciding(curve.points)}": _ROBUST_STYLE}
    kinds = [Line2D([], [], color="0.3", label=label, **style) for label, style in labels.items()]
    against_lam.legend(handles=kinds, loc="best", fontsize=8)
    texts = _width_labels([points[0] for points in by_width.values()], curve.latency_batch_size)
    widths = [Line2D([], [], color=color, linewidth=4, label=text) for color, text in zip(colors, texts, strict=True)]
    figure.legend(handles=widths, loc="outside lower center", ncols=min(len(widths), 3), fontsize=8)


def _width_labels(points: Sequence[MeasuredPoint], batch_size: int) -> list[str]:
    """Write widths and what they cost, as far as that is known: ``width 0.5: 0.29 G MACs, 12 ms``."""
    macs = readable([point.macs for point in points], " MACs")
    latencies = readable([point.latency for point in points], "s" if batch_size == 1 else f"s for {batch_size} images")
    costs = [", ".join(filter(None, pair)) for pair in zip(macs, latencies, strict=True)]
    names = [f"width {point.width:g}" for point in points]
    return [": ".join(filter(None, pair)) for pair in zip(names, costs, strict=True)]


def _draw_width_against_lam(axes: Axes, points: list[MeasuredPoint], color: str) -> None:
    lams = [point.lam for point in points]
    clean, robust = [point.clean for point in points], [point.robust for point in points]
    clean_errors, robust_errors = [p.clean_error for p in points], [p.robust_error for p in points]
    axes.errorbar(lams, clean, clean_errors, color=color, elinewidth=0.8, **_CLEAN_STYLE)
    axes.errorbar(lams, robust, robust_errors, color=color, elinewidth=0.8, **_ROBUST_STYLE)


def _draw_width_against_each_other(axes: Axes, points: list[MeasuredPoint], color: str) -> None:
    robust, clean = [point.robust for point in points], [point.clean for point in points]
    errors = [point.clean_error for point in points], [point.robust_error for point in points]
    axes.errorbar(robust, clean, *errors, color=color, linestyle=":", elinewidth=0.8)
    for point in points:
        place, order = (point.robust, point.clean), 3 + point.width + point.lam / 100  # a circle hides what is below
        text = f"{point.lam:.2g}".removeprefix("0") or "0"
        axes.plot(*place, "o", color=color, markersize=14, markeredgecolor="white", zorder=order)
        axes.annotate(text, place, color="white", fontsize=6.5, ha="center", va="center", zorder=order)
