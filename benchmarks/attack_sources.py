"""PGD by our own class, by torchattacks' and by ART's in the trainer: the same accuracies, and what a step costs.

    python -m benchmarks.attack_sources accuracy    # 20 minutes on one core
    python -m benchmarks.attack_sources time        # 3 minutes, with nothing else running

Accuracy: 3-fold cross-validation over all 1,797 digits, seeds 0 to 2, 20 epochs, PGD-7 at eps 0.2 (Linf), judged by
our PGD-20 at the six trained lams. Differences from our own class are paired by image, averaged over lams and seeds,
with a 95% bootstrap interval over images. Time: one whole training step of 128 images, in turns.
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescent

from art_oat import PGD, OATClassifier
from art_oat.models import WideResNet
from benchmarks.folds import DIGITS, Task, Way, measure, row
from benchmarks.steps import step_for
from benchmarks.study import Found, data_options, run
from benchmarks.tables import Row
from benchmarks.timing import take_turns

EPS, NB_STEPS = 0.2, 7
STEP = PGD(EPS, nb_steps=NB_STEPS).step
SMALL = replace(DIGITS, nb_epochs=20, attack=PGD(EPS, STEP, NB_STEPS), weight_decay=5e-4, options={})
WIDE = replace(SMALL, input_shape=(3, 32, 32), build=lambda _: WideResNet(10, 2))


def by_torchattacks(classifier: OATClassifier) -> Any:
    return torchattacks.PGD(classifier.at(1.0).as_module(), eps=EPS, alpha=STEP, steps=NB_STEPS)


def by_art(classifier: OATClassifier) -> Any:
    options = {"eps": EPS, "eps_step": STEP, "max_iter": NB_STEPS, "num_random_init": 1, "batch_size": 128}
    return ProjectedGradientDescent(classifier, verbose=False, **options)


OWN = Way("art_oat.PGD", sampling="random")
WAYS = (
    OWN,
    Way("torchattacks.PGD", sampling="random", attack=by_torchattacks),
    Way("art ProjectedGradientDescent", sampling="random", attack=by_art),
)


def accuracy(given: argparse.Namespace) -> Found:
    task = SMALL.shortened() if given.smoke else SMALL
    found = measure(task, dict.fromkeys(WAYS, task.nb_epochs), given.runs)
    rows = [{"source": way.name, **row(values[1.0], found[OWN][1.0], "own")} for way, values in found.items()]
    return Found({"attack_sources": rows}, task.seeds)


def step_times(name: str, task: Task, nb_rounds: int) -> list[Row]:
    """Time one training step of 128 images by each source, in turn."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(128, *task.input_shape, generator=generator)
    y = torch.randint(10, (128,), generator=generator)
    turns = take_turns({way.name: partial(step_for(task.trainer(way, 0)), x, y) for way in WAYS}, nb_rounds, name)
    return [
        {
            "network": name,
            "source": way.name,
            "seconds per step": f"{turns.median(way.name):.4f}",
            "ratio to own": f"{turns.ratio(way.name, OWN.name):.2f}",
        }
        for way in WAYS
    ]


def times(given: argparse.Namespace) -> Found:
    rows = step_times("SmallCNN 16-32-64, 1x8x8", SMALL, 2 if given.smoke else 40)
    if not given.smoke:
        rows += step_times("WRN-10-2, 3x32x32", WIDE, 12)
    return Found({"attack_sources_time": rows})


def chosen(given: argparse.Namespace) -> Found:
    return {"accuracy": accuracy, "time": times}[given.part](given)


OPTIONS = {"part": {"choices": ("accuracy", "time")}, "--runs": data_options("attack_sources")["--runs"]}

if __name__ == "__main__":
    run("attack_sources", __doc__, chosen, OPTIONS)
