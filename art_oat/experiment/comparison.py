"""Runs beside each other: read from their folders, refused unless they were judged alike, as one table and figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from art_oat.attacks import display_name, format_eps
from art_oat.checks import refuse
from art_oat.evaluation import TradeoffCurve
from art_oat.evaluation.text import percent
from art_oat.experiment.ledger import Ledger
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.options import arguments
from art_oat.experiment.pretrained import folder_named
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.run import Run
from art_oat.frontier import MeasuredPoint
from art_oat.model_files import WEIGHTS
from art_oat.storage import read_rows, write_bytes, write_rows
from art_oat.table import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_IMAGES = "test images"


@dataclass(frozen=True)
class ComparedRun:
    """What is compared of a run.

    Attributes:
        name: As short as tells it from the other runs.
        folder: Where its files are.
        recipe: How it was trained.
        curve: What was measured of it.
        judged: By what it was judged, in words.
        measurement: What measured it.
        seconds: How long its epochs took, without validation; None where that is not known.
        nb_bytes: Size of its weights, for all lams and widths, as a file.
    """

    name: str
    folder: Path
    recipe: Recipe
    curve: TradeoffCurve
    judged: Mapping[str, str]
    measurement: Measurement
    seconds: float | None
    nb_bytes: int

    @property
    def points(self) -> list[MeasuredPoint]:
        """What was measured, the widest first, lams ascending."""
        return sorted(self.curve.points, key=lambda point: (-point.width, point.lam))


@dataclass(frozen=True)
class Comparison(Tabular):
    """Runs that were judged alike."""

    runs: tuple[ComparedRun, ...]

    @classmethod
    def of(cls, folders: Sequence[str | Path]) -> Self:
        """Read runs from their folders, or by the names of networks that come along; no code of a network is run.

        Raises:
            FileNotFoundError: If a folder holds no run.
            ValueError: If there is none, one is named twice or was not measured, or they were not judged alike: on the
                same images, by the same attacks in the same ball. Names every fault, and what to do.
        """
        paths = [folder_named(folder) for folder in folders]
        resolved = [path.resolve() for path in paths]
        refuse([] if paths else ["runs must name at least one folder, got none."])
        refuse([f"runs must be named once each, got {it} twice." for it in paths if resolved.count(it.resolve()) > 1])
        runs = [Run(path, lambda _: None, device_type="cpu") for path in paths]
        _ = [run.recipe for run in runs]  # first, so that a folder without a run is refused as such
        unmeasured = [run.folder for run in runs if run.curve is None]
        refuse([f"{it} must be measured first: art-oat evaluate {it}" for it in unmeasured])
        found = [_read(run, name) for run, name in zip(runs, names_of(resolved), strict=True)]
        refuse([_difference(found[0], run) for run in found[1:] if run.judged != found[0].judged])
        return cls(tuple(found))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per point of each run; accuracies are fractions with standard errors."""
        names = ("lam", "width", "clean", "clean_error", "robust", "robust_error", "nb_clean", "nb_robust")
        return [
            {"run": run.name, "network": run.recipe.network}
            | {name: getattr(point, name) for name in names}
            | {"seconds": run.seconds, "bytes": run.nb_bytes}
            for run in self.runs
            for point in run.points
        ]

    def as_table(self) -> Table:
        """Return one row per point of each run, with a title that says by what they were judged."""
        pairs = [(run, point) for run in self.runs for point in run.points]
        first = pairs[0][1]
        columns = {
            "run": [run.name for run, _ in pairs],
            "network": [run.recipe.network for run, _ in pairs],
            "lam": [f"{point.lam:g}" for _, point in pairs],
            "width": [f"{point.width:g}" for _, point in pairs],
            f"clean ({first.nb_clean})": [percent(point.clean, point.clean_error) for _, point in pairs],
            f"robust ({first.nb_robust})": [percent(point.robust, point.robust_error) for _, point in pairs],
            "training": ["" if run.seconds is None else f"{run.seconds:,.0f} s" for run, _ in pairs],
            "bytes": [f"{run.nb_bytes:,}" for run, _ in pairs],
        }
        notes = ["training: epochs without validation; bytes: weights of all lams and widths, as a file"]
        title = f"Accuracy in percent ± one standard error, {threat(self.runs[0].curve)}"
        return Table(columns if any(columns["training"]) else _without(columns, "training"), title, notes)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw what each run trades for what, a color for each, a column for each width.

        Args:
            path: Where to save the figure, as :meth:`TradeoffCurve.plot` takes it.
        """
        from art_oat.evaluation.comparison_plot import plot_comparison  # Matplotlib is slow to import

        first = self.runs[0]
        title = f"{Path(first.recipe.data).name}. {threat(first.curve)} on {first.points[0].nb_robust} images, "
        title += f"clean on {first.points[0].nb_clean}; numbers: lam; bars: one standard error"
        networks = {run.recipe.network for run in self.runs}
        labels = {it.name: it.name if len(networks) == 1 else f"{it.name} ({it.recipe.network})" for it in self.runs}
        points = {labels[run.name]: run.points for run in self.runs}
        return plot_comparison(points, title=title, path=None if path is None else Path(path))

    def write(self, folder: Path) -> list[Path]:
        """Write ``comparison.csv``, ``comparison.md`` and ``comparison.png``, and return their paths."""
        return written(folder / "comparison", self, self.rows(), self.plot)


def written(
    stem: Path, found: Tabular, rows: Sequence[Mapping[str, Any]], plot: Callable[[Path], object]
) -> list[Path]:
    """Write rows, a table and a picture to a path with the endings ``.csv``, ``.md`` and ``.png``; return the paths."""
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("csv", "md", "png")]
    write_rows(paths[0], rows, is_signed=True)
    write_bytes(paths[1], f"{found.to_markdown()}\n".encode())
    plot(paths[2])
    return paths


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return of each path, all different, the fewest last parts that no other ends with."""
    names = []
    for folder in folders:
        others = [it for it in folders if it != folder]
        depths = range(1, len(folder.parts) + 1)
        depth = next(it for it in depths if all(other.parts[-it:] != folder.parts[-it:] for other in others))
        names.append("/".join(folder.parts[-depth:]))
    return names


