"""One network for all lams against a dedicated network for each, and against the baselines of ART.

    python -m benchmarks.tradeoff --data digits                          # 90 minutes on one core
    python -m benchmarks.tradeoff --data cifar10 --data-folder FOLDER    # 110 minutes on one core
    python -m benchmarks.tradeoff --data cifar10 --config resnet18 --data-folder FOLDER    # full size: one GPU
    python -m benchmarks.tradeoff --data digits --check                  # what the README says of the results
    python -m benchmarks.tradeoff --data digits --smoke                  # a minute; writes nothing

Every network is trained by the same runner (``methods.py``) from the same initial weights, with the same optimizer,
schedule, augmentation, batch size and attack; the dedicated network of a lam is plain, and its loss is mixed at that
lam for every sample. What is trained, and every cohort that is judged, is kept in --runs: the same command goes on.

Judged by PGD-20 and AutoAttack (standard) at the radius of the training, in the network's last epoch. Differences are
paired by image; intervals are 95% bootstrap intervals over images. Hypervolumes are measured from (1 / K, 0). Times are
processor seconds on a CPU (one thread, whatever else runs) and wall seconds on a GPU.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from art_oat import Frontier, MeasuredPoint, OATModel, TradeoffCurve
from art_oat.attack import is_correct
from art_oat.evaluation.tradeoff import subset
from benchmarks.configs import CONFIGS, Config, Part
from benchmarks.figures import plot
from benchmarks.methods import Trained, methods, train
from benchmarks.record import RESULTS, environment, read, text, write

NB_RESAMPLES = 2000
COHORT_SIZE = 500
Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """A method on all seeds.

    Attributes:
        name: Of the method.
        lambdas: Where it was judged.
        right: Which images are answered right: clean, then under every judge, per lam, seed and image,
            ``[1 + judges, lams, seeds, images]``; NaN where one was not asked.
        seconds: Of training, a mean over the seeds; of all folds together.
        nb_bytes: Of weights.
    """

    name: str
    lambdas: tuple[float, ...]
    right: Shares
    seconds: float
    nb_bytes: int


def judge(model: OATModel, config: Config, part: Part, folder: Path, nb_workers: int) -> tuple[Shares, Shares]:
    """Return which test images are right ``[lams, N]``, and which of the attacked stand ``[judges, lams, M]``."""
    kept = folder / "judged.npz"
    if not kept.exists():
        classifier = config.recipe.classifier(model, part.data)
        x, y = classifier.as_tensors(*part.data.test)
        clean = [is_correct(classifier.at(lam).as_module(), x, y).cpu().numpy() for lam in model.lambdas]
        curve = TradeoffCurve.measure(
            classifier,
            *part.data.test,
            eps=config.recipe.eps,
            norm=config.recipe.norm,
            attack=config.judges,
            nb_robust=config.nb_robust,
            cohort_size=COHORT_SIZE,
            state=folder / "evaluation",
            nb_workers=nb_workers,
        )
        stands = [[it.is_robust for it in curve.reports if it.attack == name] for name in config.judges]
        for report in curve.reports:
            print(report, flush=True)
        np.savez(kept, clean=np.array(clean, dtype=float), robust=np.array(stands, dtype=float))
    with np.load(kept) as file:
        return file["clean"], file["robust"]


def study(config: Config, names: Sequence[str], runs: Path, nb_workers: int) -> list[Arm]:
    """Train and judge every method on every seed."""
    parts = list(config.parts())
    trained = {name: [train(name, config, part, runs / part.name / name) for part in parts] for name in names}
    return [_arm(name, config, parts, found, runs, nb_workers) for name, found in trained.items()]


def _arm(
    name: str, config: Config, parts: Sequence[Part], trained: Sequence[Trained], runs: Path, nb_workers: int
) -> Arm:
    lambdas = trained[0].model.lambdas
    nb_images = 1 + max(int(part.index.max()) for part in parts)
    right = np.full((1 + len(config.judges), len(lambdas), len(config.seeds), nb_images), np.nan)
    for part, result in zip(parts, trained, strict=True):
        clean, robust = judge(result.model, config, part, runs / part.name / name, nb_workers)
        seed = config.seeds.index(part.seed)
        of_seed = right[:, :, seed]
        of_seed[0][:, part.index] = clean
        of_seed[1:][..., part.index[subset(part.data.test.y, config.nb_robust, 0)]] = robust
    seconds = sum(_seconds(it) for it in trained) / len(config.seeds)
    return Arm(name, lambdas, right, seconds, trained[0].nb_bytes)


def _seconds(trained: Trained) -> float:
    """Return processor time where that is the time that counts, else wall time."""
    return trained.seconds if torch.cuda.is_available() or trained.cpu_seconds is None else trained.cpu_seconds


def frontier(shares: NDArray[np.float64], lambdas: Sequence[float]) -> Frontier:
    """Return points from accuracies ``[1 + judges, lams]``: clean, and by the last judge."""
    points = zip(lambdas, shares[0], shares[-1], strict=True)
    return Frontier(tuple(MeasuredPoint(lam, 1.0, float(c), float(r), 1, 1) for lam, c, r in points))


def robust_at(points: Frontier, clean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the robust accuracy at clean accuracies, on straight lines between the points that no other beats.

    Left of the first, where clean accuracy is lower than any, it is the largest; right of the last there is none.
    """
    best: list[MeasuredPoint] = []
    for point in sorted(points.points, key=lambda point: (-point.clean, -point.robust)):
        if not best or point.robust > best[-1].robust:
            best.append(point)
    best.reverse()
    values = np.interp(clean, [point.clean for point in best], [point.robust for point in best])
    return np.where(clean <= best[-1].clean, values, np.nan)


