"""Tables and labels about measured accuracies and costs, for people."""

from __future__ import annotations

from collections.abc import Sequence

from art_oat.attacks import display_name
from art_oat.evaluation.cost import readable
from art_oat.frontier import MeasuredPoint


def accuracy_columns(points: Sequence[MeasuredPoint]) -> dict[str, list[str]]:
    """Return the columns of a table by their heads: where a point lies, its accuracies in percent with standard errors.

    Where there are several widths, they also say how large the network of each is, as far as that is known.
    """
    first = points[0]
    columns = {name: [f"{getattr(point, name):g}" for point in points] for name in ("lam", "width")}
    columns[f"clean ({first.nb_clean})"] = [percent(point.clean, point.clean_error) for point in points]
    for name in first.by_attack:
        shares = [f"{100 * point.by_attack[name]:.1f}" for point in points]
        columns[f"{display_name(name)} ({first.nb_robust})"] = shares
    robust = [percent(point.robust, point.robust_error) for point in points]
    columns[f"robust, worst case ({first.nb_robust})"] = robust
    if len({point.width for point in points}) == 1:
        return columns
    sizes = {"MACs": [point.macs for point in points], "parameters": [point.parameters for point in points]}
    return columns | _known({name: readable(values, "") for name, values in sizes.items()})


def latency_columns(points: Sequence[MeasuredPoint], batch_size: int) -> dict[str, list[str]]:
    """Return likewise how long a batch takes, where there are several widths and that is known."""
    if len({point.width for point in points}) == 1:
        return {}
    return _known({f"latency (batch {batch_size})": readable([point.latency for point in points], "s")})


def percent(share: float, error: float) -> str:
    """Write a share with its standard error."""
    return f"{100 * share:.1f} ± {100 * error:.1f}"


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
