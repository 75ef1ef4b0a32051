"""One recipe at several seeds: trained and judged seed by seed, each in a folder, and brought together in one table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from art_oat.checks import refuse
from art_oat.evaluation import TradeoffCurve
from art_oat.evaluation.text import deciding_attack, percent
from art_oat.experiment.comparison import threat, written
from art_oat.experiment.ledger import Ledger
from art_oat.experiment.recipe import Recipe
from art_oat.fingerprint import differences, fingerprint
from art_oat.frontier import MeasuredPoint
from art_oat.numbers import seed_faults
from art_oat.table import Table, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST = 2


@dataclass(frozen=True)
class Spread:
    """Accuracies of one point over seeds, as fractions: means, and standard deviations of a sample (``n - 1``)."""

    lam: float
    width: float
    clean: float
    clean_std: float
    robust: float
    robust_std: float


@dataclass(frozen=True)
class Sweep(Tabular):
    """What was measured of one recipe at several seeds, at the same points by the same attacks.

    Args:
        curves: By seed, at least two.
    """

    curves: Mapping[int, TradeoffCurve]

    @classmethod
    def of(
        cls, recipe: Recipe, seeds: Sequence[int], folder: Path, judged: Callable[[Path, Recipe], TradeoffCurve]
    ) -> Self:
        """Train and judge at every seed, in ``folder/seed-0`` and so on.

        Args:
            recipe: Its own seed does not count.
            seeds: What the weights, the training and, of data that are not split, the split are drawn from.
            folder: Where the folders are made.
            judged: Trains in a folder by a recipe, unless it is done there already, and returns what it measured.

        Raises:
            ValueError: If there are fewer than two seeds, or one twice.
        """
        refuse([fault for seed in seeds for fault in seed_faults(seed)])
        if len(set(seeds)) != len(seeds) or len(seeds) < _FEWEST:
            raise ValueError(f"seed must hold at least {_FEWEST}, each once, such as --seed 0 1 2, got {[*seeds]}.")
        return cls({seed: judged(folder / f"seed-{seed}", replace(recipe, seed=seed)) for seed in seeds})

    @property
    def spreads(self) -> list[Spread]:
        """Mean and standard deviation of every point, the widest first, lams ascending."""
        found = []
        for point in sorted(next(iter(self.curves.values())).points, key=lambda point: (-point.width, point.lam)):
            alike = [it for it in self._points() if it.operating_point == point.operating_point]
            clean, robust = ([getattr(it, name) for it in alike] for name in ("clean", "robust"))
            shares = (f(it) for it in (clean, robust) for f in (np.mean, lambda its: np.std(its, ddof=1)))
            found.append(Spread(point.lam, point.width, *map(float, shares)))
        return found

    def _points(self) -> list[MeasuredPoint]:
        return [point for curve in self.curves.values() for point in curve.points]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per point: means and standard deviations over seeds, as fractions."""
        return [{"nb_seeds": len(self.curves), **vars(spread)} for spread in self.spreads]

    def as_table(self) -> Table:
        """Return the accuracies in percent."""
        spreads, point = self.spreads, self._points()[0]
        columns = {name: [f"{getattr(it, name):g}" for it in spreads] for name in ("lam", "width")}
        columns[f"clean ({point.nb_clean})"] = [percent(it.clean, it.clean_std) for it in spreads]
        columns[f"robust ({point.nb_robust})"] = [percent(it.robust, it.robust_std) for it in spreads]
        return Table(columns, f"Accuracy in percent, {self._how()}, {self._threat()}")

    def plot(self, path: str | Path | None = None, *, subject: str) -> Figure:
        """Draw the means as :meth:`TradeoffCurve.plot` draws accuracies, with standard deviations as bars."""
        from art_oat.evaluation.plots import Line, plot_tradeoff  # Matplotlib is slow to import

        lines = []
        for width, group in itertools.groupby(self.spreads, key=lambda it: it.width):
            every = [*group]
            names = ("lam", "clean", "clean_std", "robust", "robust_std")
            lines.append(Line(f"width {width:g}", *([getattr(it, name) for it in every] for name in names)))
        point = self._points()[0]
        counts = f"on {point.nb_robust} images, clean on {point.nb_clean}"
        title, attack = f"{subject}. {self._threat()} {counts}; {self._how()}", deciding_attack(self._points())
        return plot_tradeoff(lines, title=title, attack=attack, others={}, path=None if path is None else Path(path))

    def write(self, folder: Path, *, subject: str) -> list[Path]:
        """Write ``sweep.csv``, ``sweep.md`` and ``sweep.png``, and return their paths."""
        return written(folder / "sweep", self, self.rows(), partial(self.plot, subject=subject))

    def _how(self) -> str:
        return f"mean ± standard deviation (n - 1) over seeds {', '.join(map(str, self.curves))}"

    def _threat(self) -> str:
        return threat(next(iter(self.curves.values())))


def refuse_others(recipe: Recipe, seeds: Sequence[int], folder: Path) -> None:
    """Look at the folders of all seeds before the first is trained.

    Raises:
        FileExistsError: If one holds another training.
    """
    for seed in seeds:
        own = folder / f"seed-{seed}"
        kept, asked = Ledger(own / "run.json").settings("recipe"), fingerprint(replace(recipe, seed=seed).as_values())
        if kept and (why := differences(kept, asked)):
            raise FileExistsError(f"{own} holds another training: {why}. Name another --out, or add --overwrite.")
