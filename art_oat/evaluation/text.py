"""Owns the table that a person reads."""

from __future__ import annotations

from art_oat.evaluation.cost import readable
from art_oat.evaluation.suite import display_name
from art_oat.evaluation.tradeoff import TradeoffCurve


def table(curve: TradeoffCurve) -> str:
    """Return a trade-off as text: a row per operating point, each accuracy with its standard error in percent.

    Where there are several widths, it also says what each costs, as far as that is known.
    """
    columns = {**_dials(curve), **_accuracies(curve)}
    if len({point.width for point in curve.points}) > 1:
        columns |= _costs(curve)
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *_savings(curve)])


def _savings(curve: TradeoffCurve) -> list[str]:
    """Say how many attacks were not needed; nothing of a curve that was read from a file."""
    nb_broken = sum(int((report.is_clean & ~report.is_robust).sum()) for report in curve.reports)
    nb_carried = sum(report.nb_carried for report in curve.reports)
    if not nb_carried:
        return []
    return [
        "",
        f"{nb_carried} of {nb_broken} broken answers needed no attack: an example from another point breaks them.",
    ]


def _dials(curve: TradeoffCurve) -> dict[str, list[str]]:
    return {name: [f"{getattr(point, name):g}" for point in curve.points] for name in ("lam", "width")}


def _accuracies(curve: TradeoffCurve) -> dict[str, list[str]]:
    points, first = curve.points, curve.points[0]
    columns = {f"clean ({first.nb_clean})": [_percent(p.clean, p.clean_error) for p in points]}
    for name in first.by_attack:
        columns[f"{display_name(name)} ({first.nb_robust})"] = [f"{100 * p.by_attack[name]:.1f}" for p in points]
    columns[f"robust, worst case ({first.nb_robust})"] = [_percent(p.robust, p.robust_error) for p in points]
    return columns


def _percent(share: float, error: float) -> str:
    return f"{100 * share:.1f} +- {100 * error:.1f}"


def _costs(curve: TradeoffCurve) -> dict[str, list[str]]:
    columns = {
        "MACs": readable([point.macs for point in curve.points], ""),
        "parameters": readable([point.parameters for point in curve.points], ""),
        f"latency (batch {curve.latency_batch_size})": readable([point.latency for point in curve.points], "s"),
    }
    return {name: cells for name, cells in columns.items() if any(cells)}
