"""OATS against what it stands in for, and the ways to train it.

    python -m benchmarks.oats widths --data digits                          # 20 minutes on one core
    python -m benchmarks.oats widths --data cifar10 --data-folder FOLDER    # 80 minutes on one core
    python -m benchmarks.oats sampling                                      # 60 minutes on one core

``widths``: one network of three widths (all in every step, with one head or one per width; on digits also one width in
every step) against a network of each width alone, trained by the same recipe, each width for as many epochs.

``sampling``: one network of four widths, trained by every way of drawing widths, with and without in-place
distillation, each for the epochs that take as long as 30 of ``all`` (by the ratio of the times of whole training steps,
taken in turns beforehand).

Digits: 3-fold cross-validation over all 1,797 images, seeds 0 to 2, half the epochs of DIGITS_RECIPE. CIFAR-10
(JPEG-75): 4,000 training images, 1,000 test images, seed 0, a small ResNet, 10 epochs. Judged by PGD-20 at the six
trained lams. Differences are paired by image, averaged over lams and seeds, with a 95% bootstrap interval over images.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from art_oat import PGD
from art_oat.data import load
from art_oat.data.augmentation import RandomCropFlip
from art_oat.models import ResNet
from benchmarks.folds import DIGITS, Fold, Task, Way, measure, row
from benchmarks.steps import step_for
from benchmarks.study import Found, data_options, run
from benchmarks.tables import Row
from benchmarks.timing import take_turns

THREE, FOUR = (0.5, 0.75, 1.0), (0.25, 0.5, 0.75, 1.0)
SHARED = Way("OATS, shared head", THREE)
PER_WIDTH = Way("OATS, head per width", THREE, heads="per-width")
RANDOM = Way("OATS, random width", THREE, sampling="random")
TOGETHER = {"digits": (SHARED, PER_WIDTH, RANDOM), "cifar10": (SHARED, PER_WIDTH)}
SAMPLINGS = (
    Way("all", FOUR),
    Way("all, distilled", FOUR, distills=True),
    Way("sandwich", FOUR, sampling="sandwich"),
    Way("sandwich, distilled", FOUR, sampling="sandwich", distills=True),
    Way("random", FOUR, sampling="random"),
)


def cifar10(folder: str | None, _: int) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Fold]]:
    data = load("cifar10", folder=folder, seed=0, nb_train=4000)
    x, y = (np.concatenate([train, test[:1000]]) for train, test in zip(data.train, data.test, strict=True))
    return x, y, [(np.arange(len(data.train.x)), np.arange(len(data.train.x), len(x)))]


def cifar10_task(folder: str | None) -> Task:
    return Task(
        name="cifar10",
        seeds=(0,),
        nb_epochs=10,
        input_shape=(3, 32, 32),
        build=lambda width: ResNet((1, 1, 1), channels=int(width * 16)),
        data=partial(cifar10, folder),
        attack=PGD(),
        weight_decay=5e-4,
        exempt=("norm", "film", "bias"),
        options={"augmentation": RandomCropFlip(4)},
    )


def widths_study(task: Task, runs: Path) -> Iterator[Row]:
    """Compare OATS with a network of each width alone."""
    singles = {width: Way(f"single {width:g}", network_width=width) for width in THREE}
    epochs = dict.fromkeys((*singles.values(), *TOGETHER[task.name]), task.nb_epochs)
    if RANDOM in epochs:
        epochs[RANDOM] *= len(THREE)  # a step trains one width: so each is trained as long as a single one
    found = measure(task, epochs, runs)
    for width, single in singles.items():
        alone = found[single][1.0]
        for way, values in ((single, alone), *((way, found[way][width]) for way in TOGETHER[task.name])):
            yield {"arm": way.name, "width": width, "versus": single.name, **row(values, alone, "reference")}


def step_seconds(task: Task, nb_rounds: int) -> dict[str, float]:
    """Return the seconds of a training step of 128 by every way of drawing widths."""
    x, y, _ = task.data(0)
    batch = torch.from_numpy(x[:128]), torch.from_numpy(y[:128])
    turns = take_turns({way.name: partial(step_for(task.trainer(way, 0)), *batch) for way in SAMPLINGS}, nb_rounds)
    return {way.name: turns.median(way.name) for way in SAMPLINGS}


def sampling_study(task: Task, runs: Path, nb_rounds: int) -> Iterator[Row]:
    """Compare every way to draw widths, for the same time."""
    kept = runs / f"{task.name}-epochs.csv"
    if not kept.exists():
        seconds = step_seconds(task, nb_rounds)
        epochs = {name: round(task.nb_epochs * seconds["all"] / value) for name, value in seconds.items()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("".join(f"{name};{nb_epochs}\n" for name, nb_epochs in epochs.items()), encoding="utf-8")
    epochs = {name: int(count) for name, count in (line.split(";") for line in kept.read_text("utf-8").splitlines())}
    found = measure(task, {way: epochs[way.name] for way in SAMPLINGS}, runs)
    reference = found[SAMPLINGS[0]]
    for way, answers in found.items():
        pairs = {width: (answers[width], reference[width]) for width in FOUR}
        pooled = [np.mean([values[width] for width in FOUR], axis=0) for values in (answers, reference)]
        for width, pair in [*pairs.items(), ("mean", pooled)]:
            about = {"arm": way.name, "width": width, "versus": "all"}
            yield about | row(*pair, "reference") | {"epochs": epochs[way.name]}


def chosen(given: argparse.Namespace) -> Found:
    task = DIGITS if given.data == "digits" else cifar10_task(given.data_folder)
    task = task.shortened() if given.smoke else task
    nb_rounds = 1 if given.smoke else 40
    rows = widths_study(task, given.runs) if given.part == "widths" else sampling_study(task, given.runs, nb_rounds)
    return Found({f"oats_{given.part}_{task.name}": list(rows)}, task.seeds)


if __name__ == "__main__":
    run("oats", __doc__, chosen, {"part": {"choices": ("widths", "sampling")}, **data_options("oats")})
