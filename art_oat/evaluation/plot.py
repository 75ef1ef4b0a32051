"""Owns the pictures of a trade-off."""

from __future__ import annotations

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


def plot_tradeoff(curve: TradeoffCurve, path: Path | None) -> Figure:
    """Draw both accuracies against lam (left), and against each other (right), with standard errors."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    against_lam, against_each_other = figure.subplots(1, 2)
    by_width: dict[float, list[MeasuredPoint]] = {}
    for point in sorted(curve.points, key=lambda point: point.lam):
        by_width.setdefault(point.width, []).append(point)
    for width, points in sorted(by_width.items(), reverse=True):
        suffix = f", width {width:g}" if len(by_width) > 1 else ""
        _draw_against_lam(against_lam, points, suffix)
        _draw_against_each_other(against_each_other, points, f"width {width:g}")
    against_lam.set(xlabel="lam (0: accuracy, 1: robustness)", ylabel="accuracy", title="Turn the dial")
    against_lam.legend(loc="best")
    against_each_other.set(xlabel="robust accuracy", ylabel="clean accuracy", title="What is traded for what")
    against_each_other.xaxis.set_major_formatter(PercentFormatter(1))
    if len(by_width) > 1:
        against_each_other.legend(loc="best")
    for axes in (against_lam, against_each_other):
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(alpha=0.25)
    figure.suptitle(_title(curve), fontsize=10)
    if path is not None:
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


def _draw_against_lam(axes: Axes, points: list[MeasuredPoint], suffix: str) -> None:
    lams = [point.lam for point in points]
    axes.errorbar(
        lams,
        [point.clean for point in points],
        [point.clean_error for point in points],
        marker="o",
        capsize=3,
        color=_CLEAN_COLOR,
        label=f"clean{suffix}",
    )
    axes.errorbar(
        lams,
        [point.robust for point in points],
        [point.robust_error for point in points],
        marker="s",
        capsize=3,
        color=_ROBUST_COLOR,
        label=f"robust, worst case{suffix}",
    )
    for name in points[0].by_attack if len(points[0].by_attack) > 1 else ():
        alone = [point.by_attack[name] for point in points]
        label = f"{display_name(name)}{suffix}"
        style = "--" if name == "autoattack" else ":"
        axes.plot(lams, alone, style, color=_ROBUST_COLOR, alpha=0.6, label=label)


def _draw_against_each_other(axes: Axes, points: list[MeasuredPoint], label: str) -> None:
    robust, clean = [point.robust for point in points], [point.clean for point in points]
    line = axes.errorbar(
        robust,
        clean,
        [point.clean_error for point in points],
        [point.robust_error for point in points],
        marker="o",
        capsize=2,
        elinewidth=0.7,
        label=label,
    )
    for index, point in enumerate(points):
        axes.annotate(
            f"lam {point.lam:g}",
            (point.robust, point.clean),
            xytext=(6, 8 if index % 2 else -14),
            textcoords="offset points",
            fontsize=8,
            color=line[0].get_color(),
        )
