"""The charts of a page: which values of a run they show, and what a pointer is told of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from art_oat.attacks import display_name, format_eps
from art_oat.frontier import MeasuredPoint
from art_oat.report.charts import SHARES, Axis, Line, Mark, line_chart
from art_oat.report.collect import RadiusLine, Report

_NB_KINDS = 7


def percent(share: float, error: float | None = None) -> str:
    """Return a share in percent, with its standard error where there is one."""
    return f"{100 * share:.1f}%" + ("" if error is None else f" ± {100 * error:.1f}")


def points_at(report: Report, width: float) -> list[MeasuredPoint]:
    """Return what was measured at a width, lams ascending."""
    points = () if report.curve is None else report.curve.points
    return sorted((point for point in points if point.width == width), key=lambda point: point.lam)


def by_lam(report: Report, width: float) -> Markup:
    """Draw clean and robust accuracy over the stops of the dial."""
    points, stops = points_at(report, width), report.lams
    places = np.interp([point.lam for point in points], stops, range(len(stops)))
    pairs = list(zip(points, places, strict=True))
    clean = [Mark(at, it.clean, _told(it), y_error=it.clean_error, dials=(it.lam, it.width)) for it, at in pairs]
    robust = [Mark(at, it.robust, _told(it), y_error=it.robust_error, dials=(it.lam, it.width)) for it, at in pairs]
    ticks = [(float(place), f"{point.lam:g}") for point, place in pairs]
    ends = (0, len(stops) - 1) if len(stops) > 1 else (-1, 1)
    across = Axis("lam (evenly spaced between the measured ones)" if len(stops) > 1 else "lam", *ends, ticks)
    lines = [Line("clean", "clean", clean), Line("robust", "attacked", robust)]
    title = f"Clean and robust accuracy over lam at width {width:g}"
    return line_chart(lines, across, Axis("accuracy", 0, 1, SHARES), title=title, has_cursor=len(stops) > 1)


def against_each_other(report: Report, width: float) -> Markup:
    """Draw robust against clean accuracy."""
    points, every = points_at(report, width), [] if report.curve is None else report.curve.points
    marks = [
        Mark(
            it.clean,
            it.robust,
            _told(it),
            x_error=it.clean_error,
            y_error=it.robust_error,
            label=f"lam {it.lam:g}",
            dials=(it.lam, it.width),
        )
        for it in points
    ]
    across = [it.clean + sign * it.clean_error for it in every for sign in (-1, 1)]
    up = [it.robust + it.robust_error for it in every]
    axes = Axis.of("clean accuracy", across), Axis.of("robust accuracy", up, low=0.0)
    title = f"Robust against clean accuracy at width {width:g}, by lam"
    return line_chart([Line("", "s1", marks)], *axes, title=title, names_lines=False)


def _told(point: MeasuredPoint) -> str:
    lines = [
        f"lam {point.lam:g}, width {point.width:g}",
        f"clean {percent(point.clean, point.clean_error)} ({point.nb_clean} images)",
        f"robust {percent(point.robust, point.robust_error)} ({point.nb_robust} images)",
        *(f"{display_name(name)} alone leaves {percent(share)}" for name, share in point.by_attack.items()),
    ]
    return "\n".join(lines)


def over_eps(report: Report, width: float) -> Markup:
    """Draw what the quick attack leaves right as its radius grows, a line per lam."""
    own = [line for line in report.radii if line.width == width]
    lines = [Line(f"lam {it.lam:g}", f"s{number % _NB_KINDS}", _marks(it)) for number, it in enumerate(own)]
    lines += [
        Line("", f"s{number % _NB_KINDS} measured", [Mark(report.eps, it.robust, _told(it), y_error=it.robust_error)])
        for number, line in enumerate(own)
        for it in points_at(report, width)
        if it.lam == line.lam
    ]
    ticks = [(eps, format_eps(eps)) for eps in own[0].radii]
    which = "trained" if report.curve is None else "measured"
    across = Axis(f"eps ({report.norm}); {which} at {format_eps(report.eps)}", 0, own[0].radii[-1], ticks)
    title = f"Accuracy under a quick attack over its radius at width {width:g}"
    return line_chart(lines, across, Axis("accuracy under PGD-20", 0, 1, SHARES), title=title)


def _marks(line: RadiusLine) -> list[Mark]:
    errors = [(share * (1 - share) / line.nb_images) ** 0.5 for share in line.shares]
    return [
        Mark(eps, share, f"lam {line.lam:g}, eps {format_eps(eps)}\n{percent(share, error)}", y_error=error)
        for eps, share, error in zip(line.radii, line.shares, errors, strict=True)
    ]


def learning(report: Report) -> list[tuple[str, Markup]]:
    """Draw what ``training.csv`` holds: the loss, accuracies on training batches, and those on validation images."""
    validation = [(f"lam {lam:g}", f"s{number % _NB_KINDS}", f"@{lam:g}") for number, lam in enumerate(report.trained)]
    charts = {
        "Loss": [("loss", "s0", "loss")],
        "Accuracy on training batches, at the lams drawn": [
            ("clean", "clean", "clean"),
            ("attacked", "attacked", "robust"),
        ],
        "Clean accuracy on validation images": [(name, kind, f"val_clean{at}") for name, kind, at in validation],
        "Robust accuracy on validation images": [(name, kind, f"val_robust{at}") for name, kind, at in validation],
    }
    found = []
    for title, columns in charts.items():
        lines = [line for column in columns if (line := _over_epochs(report, *column)).marks]
        values = [mark.y for line in lines for mark in line.marks]
        if len({mark.x for line in lines for mark in line.marks}) > 1:
            epochs = Axis.of("epoch", [row["epoch"] or 0 for row in report.training], is_share=False)
            up = Axis.of("loss", values, is_share=False) if title == "Loss" else Axis("accuracy", 0, 1, SHARES)
            found.append((title, line_chart(lines, epochs, up, title=title, names_lines=len(lines) > 1)))
    return found


def _over_epochs(report: Report, name: str, kind: str, column: str) -> Line:
    marks = []
    for row in report.training:
        value, epoch = row.get(column), row.get("epoch")
        if value is not None and epoch is not None:
            shown = f"{value:.3g}" if column == "loss" else percent(value)
            marks.append(Mark(epoch, value, f"epoch {epoch:g}, {name}: {shown}"))
    return Line(name, f"{kind} plain", marks)


def measured_with(report: Report) -> str:
    """Say in a sentence what the robust accuracy is."""
    assert report.curve is not None
    point = report.curve.points[0]
    names = " and ".join(display_name(name) for name in point.by_attack) or "attacks"
    return (
        f"Robust is what {names} left right on {point.nb_robust} test images; clean is on {point.nb_clean}. "
        "Bars are one standard error."
    )


def headline(report: Report) -> str:
    """Say in a sentence what turning the dial changes, at the largest width."""
    points: Sequence[MeasuredPoint] = points_at(report, report.widths[0])
    if not points:
        return "Trained, and not measured."
    first, last = points[0], points[-1]
    if first == last:
        return f"At lam {first.lam:g}: {percent(first.clean)} clean, {percent(first.robust)} under attack."
    return (
        f"From lam {first.lam:g} to {last.lam:g}, the same weights go from {percent(first.clean)} to "
        f"{percent(last.clean)} clean, and from {percent(first.robust)} to {percent(last.robust)} under attack."
    )
