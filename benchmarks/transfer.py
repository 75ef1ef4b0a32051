"""At which lam do the features of one network transfer best to another task, and by how much?

    python -m benchmarks.transfer --data digits                          # digits 0-4 to 5-9
    python -m benchmarks.transfer --data cifar10 --data-folder FOLDER    # CIFAR-10 to digits in color

For every seed a network is trained on the source task by OAT, and a plain one naturally, by the same recipe and epochs.
Each of their feature extractors, the conditional one at several lams, goes to draws of a target task with few images,
by both protocols of Salman et al. 2020 (arXiv:2007.08489): a head on fixed features, and natural training of the whole
network. Beside them the same from random weights ("scratch"), and on digits both kept conditional: trained by OAT on
the target task, all lams at once, from the trained and from random weights.

Weight decay of the head and learning rate of the whole network are chosen for each network on the validation images of
its draw, from the same candidates; so is, in the rows that say "chosen", the lam. Judged on all test images, clean, and
on some of them by AutoAttack. Differences are paired by image; 95% bootstrap intervals are over images, for these
sources and draws: they leave out what other ones would change, of which the values of each seed give an idea. What is
finished is kept in --runs: the same command continues.
"""

import argparse
import copy
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn, optim

from art_oat import PGD, OATClassifier, OATModel, OATTrainer, OneCycle, evaluate, fold, parameter_groups, to_conditional
from art_oat.attacks import format_eps, is_correct
from art_oat.contexts import borrowed_generators
from art_oat.data import Split
from art_oat.evaluation import EvaluationOptions
from art_oat.storage import digest, read_rows
from art_oat.transfer import LinearProbe, Protocol, adapt, replace_head
from benchmarks.arms import train
from benchmarks.configs import Part
from benchmarks.figures import plot_transfer
from benchmarks.study import Found, data_options, kept, run
from benchmarks.tables import RESULTS, Rows
from benchmarks.transfer_tables import (
    JUDGES,
    KEPT_DIAL,
    PROTOCOLS,
    Key,
    Outcome,
    Study,
    compared,
    rows,
)
from benchmarks.transfer_tasks import TASKS, Target, Task

DECAYS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RATES = (0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Place:
    """A draw of the target task, the seed of all trainings on it, and a folder for what is finished."""

    task: Task
    target: Target
    seed: int
    folder: Path


def sources(task: Task, seed: int, runs: Path) -> dict[str, nn.Module]:
    """Train both networks on the source task, or take them from ``runs``; add one that is not trained."""
    recipe = task.sources.recipe.changed(seed=seed)
    data = task.source(recipe)
    part = Part(f"seed-{seed}", seed, data, np.arange(len(data.test.x)))
    names = {"oat": "oat", "natural": "lam-0"}
    found = {kind: train(name, task.sources, part, runs / part.name / name).model for kind, name in names.items()}
    with borrowed_generators(seed=seed):
        scratch = recipe.architecture(data).build()
    return {"oat": found["oat"], "natural": fold(found["natural"]), "scratch": scratch.eval()}


def accuracy(network: nn.Module, split: Split) -> NDArray[np.bool_]:
    """Return which images are answered right."""
    return is_correct(network, *map(torch.from_numpy, split)).numpy()


def regression_accuracy(probe: LinearProbe, target: Target) -> float:
    """Return what scikit-learn's logistic regression reaches on the same features, with the same weight decay."""
    x, y = target.data.train
    features, test = probe.features(x), probe.features(target.data.test.x)
    scale = features.var(axis=0).mean() ** 0.5
    regression = LogisticRegression(C=1 / (float(probe.weight_decay) * len(x)), tol=1e-6, max_iter=10000)
    return float(regression.fit(features / scale, y).score(test / scale, target.data.test.y))


def trained(network: nn.Module, place: Place, lambdas: tuple[float, ...], rate: float) -> OATModel:
    """Train a whole network on the target task; a plain one naturally, as the conditional one of lam 0 alone."""
    model = network if isinstance(network, OATModel) else to_conditional(network, lambdas, film_on=())
    task, data = place.task, place.target.data
    optimizer = optim.SGD(parameter_groups(model, 5e-4), rate, momentum=0.9, nesterov=True)
    about = nn.CrossEntropyLoss(), data.input_shape, data.nb_classes
    classifier = OATClassifier(model, *about, optimizer, clip_values=(0, 1))
    method = task.sources.recipe.method
    trainer = OATTrainer(classifier, attack=PGD(method.eps, method.eps_step), seed=place.seed)
    sizes = {"nb_epochs": task.nb_epochs, "batch_size": task.batch_size}
    trainer.fit(*data.train, scheduler=OneCycle(), verbose=False, **sizes)
    return model.eval()


def best_of(start: nn.Module, place: Place, lambdas: tuple[float, ...], goodness: Callable[[OATModel], float]) -> Any:
    """Train with every learning rate; return the one that is best on validation images, and its network."""
    tried = {rate: trained(copy.deepcopy(start), place, lambdas, rate) for rate in RATES}
    choice = max(tried, key=lambda rate: goodness(tried[rate]))
    return choice, tried[choice]


def robust(network: nn.Module, split: Split, place: Place, attack: str, state: Path | None = None) -> NDArray[np.bool_]:
    """Return which images are also answered right under attack."""
    data = place.target.data
    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), data.input_shape, data.nb_classes, clip_values=(0, 1)
    )
    options = EvaluationOptions(state=state, verbose=False)
    return evaluate(classifier, *split, eps=place.task.eps, attack=attack, options=options).is_robust