def largest_gap(ours: Frontier, theirs: Frontier) -> float:
    """Return by how much the other frontier is ahead at most, in robust accuracy at equal clean accuracy.

    Over all clean accuracies that both reach; negative where it is behind everywhere.
    """
    lowest = min(point.clean for it in (ours, theirs) for point in it.points)
    highest = min(max(point.clean for point in it.points) for it in (ours, theirs))
    clean = np.unique([*np.linspace(lowest, highest, 1001), *(p.clean for it in (ours, theirs) for p in it.points)])
    clean = clean[clean <= highest]
    return float(np.max(robust_at(theirs, clean) - robust_at(ours, clean)))


def joined(arms: Sequence[Arm]) -> Arm:
    """Take the dedicated networks together: one point each, the sum of their times and sizes."""
    right = np.concatenate([arm.right for arm in arms], axis=1)
    lambdas = tuple(float(arm.name.removeprefix("lam-")) for arm in arms)
    return Arm("dedicated", lambdas, right, sum(arm.seconds for arm in arms), sum(arm.nb_bytes for arm in arms))


def resampled(ours: Arm, theirs: Arm, figure: Callable[[Shares, Shares], float]) -> dict[str, str]:
    """Return a figure made of mean accuracies ``[1 + judges, lams]``, with a 95% bootstrap interval over images."""
    generator = np.random.default_rng(0)
    nb_images = ours.right.shape[-1]
    sums = [(np.nansum(arm.right, axis=2), np.isfinite(arm.right).sum(axis=2)) for arm in (ours, theirs)]
    draws = []
    for draw in range(NB_RESAMPLES + 1):
        counts = np.bincount(generator.integers(nb_images, size=nb_images), minlength=nb_images) if draw else 1
        draws.append(figure(*((total * counts).sum(axis=-1) / (asked * counts).sum(axis=-1) for total, asked in sums)))
    low, high = np.percentile(draws[1:], (2.5, 97.5))
    return {"value": f"{draws[0]:.4f}", "low": f"{low:.4f}", "high": f"{high:.4f}"}


def summary(ours: Arm, theirs: Arm, nb_classes: int) -> list[dict[str, str]]:
    """Compare two frontiers, both judged at the same lams."""
    corner = (1 / nb_classes, 0.0)

    def area(shares: Shares) -> float:
        return frontier(shares, ours.lambdas).area(corner)

    figures: dict[str, Callable[[Shares, Shares], float]] = {
        "hypervolume, one network": lambda a, _: area(a),
        "hypervolume, dedicated networks": lambda _, b: area(b),
        "hypervolume ratio": lambda a, b: area(a) / area(b),
        "largest gap at equal clean accuracy": lambda a, b: largest_gap(
            frontier(a, ours.lambdas), frontier(b, ours.lambdas)
        ),
        "clean difference, mean over lams": lambda a, b: float((a[0] - b[0]).mean()),
        "robust difference, mean over lams": lambda a, b: float((a[-1] - b[-1]).mean()),
    }
    for place, lam in enumerate(ours.lambdas):
        for row, what in ((0, "clean"), (-1, "robust")):
            figures[f"{what} difference at lam {lam:g}"] = lambda a, b, row=row, place=place: float(
                a[row, place] - b[row, place]
            )
    ratios = {
        "ratio of training times": ours.seconds / theirs.seconds,
        "ratio of weights": ours.nb_bytes / theirs.nb_bytes,
    }
    measured = [{"figure": name, **resampled(ours, theirs, figure)} for name, figure in figures.items()]
    return measured + [{"figure": name, "value": f"{ratio:.4f}"} for name, ratio in ratios.items()]