def _read(run: Run, name: str) -> ComparedRun:
    curve, settings = run.curve, Ledger(run.folder / "run.json").settings("measurement")
    assert curve is not None
    point = curve.points[0]
    try:
        measurement = Measurement.from_values(settings)
    except (TypeError, ValueError):  # of another version
        measurement = Measurement(attacks=tuple(point.by_attack), nb_robust=point.nb_robust)
    measurement = replace(measurement, eps=curve.eps, norm=curve.norm, lambdas=None, widths=None)
    is_part = point.nb_robust < point.nb_clean
    judged = {
        _IMAGES: f"{point.nb_clean} ({str(settings.get('data', 'not known'))[:8]})",
        "attacked images": f"{point.nb_robust}" + (f" (drawn by --seed {measurement.seed})" if is_part else ""),
        "eps": format_eps(curve.eps),
        "norm": curve.norm,
        "attacks": " and ".join(sorted(display_name(it) for it in point.by_attack)),
    }
    nb_bytes = (run.folder / WEIGHTS).stat().st_size
    return ComparedRun(name, run.folder, run.recipe, curve, judged, measurement, _seconds(run.folder), nb_bytes)


def _seconds(folder: Path) -> float | None:
    try:
        return sum(float(row["seconds"]) for row in read_rows(folder / "training.csv")) or None
    except (OSError, KeyError, TypeError, ValueError):  # none, or of another program
        return None


def _difference(first: ComparedRun, run: ComparedRun) -> str:
    """Say in what a run was judged otherwise than the first, and what to do."""
    parts = [f"{name} {run.judged[name]}, not {it}" for name, it in first.judged.items() if run.judged[name] != it]
    words = " ".join(arguments(first.measurement, Measurement()))
    remedy = f"Judge it likewise: art-oat evaluate {run.folder} {words}"
    if run.judged[_IMAGES] != first.judged[_IMAGES]:
        remedy = "Compare runs of the same data alone"
        seeds = first.recipe.seed, run.recipe.seed
        if first.recipe.data == run.recipe.data and seeds[0] != seeds[1]:
            remedy += f", split by the same seed: it was trained with --seed {seeds[1]}, the other with {seeds[0]}"
            remedy += "; art-oat sweep brings seeds together"
    return f"{run.name} must be judged as {first.name} is, but has {'; '.join(parts)}. {remedy}."


def threat(curve: TradeoffCurve) -> str:
    """Say by which attacks, within which ball, a curve was measured."""
    attacks = " and ".join(display_name(name) for name in curve.points[0].by_attack)
    return f"{attacks} at eps {format_eps(curve.eps)} ({curve.norm})"


def _without(columns: Mapping[str, Sequence[str]], name: str) -> dict[str, Sequence[str]]:
    return {head: cells for head, cells in columns.items() if head != name}
