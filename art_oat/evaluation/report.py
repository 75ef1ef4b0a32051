"""Owns the table that a person reads."""

from __future__ import annotations

from art_oat.evaluation.robustness import display_name
from art_oat.evaluation.tradeoff import TradeoffCurve


def table(curve: TradeoffCurve) -> str:
    """Return a trade-off as text: a row per operating point, each accuracy with its standard error in percent."""
    first = curve.points[0]
    header = ["lam", "width", f"clean ({first.nb_clean})"]
    header += [f"{display_name(name)} ({first.nb_robust})" for name in first.by_attack]
    header += [f"robust, worst case ({first.nb_robust})"]
    rows = [header]
    for point in curve.points:
        attacks = [f"{100 * point.by_attack[name]:.1f}" for name in first.by_attack]
        worst = f"{100 * point.robust:.1f} +- {100 * point.robust_error:.1f}"
        clean = f"{100 * point.clean:.1f} +- {100 * point.clean_error:.1f}"
        rows.append([f"{point.lam:g}", f"{point.width:g}", clean, *attacks, worst])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
