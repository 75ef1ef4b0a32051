"""Dials that differ in what lam sets: how each is judged in several balls, and what one gains over another."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from art_oat import OATModel, TradeoffCurve
from art_oat.attacks import format_eps, is_correct
from art_oat.evaluation import EvaluationOptions, ThreatModel
from benchmarks.comparison import SHARD_SIZE
from benchmarks.configs import Config, Part
from benchmarks.frontiers import area
from benchmarks.statistics import bootstrap
from benchmarks.tables import Row

Right = NDArray[np.float64]
"""Which answers are right, ``[1 + balls, lams, seeds, N]``, clean and in each ball; NaN where not asked."""

Figure = Callable[[NDArray[np.float64], Sequence[float]], float]

FIGURES: dict[str, Figure] = {
    "hypervolume": area,
    "robust, best lam": lambda shares, _: float(shares[1].max()),
    "robust, mean over lams": lambda shares, _: float(shares[1].mean()),
    "clean, mean over lams": lambda shares, _: float(shares[0].mean()),
}
"""What is said of a dial in one ball, by its shares, clean and robust ``[2, lams]``."""


@dataclass(frozen=True)
class Judgment:
    """How every dial is judged.

    Attributes:
        config: What is compared; its last judge attacks.
        parts: What is trained on and judged.
        balls: Within which.
        in_all: Whether those answers count, too, that no attack in any ball breaks.
        nb_resamples: Of the images, for an interval.
    """

    config: Config
    parts: Sequence[Part]
    balls: Sequence[ThreatModel]
    in_all: bool = False
    nb_resamples: int = 1000

    @property
    def names(self) -> list[str]:
        """Of the balls, and of all of them together."""
        return [f"{format_eps(it.eps)} ({it.norm})" for it in self.balls] + ["all of them"] * self.in_all

    def right(self, networks: Iterable[tuple[OATModel, Path]]) -> Right:
        """Judge the network of every part, and keep what is finished in its folder."""
        nb_images = 1 + max(int(part.index.max()) for part in self.parts)
        shape = (1 + len(self.names), len(self._lambdas), len(self.config.seeds), nb_images)
        found = np.full(shape, np.nan)
        for part, (model, folder) in zip(self.parts, networks, strict=True):
            of_seed = found[:, :, self.config.seeds.index(part.seed)]
            attacked = self.config.attacked(part)
            for number, answers in enumerate(self._answers(model, part, folder)):
                of_seed[number][:, part.index[attacked]] = answers
        return found

    @property
    def _lambdas(self) -> tuple[float, ...]:
        return self.config.lambdas or self.config.recipe.lambdas

    def _answers(self, model: OATModel, part: Part, folder: Path) -> list[NDArray[np.float64]]:
        """Return which of the attacked images are right, clean and in each ball, ``[lams, M]`` each."""
        classifier = self.config.recipe.classifier(model, part.data.input_shape, part.data.nb_classes)
        x, y = (values[self.config.attacked(part)] for values in part.data.test)
        images, labels = classifier.as_tensors(x, y)
        views = [classifier.at(lam).as_module() for lam in self._lambdas]
        answers = [np.array([is_correct(view, images, labels).cpu().numpy() for view in views], dtype=float)]
        for ball in self.balls:
            options = EvaluationOptions(SHARD_SIZE, state=folder / f"evaluation-{ball.norm}-{ball.eps:.4g}")
            judge, lambdas = self.config.judges[-1], self._lambdas
            curve = TradeoffCurve.measure(classifier, x, y, eps=ball, attack=judge, lambdas=lambdas, options=options)
            print(curve, flush=True)
            answers.append(np.array([report.is_robust for report in curve.reports], dtype=float))
        return answers + ([np.minimum.reduce(answers[1:])] if self.in_all else [])

    def rows(self, dial: str, found: Right) -> list[Row]:
        """Return a row per lam, in percent of the attacked images."""
        shares, seeds = 100 * np.nanmean(found, axis=(2, 3)), 100 * np.nanmean(found, axis=3)
        names = ["clean", *(f"robust at {name}" for name in self.names)]
        result = []
        for place, lam in enumerate(self._lambdas):
            row: Row = {"dial": dial, "lam": f"{lam:g}"}
            for number, name in enumerate(names):
                row |= {name: f"{shares[number, place]:.2f}", f"{name}, range over seeds": _range(seeds[number, place])}
            result.append(row | {"images": int(np.isfinite(found[0, place]).sum())})
        return result

    def summary(self, by_dial: Mapping[str, Right], ours: str) -> list[Row]:
        """Return rows per ball: what one dial gains over each other, in points, with intervals over images.

        An image that several seeds answer is one image: its mean over the seeds is one observation.
        """
        asked_for = np.isfinite(by_dial[ours][0, 0]).any(axis=0)
        of_images = {dial: np.nanmean(found[..., asked_for], axis=2) for dial, found in by_dial.items()}
        every, result = np.ones(int(asked_for.sum()), dtype=np.int64), []
        for number, ball in enumerate(self.names, start=1):
            for name, figure in FIGURES.items():

                def value(dial: str, counts: NDArray[np.int64], number: int = number, figure: Figure = figure) -> float:
                    shares = of_images[dial][[0, number]] @ counts / counts.sum()
                    return 100 * figure(shares, self._lambdas)

                row: Row = {"ball": ball, "figure": name}
                row |= {f"dial of {dial}": f"{value(dial, every):.2f}" for dial in by_dial}
                for theirs in (dial for dial in by_dial if dial != ours):
                    row |= _gain(ours, theirs, value, (len(every), self.nb_resamples))
                result.append(row)
        return result


def _gain(ours: str, theirs: str, value: Callable[[str, NDArray[np.int64]], float], sizes: tuple[int, int]) -> Row:
    """Return a difference and its interval; the sizes are how many images there are, and how often they are drawn."""

    def gain(counts: NDArray[np.int64]) -> float:
        return value(ours, counts) - value(theirs, counts)

    low, high = bootstrap(gain, *sizes)
    name = f"gain over {theirs}"
    return {name: f"{gain(np.ones(sizes[0], dtype=np.int64)):+.2f}", f"{name}, 95%": f"{low:+.2f} to {high:+.2f}"}


def _range(values: NDArray[np.float64]) -> str:
    return f"{values.min():.2f} to {values.max():.2f}"
