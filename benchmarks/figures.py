"""The pictures of comparisons: frontiers of several methods, and differences of variants to one."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from art_oat.evaluation.labels import label_points
from art_oat.evaluation.plots import saved
from art_oat.evaluation.style import (
    BLUE,
    QUIET,
    SMALL,
    TITLE,
    VERMILLION,
    entitle,
    in_percent,
    whole_range,
)
from benchmarks.baselines import BASELINES
from benchmarks.tables import Rows

Points = Sequence[tuple[float, float, float, float, float]]
"""Per lam: lam, clean accuracy, its standard error, robust accuracy, its standard error; fractions."""

STYLES = {"oat": (BLUE, "o", "one network, lam dialed"), "dedicated": (VERMILLION, "s", "a network for each lam")}


def points_of(rows: Rows, column: str = "method", ours: str = "oat") -> dict[str, Points]:
    """Return the points of what is drawn, by name: one network, dedicated ones, and trainers of ART.

    Args:
        rows: Of a kept table, in percent.
        column: What names a method there.
        ours: The name there of the one network.
    """
    found: dict[str, list[tuple[float, float, float, float, float]]] = {}
    for row in rows:
        name = {ours: "oat"}.get(row[column], "dedicated" if row[column].startswith("lam-") else row[column])
        if name in STYLES or name in BASELINES:
            values = (float(row[it]) / 100 for it in ("clean", "clean s.e.", "autoattack", "autoattack s.e."))
            found.setdefault(name, []).append((float(row["lam"] or 1), *values))  # type: ignore[arg-type]
    return {name: sorted(points) for name, points in found.items()}


def plot(found: Mapping[str, Points], title: str, path: Path) -> None:
    """Draw clean against robust accuracy (AutoAttack), with standard errors, and robust accuracy against lam."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    against_each_other, against_lam = figure.subplots(1, 2)
    for name, points in found.items():
        lams, clean, clean_errors, robust, robust_errors = zip(*points, strict=True)
        color, marker, label = STYLES.get(name) or (QUIET, BASELINES[name].marker, name)
        style: dict[str, Any] = {"color": color, "marker": marker, "capsize": 2, "label": label, "markersize": 5}
        line = ":" if name in STYLES else ""
        errors = {"xerr": robust_errors, "yerr": clean_errors, "elinewidth": 0.7}
        against_each_other.errorbar(robust, clean, linestyle=line, **errors, **style)
        if name in STYLES:
            against_lam.errorbar(lams, clean, clean_errors, linestyle="-", **style)
            against_lam.errorbar(lams, robust, robust_errors, linestyle="--", **style)
    against_each_other.set(xlabel="robust accuracy (AutoAttack)", ylabel="clean accuracy")
    against_lam.set(xlabel="lam", ylabel="accuracy", title="solid: clean, dashed: AutoAttack")
    in_percent(against_each_other.xaxis, against_each_other.yaxis)
    whole_range(against_lam)
    against_each_other.grid(alpha=0.25)
    _widen(against_each_other)
    entitle(figure, title)
    _one_legend(figure, against_each_other)
    figure.draw_without_rendering()  # labels are placed where the axes then are
    figure.set_layout_engine("none")
    _name_lams(against_each_other, {name: points for name, points in found.items() if name in STYLES})
    saved(figure, path)


def _name_lams(axes: Axes, found: Mapping[str, Points]) -> None:
    """Write its lam beside each point, in the color of its curve."""
    places = [(point[3], point[1]) for points in found.values() for point in points]
    texts = [f"{point[0]:g}" for points in found.values() for point in points]
    lines = [np.linspace(a, b, 25) for points in found.values() for a, b in itertools.pairwise(_places(points))]
    ends = [
        (np.array((robust - right, clean - up)), np.array((robust + right, clean + up)), side)
        for points in found.values()
        for _, clean, up, robust, right in points
        for side in (np.array((1, 0)), np.array((0, 1)))
    ]
    bars = [
        np.linspace(side * a + (1 - side) * (a + b) / 2, side * b + (1 - side) * (a + b) / 2, 9) for a, b, side in ends
    ]
    colors = [STYLES[name][0] for name, points in found.items() for _ in points]
    label_points(axes, places, texts, np.vstack([*lines, *bars]), colors)


def _places(points: Points) -> NDArray[np.float64]:
    return np.array([(point[3], point[1]) for point in points])


def _one_legend(figure: Figure, axes: Axes) -> None:
    """Write below all panels what is in each."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), fontsize=SMALL)


DIFFERENCES = {
    "clean difference": (QUIET, "s", "clean, mean over lams"),
    "robust difference": (BLUE, "o", "AutoAttack, mean over lams"),
    "robust difference at 1": (VERMILLION, "D", "AutoAttack, lam 1"),
}


def plot_differences(tables: Mapping[str, Sequence[Mapping[str, str]]], path: Path) -> None:
    """Draw what variants gain over the first row of each table, in points, with 95% intervals; one panel per title."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        variants = table[1:]
        for number, (name, (color, marker, label)) in enumerate(DIFFERENCES.items()):
            values, low, high = ([float(row[f"{name}{end}"]) for row in variants] for end in ("", " low", " high"))
            margins = [
                [v - a for v, a in zip(values, low, strict=True)],
                [b - v for v, b in zip(values, high, strict=True)],
            ]
            places = [place + 0.22 * (number - 1) for place in range(len(variants))]
            style = {"fmt": marker, "color": color, "capsize": 2, "markersize": 4}
            axes.errorbar(values, places, xerr=margins, label=label, **style)
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.set_yticks(range(len(variants)), [f"{row['variant']} ({float(row['seconds']):.0f} s)" for row in variants])
        axes.invert_yaxis()
        axes.grid(alpha=0.25, axis="x")
        axes.set(title=title, xlabel=f"points more than {table[0]['variant']} ({float(table[0]['seconds']):.0f} s)")
    entitle(
        figure, "Small CNNs under AutoAttack: digits at eps 0.2, CIFAR-10 at eps 8/255 (Linf); bars: 95% over images"
    )
    _one_legend(figure, figure.get_axes()[0])
    saved(figure, path)


