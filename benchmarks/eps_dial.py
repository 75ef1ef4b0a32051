"""What lam should set: the weight of the adversarial loss, or the radius of the attack, at equal cost.

    python -m benchmarks.eps_dial --data digits                          # 40 minutes on one core
    python -m benchmarks.eps_dial --data cifar10 --data-folder FOLDER    # hours on one core

Two networks per seed and fold, alike but for ``Method(dials=...)``: the same epochs, lams, attack steps and start. Both
are judged by AutoAttack within a quarter, a half and all of the largest radius they are trained for, at every lam.
Beside the accuracies stand the areas that each dial covers (hypervolume), and their differences with 95% bootstrap
intervals, paired by image over all seeds. Results go to results/eps_dial_DATA.csv and eps_dial_DATA_summary.csv.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from art_oat import TradeoffCurve
from art_oat.attacks import format_eps, is_correct
from art_oat.evaluation import EvaluationOptions, ThreatModel
from benchmarks.arms import train
from benchmarks.comparison import SHARD_SIZE
from benchmarks.configs import Config, Part, asked
from benchmarks.frontiers import frontier
from benchmarks.statistics import bootstrap
from benchmarks.study import Found, data_options, run
from benchmarks.tables import Row

SHARES = (0.25, 0.5, 1.0)
"""Of the largest radius of the training."""

DIALS = ("weight", "eps")

Figure = Callable[[NDArray[np.float64], Sequence[float]], float]

FIGURES: dict[str, Figure] = {
    "hypervolume": lambda shares, lambdas: frontier(shares, lambdas).area((1 / 10, 0.0)),
    "robust, best lam": lambda shares, _: float(shares[1].max()),
    "robust, mean over lams": lambda shares, _: float(shares[1].mean()),
    "clean, mean over lams": lambda shares, _: float(shares[0].mean()),
}
"""What is said of a dial at one radius, by its shares, clean and robust ``[2, lams]``."""

Right = NDArray[np.float64]
"""Which answers are right, ``[clean and each radius, lams, seeds, N]``; NaN where not asked."""


def right(dials: str, config: Config, given: argparse.Namespace) -> Right:
    """Train the network of every seed and fold, and judge it."""
    radii = [share * config.recipe.method.eps for share in SHARES]
    parts = list(config.parts())
    nb_images = 1 + max(int(part.index.max()) for part in parts)
    found = np.full((1 + len(radii), len(config.recipe.lambdas), len(config.seeds), nb_images), np.nan)
    for part in parts:
        of_seed = found[:, :, config.seeds.index(part.seed)]
        attacked = config.attacked(part)
        for number, answers in enumerate(_judged(dials, config, part, given, radii)):
            of_seed[number][:, part.index[attacked]] = answers
    return found


def _judged(
    dials: str, config: Config, part: Part, given: argparse.Namespace, radii: list[float]
) -> list[NDArray[np.float64]]:
    """Return which of the attacked images are right, clean and within each radius, ``[lams, M]`` each."""
    folder = given.runs / f"{given.data}-{part.name}-{dials}"
    model = train(dials, config, part, folder).model
    classifier = config.recipe.classifier(model, part.data.input_shape, part.data.nb_classes)
    x, y = (values[config.attacked(part)] for values in part.data.test)
    images, labels = classifier.as_tensors(x, y)
    answers = [[is_correct(classifier.at(lam).as_module(), images, labels).cpu().numpy() for lam in model.lambdas]]
    for eps in radii:
        options = EvaluationOptions(SHARD_SIZE, state=folder / f"evaluation-{eps:.4g}")
        attack = config.judges[-1]
        curve = TradeoffCurve.measure(classifier, x, y, eps=ThreatModel(eps), attack=attack, options=options)
        print(curve, flush=True)
        answers.append([report.is_robust for report in curve.reports])
    return [np.array(it, dtype=float) for it in answers]


def rows(dials: str, found: Right, config: Config) -> list[Row]:
    """Return a row per lam, in percent of the attacked images."""
    shares, seeds = 100 * np.nanmean(found, axis=(2, 3)), 100 * np.nanmean(found, axis=3)
    names = ["clean", *(f"robust at {format_eps(share * config.recipe.method.eps)}" for share in SHARES)]
    result = []
    for place, lam in enumerate(config.recipe.lambdas):
        row: Row = {"dials": dials, "lam": f"{lam:g}"}
        for number, name in enumerate(names):
            row |= {name: f"{shares[number, place]:.2f}", f"{name}, range over seeds": _range(seeds[number, place])}
        result.append(row | {"images": int(np.isfinite(found[0, place]).sum())})
    return result


def _range(values: NDArray[np.float64]) -> str:
    return f"{values.min():.2f} to {values.max():.2f}"


def summary(by_dials: dict[str, Right], config: Config) -> list[Row]:
    """Return rows per radius: what the dial of eps gains over that of weights, in points, with intervals over images.

    An image that several seeds answer is one image: its mean over the seeds is one observation.
    """
    asked_for = np.isfinite(by_dials["weight"][0, 0]).any(axis=0)
    of_images = {dials: np.nanmean(found[..., asked_for], axis=2) for dials, found in by_dials.items()}
    every, result = np.ones(int(asked_for.sum()), dtype=np.int64), []
    for number, share in enumerate(SHARES, start=1):
        for name, figure in FIGURES.items():

            def values(counts: NDArray[np.int64], number: int = number, figure: Figure = figure) -> dict[str, float]:
                shares = {dials: found[[0, number]] @ counts / counts.sum() for dials, found in of_images.items()}
                return {dials: 100 * figure(it, config.recipe.lambdas) for dials, it in shares.items()}

            def gain(counts: NDArray[np.int64], values: Callable[..., dict[str, float]] = values) -> float:
                found = values(counts)
                return found["eps"] - found["weight"]

            low, high = bootstrap(gain, len(every), 1000)
            row: Row = {"eps": format_eps(share * config.recipe.method.eps), "figure": name}
            row |= {f"dial of {dials}": f"{value:.2f}" for dials, value in values(every).items()}
            result.append(row | {"gain": f"{gain(every):+.2f}", "95% interval": f"{low:+.2f} to {high:+.2f}"})
    return result


def measure(given: argparse.Namespace) -> Found:
    config = asked(given)
    config = replace(config, variants={dials: {"dials": dials} for dials in DIALS}, beyond=())
    by_dials = {dials: right(dials, config, given) for dials in DIALS}
    tables = {
        f"eps_dial_{given.data}": [row for dials, found in by_dials.items() for row in rows(dials, found, config)],
        f"eps_dial_{given.data}_summary": summary(by_dials, config),
    }
    return Found(tables, config.seeds)


if __name__ == "__main__":
    run("eps_dial", __doc__, measure, data_options("eps-dial"))