def on_validation(network: nn.Module, place: Place) -> tuple[float, float]:
    """Return clean accuracy and that after PGD-20."""
    images = place.target.data.validation
    return float(accuracy(network, images).mean()), float(robust(network, images, place, "pgd-20").mean())


def judged(network: nn.Module, place: Place, folder: Path, choice: float, baseline: float, seconds: float) -> Outcome:
    """Judge a network on test and validation images."""
    test = place.target.data.test
    attacked = robust(network, Split(*(part[: place.task.nb_robust] for part in test)), place, place.task.judge, folder)
    answers = accuracy(network, test).astype(float), attacked.astype(float)
    return Outcome(*answers, choice, *on_validation(network, place), baseline, seconds)


def outcome(source: nn.Module, lam: float | None, protocol: Protocol, place: Place) -> list[Outcome]:
    """Transfer by a protocol, choose on validation images, and judge."""
    started, data = time.process_time(), place.target.data
    about = {"lam": lam, "input_shape": data.input_shape, "seed": place.seed}
    start = adapt(source, data.nb_classes, protocol=protocol, **about)  # type: ignore[arg-type]
    baseline = float("nan")
    if protocol == "fixed-feature":
        probe = LinearProbe(start, DECAYS, input_shape=data.input_shape)
        probe.fit(*data.train, data.validation)
        network, choice = start, float(probe.weight_decay)
    else:
        choice, model = best_of(
            start, place, (0.0,), lambda model: float(accuracy(fold(model), data.validation).mean())
        )
        network = fold(model)
    seconds = time.process_time() - started
    if protocol == "fixed-feature":
        baseline = regression_accuracy(probe, place.target)
    return [judged(network, place, place.folder, choice, baseline, seconds)]


def outcomes_of_dial(source: nn.Module, place: Place) -> list[Outcome]:
    """Transfer a network, or a plain one made conditional, with its dial; judge it at several lams."""
    started = time.process_time()
    lambdas, dialed, data = place.task.sources.recipe.lambdas, place.task.dialed, place.target.data
    if not isinstance(source, OATModel):
        source = to_conditional(source, lambdas, seed=place.seed)
    start = replace_head(source, data.nb_classes, input_shape=data.input_shape, seed=place.seed)
    start = start.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def goodness(model: OATModel) -> float:
        return float(np.mean([sum(on_validation(fold(model, lam), place)) for lam in dialed]))

    choice, model = best_of(start, place, lambdas, goodness)
    about = choice, float("nan"), time.process_time() - started
    return [judged(fold(model, lam), place, place.folder / f"lam-{lam:g}", *about) for lam in dialed]


def settings(task: Task, target: Target, source: nn.Module) -> dict[str, Any]:
    """Return what outcomes depend on."""
    named = {name: getattr(task, name) for name in ("eps", "nb_epochs", "batch_size", "nb_robust", "dialed")}
    recipe, parts = task.sources.recipe, [part for split in target.data for part in split]
    named |= {"eps_step": recipe.method.eps_step, "lambdas": recipe.lambdas, "training eps": recipe.method.eps}
    return named | {"decays": DECAYS, "rates": RATES, "data": digest(*parts, *source.state_dict().values())}


