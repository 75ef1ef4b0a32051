"""Train and judge arms on every seed and fold of a configuration, and table their accuracies."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from art_oat import OATModel, TradeoffCurve
from art_oat.attacks import is_correct
from art_oat.evaluation import EvaluationOptions, ThreatModel
from benchmarks.arms import Trained, arms, train
from benchmarks.configs import Config, Part
from benchmarks.frontiers import Arm, Shares, accuracies
from benchmarks.tables import Row

SHARD_SIZE = 500


def judge(model: OATModel, config: Config, part: Part, folder: Path, nb_workers: int = 1) -> tuple[Shares, Shares]:
    """Return which test images are right ``[lams, N]``, and which also under attack ``[judges, lams, M]``."""
    classifier = config.recipe.classifier(model, part.data.input_shape, part.data.nb_classes)
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
    robust = [[it.is_robust for it in curve.reports if it.attack == name] for name in config.judges]
    return np.array(clean, dtype=float), np.array(robust, dtype=float)


def compare(config: Config, names: Sequence[str], runs: Path, nb_workers: int = 1) -> list[Arm]:
    """Train and judge every arm on every seed."""
    parts = list(config.parts())
    trained = {name: [train(name, config, part, runs / part.name / name) for part in parts] for name in names}
    on_processor = all(it.cpu_seconds is not None for found in trained.values() for it in found)
    clock = "wall" if torch.cuda.is_available() or not on_processor else "processor"
    found = []
    for name, networks in trained.items():
        right = _right(name, config, list(zip(parts, networks, strict=True)), runs, nb_workers)
        seconds = sum(it.seconds if clock == "wall" else it.cpu_seconds or 0.0 for it in networks) / len(config.seeds)
        commits = "/".join(dict.fromkeys(it.commit for it in networks))
        lambdas = config.judged_at(networks[0].model)
        found.append(Arm(name, lambdas, right, seconds, clock, networks[0].nb_bytes, commits))
    return found


def _right(name: str, config: Config, trained: Sequence[tuple[Part, Trained]], runs: Path, nb_workers: int) -> Shares:
    """Judge an arm on every part; return answers as an :class:`Arm` holds them."""
    every = [judge(result.model, config, part, runs / part.name / name, nb_workers) for part, result in trained]
    return joint(config, [part for part, _ in trained], every)


def joint(config: Config, parts: Sequence[Part], every: Sequence[tuple[Shares, Shares]]) -> Shares:
    """Take what :func:`judge` returned for every part together, as an :class:`Arm` holds answers."""
    nb_images = 1 + max(int(part.index.max()) for part in parts)
    right = np.full((1 + len(config.judges), len(every[0][0]), len(config.seeds), nb_images), np.nan)
    for part, (clean, robust) in zip(parts, every, strict=True):
        of_seed = right[:, :, config.seeds.index(part.seed)]
        of_seed[0][:, part.index] = clean
        of_seed[1:][..., part.index[config.attacked(part)]] = robust
    return right


def rows(found: Sequence[Arm], config: Config) -> list[Row]:
    """Return a row per arm and lam: accuracies in percent with their standard errors over images."""
    what, result = arms(config.recipe.lambdas), []
    for arm in found:
        shares, errors = accuracies(arm)
        asked = np.isfinite(arm.right).any(axis=2).sum(axis=2)
        for place, lam in enumerate(arm.lambdas):
            row: Row = {"method": arm.name, "lam": f"{lam:g}", "what": what.get(arm.name, "")}
            for index, name in enumerate(("clean", *config.judges)):
                row |= {name: f"{100 * shares[index, place]:.2f}"}
                row |= {f"{name} s.e.": f"{100 * errors[index, place]:.2f}"}
            row |= {"images": asked[0, place], "images attacked": asked[-1, place]}
            row |= {"training seconds": f"{arm.seconds / (config.nb_folds or 1):.1f}", "clock": arm.clock}
            result.append(row | {"bytes": arm.nb_bytes, "trained at": arm.commits})
    return result