def rows(arms: Sequence[Arm], config: Config) -> list[dict[str, object]]:
    """Return the table: a row per method and lam, accuracies in percent with their standard errors over answers."""
    what = methods(config.recipe.lambdas)
    result: list[dict[str, object]] = []
    for arm in arms:
        shares, asked = np.nanmean(arm.right, axis=(2, 3)), np.isfinite(arm.right).sum(axis=(2, 3))
        errors = 100 * np.sqrt(shares * (1 - shares) / asked)
        for place, lam in enumerate(arm.lambdas):
            row: dict[str, object] = {"method": arm.name, "lam": f"{lam:g}", "what": what[arm.name]}
            for index, name in enumerate(("clean", *config.judges)):
                row |= {name: f"{100 * shares[index, place]:.2f}", f"{name} s.e.": f"{errors[index, place]:.2f}"}
            row |= {"answers": asked[0, place], "answers attacked": asked[-1, place]}
            seconds = arm.seconds / (config.nb_folds or 1)
            result.append(row | {"training seconds": f"{seconds:.0f}", "bytes": arm.nb_bytes})
    return result


@dataclass(frozen=True)
class Claim:
    """Something that the README says of a result; ``figure`` is a row of the summary, of which both bounds hold."""

    figure: str
    low: float = -math.inf
    high: float = math.inf

    def is_kept(self, figures: Mapping[str, float]) -> bool:
        """Whether the figure lies within the bounds."""
        return self.low <= figures[self.figure] <= self.high


CLAIMS: Mapping[tuple[str, str], Sequence[Claim]] = {
    ("digits", "small"): (Claim("hypervolume ratio", low=0.98), Claim("ratio of training times", high=1 / 3)),
}


def check(data: str, name: str) -> bool:
    """Compare the kept summary with what the README says; say which claims hold."""
    figures = {row["figure"]: float(row["value"]) for row in read(_path(data, name, "_summary"))}
    for claim in CLAIMS[data, name]:
        verdict = "holds" if claim.is_kept(figures) else "FAILS"
        print(f"{verdict}: {claim.figure} in [{claim.low:.4g}, {claim.high:.4g}], measured {figures[claim.figure]:.4g}")
    return all(claim.is_kept(figures) for claim in CLAIMS[data, name])


def _path(data: str, name: str, ending: str = "") -> Path:
    return RESULTS / f"tradeoff_{data}_{name}{ending}.csv"


def run(config: Config, names: Sequence[str], runs: Path, nb_workers: int) -> tuple[list[Arm], list[dict[str, str]]]:
    """Train and judge; return every method, and the comparison of the frontiers where all of it is there."""
    arms = study(config, names, runs, nb_workers)
    by_name = {arm.name: arm for arm in arms}
    dedicated = [by_name[name] for lam in config.recipe.lambdas if (name := f"lam-{lam:g}") in by_name]
    is_whole = "oat" in by_name and len(dedicated) == len(config.recipe.lambdas)
    print(text([{key: row[key] for key in row if key != "what"} for row in rows(arms, config)]))
    return arms, summary(by_name["oat"], joined(dedicated), 10) if is_whole else []


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted({data for data, _ in CONFIGS}), default="digits")
    parser.add_argument("--config", choices=sorted({name for _, name in CONFIGS}), default="small")
    parser.add_argument("--data-folder", help="where CIFAR-10 lies")
    parser.add_argument("--methods", nargs="+", help="those of methods.py; the one network and the dedicated ones")
    parser.add_argument("--runs", type=Path, default=Path("runs/tradeoff"), help="keeps what is finished")
    parser.add_argument("--nb-workers", type=int, default=1, help="cohorts to judge at once")
    parser.add_argument("--check", action="store_true", help="compare the kept results with the README")
    parser.add_argument("--smoke", action="store_true", help="one epoch, a few images, nothing written")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.check:
        sys.exit(not check(given.data, given.config))
    config = CONFIGS[given.data, given.config].in_folder(given.data_folder)
    names = given.methods or ["oat", *(f"lam-{lam:g}" for lam in config.recipe.lambdas)]
    if given.smoke:
        with tempfile.TemporaryDirectory() as scratch:
            run(config.shortened(), names, Path(scratch), given.nb_workers)
        return
    arms, compared = run(config, names, given.runs / f"{given.data}-{given.config}", given.nb_workers)
    folder = "" if given.data_folder is None else " --data-folder FOLDER"
    more = "" if given.methods is None else f" --methods {' '.join(given.methods)}"
    command = f"python -m benchmarks.tradeoff --data {given.data} --config {given.config}{folder}{more}"
    made_by = environment(command, config.seeds)
    write(_path(given.data, given.config), rows(arms, config), made_by)
    if compared:
        print(text(compared))
        write(_path(given.data, given.config, "_summary"), compared, made_by)
    plot(arms, f"{given.data}, {given.config}", RESULTS / f"tradeoff_{given.data}_{given.config}.png")


if __name__ == "__main__":
    main()
