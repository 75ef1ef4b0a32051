"""The pictures of comparisons: frontiers of several methods, and differences of variants to one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from art_oat.storage import replaced
from benchmarks.baselines import BASELINES
from benchmarks.frontiers import Arm, accuracies

STYLES = {"oat": ("#1b6ca8", "o", "one network, lam dialed"), "dedicated": ("#c0392b", "s", "a network for each lam")}


def plot(arms: Sequence[Arm], title: str, path: Path) -> None:
    """Draw clean against robust accuracy (AutoAttack), with standard errors, and robust accuracy against lam."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    against_each_other, against_lam = figure.subplots(1, 2)
    for name, (color, marker, label) in STYLES.items():
        own = [arm for arm in arms if (arm.name == "oat") == (name == "oat") and arm.name not in BASELINES]
        points = sorted(point for arm in own for point in _points(arm))
        if points:
            style = {"color": color, "marker": marker, "capsize": 2, "label": label}
            _draw(against_each_other, against_lam, points, style)
    for arm in arms:
        if arm.name in BASELINES:
            ((_, clean, clean_error, robust, robust_error),) = _points(arm)
            style = {
                "color": "0.35",
                "marker": BASELINES[arm.name].marker,
                "capsize": 2,
                "linestyle": "",
                "label": arm.name,
            }
            against_each_other.errorbar([robust], [clean], [clean_error], [robust_error], label=arm.name, **style)
    against_each_other.set(xlabel="robust accuracy (AutoAttack)", ylabel="clean accuracy")
    against_lam.set(xlabel="lam", ylabel="accuracy", title="solid: clean, dashed: AutoAttack", ylim=(0, 1.03))
    for axis in (against_each_other.xaxis, against_each_other.yaxis, against_lam.yaxis):
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # steps of 2.5% would be labeled as 2 and 3
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (against_each_other, against_lam):
        axes.grid(alpha=0.25)
    _widen(against_each_other)
    against_each_other.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    with replaced(path) as partial:
        figure.savefig(partial, dpi=150)


DIFFERENCES = {
    "clean difference": ("0.55", "s", "clean, mean over lams"),
    "robust difference": ("#1b6ca8", "o", "AutoAttack, mean over lams"),
    "robust difference at 1": ("#c0392b", "D", "AutoAttack, lam 1"),
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
    figure.get_axes()[0].legend(fontsize=8)
    with replaced(path) as partial:
        figure.savefig(partial, dpi=150)


def _widen(axes: Axes) -> None:
    """Show at least ten points of accuracy on either axis: noise must not look like a trend."""
    for limits, change in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        margin = max(0.1 - (limits[1] - limits[0]), 0) / 2
        excess = max(limits[1] + margin - 1.005, 0)  # nothing is above 100%
        change(limits[0] - margin - excess, limits[1] + margin - excess)


def _points(arm: Arm) -> list[tuple[float, float, float, float, float]]:
    """Per lam: lam, clean accuracy, its standard error, robust accuracy, its standard error."""
    shares, errors = accuracies(arm)
    lams = arm.lambdas if arm.name == "oat" else [float(arm.name.removeprefix("lam-"))] if "lam" in arm.name else [1.0]
    return [(lam, *(float(it[row, i]) for row in (0, -1) for it in (shares, errors))) for i, lam in enumerate(lams)]


def _draw(
    against_each_other: Axes,
    against_lam: Axes,
    points: Sequence[tuple[float, float, float, float, float]],
    style: dict[str, object],
) -> None:
    lams, clean, clean_errors, robust, robust_errors = zip(*points, strict=True)
    against_each_other.errorbar(robust, clean, clean_errors, robust_errors, linestyle=":", elinewidth=0.7, **style)
    for lam, x, y in zip(lams, robust, clean, strict=True):
        against_each_other.annotate(
            f"{lam:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, color=style["color"]
        )
    against_lam.errorbar(lams, clean, clean_errors, linestyle="-", **style)
    against_lam.errorbar(lams, robust, robust_errors, linestyle="--", **style)


SOURCES = {
    "oat": ("#1b6ca8", "one network, lam dialed"),
    "natural": ("#c0392b", "natural training"),
    "scratch": ("0.45", "random weights"),
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
        axes[0, column].set_title(TRANSFERS[protocol], fontsize=10)
        axes[1, column].set_xlabel("lam, of use" if protocol == "dial kept" else "lam of the source")
    for panel in axes.flat:
        panel.grid(alpha=0.25)
        panel.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set_ylabel("clean accuracy")
    axes[1, 0].set_ylabel(f"under AutoAttack, eps {eps}")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    with replaced(path) as partial:
        figure.savefig(partial, dpi=150)


def _draw_source(axes: Axes, by_lam: Mapping[float, tuple[float, float, float]], color: str, label: str) -> None:
    """Draw a line with its interval; of a source without a dial a level."""
    has_dial = len(by_lam) > 1
    lams = list(by_lam) if has_dial else [0.0, 1.0]
    means, low, high = zip(*list(by_lam.values()) * (1 if has_dial else 2), strict=True)
    axes.plot(lams, means, color=color, label=label, **({"marker": "o"} if has_dial else {"linestyle": "--"}))
    axes.fill_between(lams, low, high, color=color, alpha=0.15, linewidth=0)
