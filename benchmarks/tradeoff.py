"""One network for all lams against a dedicated network for each, and against the baselines of ART.

    python -m benchmarks.tradeoff --data digits                          # 90 minutes on one core
    python -m benchmarks.tradeoff --data cifar10 --data-folder FOLDER    # 110 minutes on one core
    python -m benchmarks.tradeoff --data cifar10 --config resnet18 --data-folder FOLDER    # full size: one GPU
    python -m benchmarks.tradeoff --data digits --check                  # what the README says of the results
    python -m benchmarks.tradeoff --data digits --smoke                  # a minute; writes nothing

Every network is trained by the same runner (``methods.py``) from the same initial weights, with the same optimizer,
schedule, augmentation, batch size and attack; the dedicated network of a lam is plain, and its loss is mixed at that
lam for every sample. What is trained, and every shard that is judged, is kept in --runs: the same command goes on.

Judged by PGD-20 and AutoAttack (standard) at the radius of the training, after the last epoch. Differences are paired
by image; intervals are 95% bootstrap intervals over images, which leave out what another training would change.
Hypervolumes are measured from (1 / K, 0). Times are processor seconds on a CPU, as other work beside slows the clock on
the wall more, and wall seconds on a GPU or where a training was cut.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from art_oat import OATModel, TradeoffCurve
from art_oat.attacks import format_eps, is_correct
from art_oat.evaluation import EvaluationOptions, ThreatModel
from benchmarks.arguments import command, parser
from benchmarks.configs import CONFIGS, Config, Part
from benchmarks.figures import plot
from benchmarks.frontiers import Arm, Shares, accuracies, joined, summary
from benchmarks.methods import Trained, methods, train
from benchmarks.record import RESULTS, environment, read, text, write

SHARD_SIZE = 500
DOCS = Path(__file__).parents[1] / "docs"


def judge(model: OATModel, config: Config, part: Part, folder: Path, nb_workers: int) -> tuple[Shares, Shares]:
    """Return which test images are right ``[lams, N]``, and which of the attacked stand ``[judges, lams, M]``."""
    classifier = config.recipe.classifier(model, part.data)
    x, y = part.data.test
    images, labels = classifier.as_tensors(x, y)
    lambdas = config.judged_at(model)
    clean = [is_correct(classifier.at(lam).as_module(), images, labels).cpu().numpy() for lam in lambdas]
    attacked = config.attacked(part)
    curve = TradeoffCurve.measure(
        classifier,
        x[attacked],
        y[attacked],
        eps=ThreatModel(config.recipe.method.eps, config.recipe.method.norm),
        attack=config.judges,
        lambdas=lambdas,
        options=EvaluationOptions(SHARD_SIZE, state=folder / "evaluation", nb_workers=nb_workers),
    )
    for report in curve.reports:
        print(report, flush=True)
    stands = [[it.is_robust for it in curve.reports if it.attack == name] for name in config.judges]
    return np.array(clean, dtype=float), np.array(stands, dtype=float)


def study(config: Config, names: Sequence[str], runs: Path, nb_workers: int) -> list[Arm]:
    """Train and judge every method on every seed."""
    parts = list(config.parts())
    trained = {name: [train(name, config, part, runs / part.name / name) for part in parts] for name in names}
    on_processor = all(it.cpu_seconds is not None for found in trained.values() for it in found)
    clock = "wall" if torch.cuda.is_available() or not on_processor else "processor"
    return [_arm(name, config, parts, found, clock, runs, nb_workers) for name, found in trained.items()]


def _arm(
    name: str,
    config: Config,
    parts: Sequence[Part],
    trained: Sequence[Trained],
    clock: str,
    runs: Path,
    nb_workers: int,
) -> Arm:
    lambdas = config.judged_at(trained[0].model)
    nb_images = 1 + max(int(part.index.max()) for part in parts)
    right = np.full((1 + len(config.judges), len(lambdas), len(config.seeds), nb_images), np.nan)
    for part, result in zip(parts, trained, strict=True):
        clean, robust = judge(result.model, config, part, runs / part.name / name, nb_workers)
        of_seed = right[:, :, config.seeds.index(part.seed)]
        of_seed[0][:, part.index] = clean
        of_seed[1:][..., part.index[config.attacked(part)]] = robust
    seconds = [it.seconds if clock == "wall" else it.cpu_seconds or 0.0 for it in trained]
    commits = "/".join(dict.fromkeys(it.commit for it in trained))
    return Arm(name, lambdas, right, sum(seconds) / len(config.seeds), clock, trained[0].nb_bytes, commits)


def rows(arms: Sequence[Arm], config: Config) -> list[dict[str, object]]:
    """Return the table: a row per method and lam, accuracies in percent with their standard errors over images."""
    what = methods(config.recipe.lambdas)
    result: list[dict[str, object]] = []
    for arm in arms:
        shares, errors = accuracies(arm)
        asked = np.isfinite(arm.right).any(axis=2).sum(axis=2)
        for place, lam in enumerate(arm.lambdas):
            row: dict[str, object] = {"method": arm.name, "lam": f"{lam:g}", "what": what.get(arm.name, "")}
            for index, name in enumerate(("clean", *config.judges)):
                row |= {name: f"{100 * shares[index, place]:.2f}"}
                row |= {f"{name} s.e.": f"{100 * errors[index, place]:.2f}"}
            row |= {"images": asked[0, place], "images attacked": asked[-1, place]}
            row |= {"training seconds": f"{arm.seconds / (config.nb_folds or 1):.1f}", "clock": arm.clock}
            result.append(row | {"bytes": arm.nb_bytes, "trained at": arm.commits})
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
    ("digits", "small"): (
        Claim("hypervolume ratio", low=0.98),
        Claim("ratio of training times", high=1 / 3),
        Claim("robust difference at lam 1", low=-0.02, high=0.0),
        Claim("clean difference, mean over lams", low=0.0),
    ),
    ("cifar10", "small"): (
        Claim("hypervolume ratio", low=0.9),
        Claim("ratio of training times", high=1 / 3),
        Claim("robust difference at lam 1", low=-0.03),
        Claim("clean range ratio, with lams beyond 1", low=2 / 3),
    ),
}


def check(data: str, name: str) -> bool:
    """Compare the kept summary with what the README says; say which claims hold.

    Raises:
        ValueError: If there is no result, or the README claims nothing of it.
    """
    path = _path(data, name, "_summary")
    if not path.exists() or (data, name) not in CLAIMS:
        known = ", ".join(f"--data {it[0]} --config {it[1]}" for it in CLAIMS)
        raise ValueError(f"--check needs a result that the README speaks of, {known}, got {data} and {name}.")
    figures = {row["figure"]: float(row["value"]) for row in read(path)}
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
    asking = parser(__doc__)
    asking.add_argument("--config", choices=sorted({name for _, name in CONFIGS}), default="small")
    asking.add_argument("--methods", nargs="+", help="train and judge these alone, of methods.py; writes no result")
    asking.add_argument("--nb-workers", type=int, default=1, help="shards to judge at once")
    asking.add_argument("--check", action="store_true", help="compare the kept results with the README")
    given = asking.parse_args()
    if (given.data, given.config) not in CONFIGS:
        asking.error(f"--data and --config must be one of {', '.join(map(' '.join, CONFIGS))}.")
    known = methods(CONFIGS[given.data, given.config].recipe.lambdas)
    if unknown := set(given.methods or ()) - known.keys():
        asking.error(f"--methods must be some of {', '.join(known)}, got {', '.join(sorted(unknown))}.")
    return given


def main() -> None:
    given = arguments()
    if given.check:
        sys.exit(not check(given.data, given.config))
    config = CONFIGS[given.data, given.config].in_folder(given.data_folder)
    names = given.methods or config.methods
    if given.smoke:
        with tempfile.TemporaryDirectory() as scratch:
            run(config.shortened(), names, Path(scratch), given.nb_workers)
        return
    arms, compared = run(config, names, given.runs / f"{given.data}-{given.config}", given.nb_workers)
    if given.methods:
        return
    made_by = environment(command("tradeoff", given, f"--config {given.config}"), config.seeds)
    write(_path(given.data, given.config), rows(arms, config), made_by)
    if compared:
        print(text(compared))
        write(_path(given.data, given.config, "_summary"), compared, made_by)
    title = {"digits": "scikit-learn's digits", "cifar10": "CIFAR-10 (JPEG-75)"}[given.data]
    eps = format_eps(config.recipe.method.eps)
    plot(
        arms,
        f"{title}, {config.recipe.network}, AutoAttack at eps {eps}; bars: one standard error",
        DOCS / f"frontiers_{given.data}_{given.config}.png",
    )


if __name__ == "__main__":
    main()
