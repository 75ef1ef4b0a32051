"""Tables and figure of ``docs/scale.md``, from what ``scale.py`` kept."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from art_oat.evaluation.plots import saved
from art_oat.evaluation.style import BLUE, GREEN, PURPLE, SMALL, VERMILLION, entitle, whole_range
from art_oat.storage import read_rows
from benchmarks import pages
from benchmarks.tables import RESULTS

Kept = dict[str, str]

COLORS = {"convnext-t, n-fgsm": BLUE, "convnext-t, apgd-2": GREEN, "wrn-28-10, pgd-7": VERMILLION}
COLORS |= {"resnet-18, n-fgsm": PURPLE}
STYLES = {"8 x 400 Gb/s": "-", "1 x 100 Gb/s": ":"}


def tables() -> dict[str, str]:
    """Return the tables of the page, by name."""
    flops, messages = (read_rows(RESULTS / f"scale_{name}.csv") for name in ("flops", "messages"))
    of_flops = ("network", "attack", "GFLOP, clean", "GFLOP, attacked", "GFLOP per image", "calls per step")
    of_messages = ("network", "loads", "norms", "messages", "bytes", "of the largest", "gathered objects")
    costs, limits = cost_rows(), limit_rows()
    return {
        "flops": pages.markdown(flops, of_flops, nb_words=2),
        "cost": pages.markdown(costs, [*costs[0]], nb_words=2),
        "messages": pages.markdown(messages, of_messages, nb_words=3),
        "limits": pages.markdown(limits, [*limits[0]], nb_words=2),
    }


def write_tables(page: Path) -> None:
    """Put what was measured into the page."""
    pages.write_tables(page, tables())


def cost_rows() -> list[dict[str, str]]:
    """Return what trainings cost on H100s, at each utilization."""
    rows = [row for row in read_rows(RESULTS / "scale_cost.csv") if row["accelerator"].startswith("H100")]
    found = []
    for (attack, what), group in groupby(rows, lambda row: (row["attack"], row["what"])):
        same = list(group)
        middle = same[len(same) // 2]
        found.append(
            {
                "attack": attack,
                "trained": what,
                "GFLOP per image": middle["GFLOP per image"],
                "times OAT": middle["times OAT"],
                **{f"hours at {row['utilization']}": row["hours"] for row in same},
                f"GPU-hours at {middle['utilization']}": middle["GPU-hours"],
                "dollars": f"{same[-1]['dollars from']} to {same[0]['dollars to']}",
            }
        )
    return found


def limit(rows: Sequence[Kept], least: float) -> str:
    """Return the largest number of GPUs up to which every one of ascending rows is so efficient; none, "under 8"."""
    good = 0
    while good < len(rows) and float(rows[good]["efficiency"]) >= least:
        good += 1
    return rows[good - 1]["GPUs"] if good else f"under {rows[0]['GPUs']}"


def limit_rows() -> list[dict[str, str]]:
    """Return up to how many GPUs trainings are efficient, for each way to connect and to load."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for same in lines():
        first = same[0]
        name = f"{first['network']}, {first['attack']}"
        row = found.setdefault((name, first["scaling"]), {"network": name, "scaling": first["scaling"]})
        cell = " / ".join(limit(same, least) for least in (0.9, 0.5))
        row[f"{first['between machines']}, loads {first['loads']}"] = f"{cell}, {same[-1]['most lost to']}"
    return list(found.values())


def lines(norms: str = "own") -> list[list[Kept]]:
    """Return what is kept of efficiency, in lines of ascending numbers of GPUs."""
    rows = [row for row in read_rows(RESULTS / "scale_efficiency.csv") if row["norms"] == norms]
    keys = ("network", "attack", "scaling", "between machines", "loads")
    return [list(group) for _, group in groupby(rows, lambda row: [row[key] for key in keys])]


def plot(path: Path) -> None:
    """Draw efficiency against GPUs, a panel per way of scaling."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    kept = lines()
    scalings = list(dict.fromkeys(line[0]["scaling"] for line in kept))
    panels = figure.subplots(2, len(scalings), sharex=True, sharey=True)
    for row, loads in zip(panels, ("its own", "all"), strict=True):
        for axes, scaling in zip(row, scalings, strict=True):
            for line in kept:
                if (line[0]["scaling"], line[0]["loads"]) == (scaling, loads):
                    _draw(axes, line)
            axes.set(title=scaling, xscale="log")
            whole_range(axes)
            axes.set_xticks([int(it["GPUs"]) for it in kept[0]], [it["GPUs"] for it in kept[0]], minor=False)
            axes.minorticks_off()
            for level in (0.9, 0.5):
                axes.axhline(level, color="0.6", linewidth=0.8)
    for axes in panels[-1]:
        axes.set_xlabel("GPUs")
    for axes, loads in zip(panels[:, 0], ("its own", "all"), strict=True):
        axes.set_ylabel(f"efficiency (each loads {loads})")
    for name, style in STYLES.items():
        panels[0, 0].plot([], [], style, color="0.3", label=f"{name} between machines")
    entitle(figure, "Efficiency against GPUs, computed from measured FLOPs and messages, not timed; gray: 90% and 50%")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=SMALL)
    saved(figure, path)


def _draw(axes: Axes, line: list[Kept]) -> None:
    name, fabric = f"{line[0]['network']}, {line[0]['attack']}", line[0]["between machines"]
    label = name if STYLES[fabric] == "-" else None
    counts, found = ([float(row[key]) for row in line] for key in ("GPUs", "efficiency"))
    axes.plot(counts, found, STYLES[fabric], color=COLORS.get(name, "0.3"), marker="o", markersize=3, label=label)