VERDICTS = {"better": (BLUE, "^"), "no difference shown": (QUIET, "o"), "worse": (VERMILLION, "v")}
"""How a part is drawn, by what is said of it."""


def plot_parts(rows: Rows, base: str, panels: Mapping[str, tuple[str, float]], title: str, path: Path) -> None:
    """Draw parts below each other, with 95% intervals: a panel per column of a table, colored by the verdict.

    Args:
        rows: Of the table, without the base.
        base: The rival of most; another one is named beside the part.
        panels: By column, what it is called, and its value where nothing is gained.
        title: Of the figure.
        path: Of the file.
    """
    figure = Figure(figsize=(10, 1.6 + 0.24 * len(rows)), layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True)
    for axes, (column, (label, nothing)) in zip(every, panels.items(), strict=True):
        for verdict in VERDICTS:
            of_verdict = {place: row for place, row in enumerate(rows) if row["verdict"] == verdict}
            _draw_parts(axes, of_verdict, column, verdict)
        axes.axvline(nothing, color="0.3", linewidth=0.8)
        axes.grid(alpha=0.25, axis="x")
        axes.set_xlabel(label)
    names = [row["part"] + ("" if row["rival"] == base else f" (to {row['rival']})") for row in rows]
    every[0].set_yticks(range(len(rows)), names, fontsize=SMALL)
    every[0].set_ylim(len(rows) - 0.5, -0.5)
    entitle(figure, title)
    _one_legend(figure, every[0])
    saved(figure, path)


def _draw_parts(axes: Axes, rows: Mapping[int, Mapping[str, Any]], column: str, verdict: str) -> None:
    """Draw those of one verdict, by their places from above."""
    color, marker = VERDICTS[verdict]
    values = np.array([float(row[column]) for row in rows.values()])
    ends = np.array([row[f"{column}, 95%"].split(" to ") for row in rows.values()], dtype=float).reshape(-1, 2)
    style = {"fmt": marker, "color": color, "capsize": 2, "markersize": 4, "label": verdict}
    axes.errorbar(values, [*rows], xerr=np.abs(ends.T - values), **style)


def _widen(axes: Axes) -> None:
    """Show at least ten points of accuracy on either axis: noise must not look like a trend."""
    for limits, change in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        margin = max(0.1 - (limits[1] - limits[0]), 0) / 2
        excess = max(limits[1] + margin - 1.005, 0)  # nothing is above 100%
        change(limits[0] - margin - excess, limits[1] + margin - excess)


SOURCES = {
    "oat": (BLUE, "one network, lam dialed"),
    "natural": (VERMILLION, "natural training"),
    "scratch": (QUIET, "random weights"),
}
TRANSFERS = {
    "fixed-feature": "fixed features, a head trained naturally",
    "full-network": "whole network trained naturally",
    "dial kept": "whole network trained by OAT, dial kept",
}


def plot_transfer(
    lines: Mapping[tuple[str, str, str], Mapping[float, tuple[float, float, float]]], title: str, eps: str, path: Path
) -> None:
    """Draw accuracy on the target task against lam: a column per protocol, clean above, AutoAttack below.

    Args:
        lines: By protocol, source and judge: accuracy and its interval by lam.
        title: Of the figure.
        eps: Radius of AutoAttack, as text.
        path: Of the file.
    """
    protocols = [name for name in TRANSFERS if (name, "oat", "clean") in lines]
    figure = Figure(figsize=(1 + 3.4 * len(protocols), 6), layout="constrained")
    axes = figure.subplots(2, len(protocols), sharex=True, sharey="row")
    for (protocol, source, judge), by_lam in lines.items():
        panel = axes[("clean", "autoattack").index(judge), protocols.index(protocol)]
        _draw_source(panel, by_lam, *SOURCES[source])
    for column, protocol in enumerate(protocols):
        axes[0, column].set_title(TRANSFERS[protocol], fontsize=TITLE)
        axes[1, column].set_xlabel("lam, of use" if protocol == "dial kept" else "lam of the source")
    for panel in axes.flat:
        panel.grid(alpha=0.25)
        in_percent(panel.yaxis)
    axes[0, 0].set_ylabel("clean accuracy")
    axes[1, 0].set_ylabel(f"under AutoAttack, eps {eps}")
    entitle(figure, title)
    _one_legend(figure, axes[0, 0])
    saved(figure, path)


def _draw_source(axes: Axes, by_lam: Mapping[float, tuple[float, float, float]], color: str, label: str) -> None:
    """Draw a line with its interval; of a source without a dial a level."""
    has_dial = len(by_lam) > 1
    lams = list(by_lam) if has_dial else [0.0, 1.0]
    means, low, high = zip(*list(by_lam.values()) * (1 if has_dial else 2), strict=True)
    axes.plot(lams, means, color=color, label=label, **({"marker": "o"} if has_dial else {"linestyle": "--"}))
    axes.fill_between(lams, low, high, color=color, alpha=0.15, linewidth=0)
