"""Tables and labels about measured accuracies and costs, for people."""

from __future__ import annotations

from collections.abc import Sequence

from art_oat.attacks import display_name
from art_oat.evaluation.cost import readable
from art_oat.frontier import MeasuredPoint


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines of right-aligned columns, with a rule below the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def accuracy_table(points: Sequence[MeasuredPoint], latency_batch_size: int) -> list[str]:
    """Return a line per point: each accuracy in percent, with its standard error.

    Where there are several widths, it also says what each costs, as far as that is known.
    """
    columns = accuracy_columns(points)
    if len({point.width for point in points}) > 1:
        columns |= size_columns(points)
        columns |= _known({f"latency (batch {latency_batch_size})": readable([it.latency for it in points], "s")})
    return aligned([[*columns], *zip(*columns.values(), strict=True)])


def accuracy_columns(points: Sequence[MeasuredPoint], plus_minus: str = "+-") -> dict[str, list[str]]:
    """Return the columns of a table by their heads: where a point lies, and its accuracies in percent."""
    first = points[0]
    columns = {name: [f"{getattr(point, name):g}" for point in points] for name in ("lam", "width")}
    columns[f"clean ({first.nb_clean})"] = [_percent(point.clean, point.clean_error, plus_minus) for point in points]
    for name in first.by_attack:
        shares = [f"{100 * point.by_attack[name]:.1f}" for point in points]
        columns[f"{display_name(name)} ({first.nb_robust})"] = shares
    robust = [_percent(point.robust, point.robust_error, plus_minus) for point in points]
    return columns | {f"robust, worst case ({first.nb_robust})": robust}


def size_columns(points: Sequence[MeasuredPoint]) -> dict[str, list[str]]:
    """Return likewise how large the network of each point is, as far as that is known."""
    sizes = {"MACs": [point.macs for point in points], "parameters": [point.parameters for point in points]}
    return _known({name: readable(values, "") for name, values in sizes.items()})


def _percent(share: float, error: float, plus_minus: str) -> str:
    return f"{100 * share:.1f} {plus_minus} {100 * error:.1f}"


def _known(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: cells for name, cells in columns.items() if any(cells)}


def width_labels(points: Sequence[MeasuredPoint], batch_size: int) -> list[str]:
    """Write widths and what they cost, as far as that is known: ``width 0.5: 0.29 G MACs, 12 ms``."""
    macs = readable([point.macs for point in points], " MACs")
    latencies = readable([point.latency for point in points], "s" if batch_size == 1 else f"s for {batch_size} images")
    costs = [", ".join(filter(None, pair)) for pair in zip(macs, latencies, strict=True)]
    names = [f"width {point.width:g}" for point in points]
    return [": ".join(filter(None, pair)) for pair in zip(names, costs, strict=True)]


def deciding_attack(points: Sequence[MeasuredPoint]) -> str:
    """Say which attack the robust accuracy is that of."""
    for name in points[0].by_attack:
        if all(point.by_attack[name] == point.robust for point in points):
            return display_name(name)
    return "worst case of all attacks"