def outcomes(path: Path, given: Mapping[str, Any], make: Callable[[], Sequence[Outcome]]) -> list[Outcome]:
    """Return the outcomes that a file holds, or make them."""

    def plain() -> list[dict[str, Any]]:
        return [it._replace(right=it.right.tolist(), robust=it.robust.tolist())._asdict() for it in make()]  # type: ignore[arg-type]

    found = (Outcome(**it) for it in kept(path, given, plain))
    return [it._replace(right=np.array(it.right), robust=np.array(it.robust)) for it in found]


def study_of_draw(place: Place, networks: Mapping[str, nn.Module]) -> dict[Key, dict[float, Outcome]]:
    """Transfer every source by every protocol to one draw of the target task."""
    found: dict[Key, dict[float, Outcome]] = {}
    task = place.task
    for kind, source in networks.items():
        given = settings(task, place.target, source)
        for protocol in PROTOCOLS:
            found[protocol, kind] = {}
            for lam in task.lambdas if kind == "oat" else (None,):
                here = replace(place, folder=place.folder / f"{kind}-{protocol}" / f"lam-{lam}")
                (it,) = outcomes(here.folder / "outcome.json", given, partial(outcome, source, lam, protocol, here))
                found[protocol, kind][lam or 0.0] = it
                print(here.folder, said(it), flush=True)
        if kind != "natural" and task.dialed:
            here = replace(place, folder=place.folder / f"{kind}-dial")
            of_dial = outcomes(here.folder / "outcome.json", given, partial(outcomes_of_dial, source, here))
            found[KEPT_DIAL, kind] = dict(zip(task.dialed, of_dial, strict=True))
            print(here.folder, *map(said, of_dial), sep="\n    ", flush=True)
    return found


def said(it: Outcome) -> str:
    means = it._replace(right=it.right.mean(), robust=it.robust.mean())
    return "  ".join(f"{name} {value:.4g}" for name, value in means._asdict().items())


def study(task: Task, runs: Path) -> Study:
    """Transfer on every seed and draw."""
    by_seed = []
    for seed in task.sources.seeds:
        networks = sources(task, seed, runs)
        draws = range(task.nb_draws)
        folders = (runs / f"seed-{seed}" / f"draw-{number}" for number in draws)
        targets = (task.target(task.nb_draws * seed + number) for number in draws)
        places = (Place(task, *it) for it in zip(targets, [seed] * task.nb_draws, folders, strict=True))
        by_seed.append([study_of_draw(place, networks) for place in places])
    first = by_seed[0][0]
    found = {key: {lam: [[it[key][lam] for it in draws] for draws in by_seed] for lam in first[key]} for key in first}
    numbers = [[task.nb_draws * seed + number for number in range(task.nb_draws)] for seed in task.sources.seeds]
    return Study(found, [[task.target(number).index for number in draws] for draws in numbers])


def draw(data: str, path: Path, table: Rows | None = None) -> None:
    """Draw accuracy on the target task against lam, with intervals, from rows; None for those of the kept table."""
    task, lines = TASKS[data], {}
    table = read_rows(RESULTS / f"transfer_{data}.csv") if table is None else table
    for row, judge in itertools.product(table, JUDGES):
        found = tuple(float(row[f"{judge}{end}"]) / 100 for end in ("", " low", " high"))
        lines.setdefault((row["protocol"], row["source"], judge), {})[float(row["lam"] or 0)] = found
    seeds = " ".join(map(str, task.sources.seeds))
    plot_transfer(lines, f"{task.title}; seeds {seeds}; bands: 95% over images", format_eps(task.eps), path)


def measure(given: argparse.Namespace) -> Found:
    task = TASKS[given.data]
    task = replace(task, sources=task.sources.in_folder(given.data_folder))
    task = task.shortened() if given.smoke else task
    found, name = study(task, given.runs / given.data), f"transfer_{given.data}"
    if given.smoke:
        draw(given.data, given.runs / "figure.png", rows(found))
    tables = {name: rows(found), f"{name}_summary": compared(found)}
    return Found(tables, task.sources.seeds, {RESULTS / f"{name}.png": partial(draw, given.data)})


if __name__ == "__main__":
    run("transfer", __doc__, measure, data_options("transfer"))
