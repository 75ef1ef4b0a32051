"""PGD by our own class, by torchattacks' and by ART's in the trainer: the same accuracies, and what a step costs.

    python benchmarks/attack_sources.py accuracy    # 20 minutes on one core
    python benchmarks/attack_sources.py time        # 3 minutes, with nothing else running
    python benchmarks/attack_sources.py accuracy --smoke    # seconds; writes nothing

Accuracy: 3-fold cross-validation over all 1,797 digits, seeds 0 to 2, 20 epochs, PGD-7 at eps 0.2 (Linf), judged by
our PGD-20 at the six trained lams. Differences from our own class are paired by image, averaged over lams and seeds,
with a 95% bootstrap interval over images. Time: one whole training step, A B C A B C ..., median over rounds. Results
go to results/attack_sources.csv and results/attack_sources_time.csv.
"""

import argparse
import csv
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescent
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import nn, optim
from tqdm import tqdm

from art_oat import PGD, OATClassifier, OATTrainer, OneCycle, to_conditional
from art_oat.attacks import bind, is_correct
from art_oat.contexts import borrowed_generators
from art_oat.models import SmallCNN, WideResNet
from art_oat.storage import write_whole
from art_oat.training import Method
from art_oat.training.step import Step

RESULTS = Path(__file__).parent / "results"
EPS, NB_STEPS, SEEDS, NB_FOLDS, NB_EPOCHS = 0.2, 7, (0, 1, 2), 3, 20
EPS_STEP = PGD(EPS, nb_steps=NB_STEPS).step

SOURCES: dict[str, Callable[[OATClassifier], Any]] = {
    "art_oat.PGD": lambda _: PGD(EPS, EPS_STEP, NB_STEPS),
    "torchattacks.PGD": lambda c: torchattacks.PGD(c.at(1.0).as_module(), eps=EPS, alpha=EPS_STEP, steps=NB_STEPS),
    "art ProjectedGradientDescent": lambda c: ProjectedGradientDescent(
        c, eps=EPS, eps_step=EPS_STEP, max_iter=NB_STEPS, num_random_init=1, batch_size=128, verbose=False
    ),
}


def classifier_of(network: nn.Module, input_shape: tuple[int, ...], seed: int) -> OATClassifier:
    model = to_conditional(network, seed=seed)
    optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return OATClassifier(model, nn.CrossEntropyLoss(), input_shape, 10, optimizer, clip_values=(0, 1))


def stands(source: str, seed: int, nb_epochs: int, folds: list[Any], x: Any, y: Any) -> tuple[Any, Any]:
    """Train on each fold's rest; return for every image and lam whether it is right, and right under PGD-20."""
    clean = np.zeros((len(x), 6), dtype=bool)
    robust = np.zeros_like(clean)
    for train, test in folds:
        with borrowed_generators(seed=seed):
            network = SmallCNN(channels=(16, 32, 64))
        classifier = classifier_of(network, (1, 8, 8), seed)
        trainer = OATTrainer(classifier, attack=SOURCES[source](classifier), seed=seed)
        trainer.fit(x[train], y[train], nb_epochs=nb_epochs, scheduler=OneCycle(), verbose=False)
        images, labels = classifier.as_tensors(x[test], y[test])
        judge = PGD(EPS, 2.5 * EPS / 20, 20)
        for column, lam in enumerate(classifier.model.lambdas):
            network = classifier.at(lam).as_module()
            generator = torch.Generator().manual_seed(seed)
            attacked = judge(network, images, labels, clip_values=(0, 1), generator=generator)
            clean[test, column] = is_correct(network, images, labels)
            robust[test, column] = clean[test, column] & is_correct(network, attacked, labels).numpy()
    return clean, robust


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95% bootstrap interval of the mean over images."""
    generator = np.random.default_rng(0)
    means = [generator.choice(differences, len(differences)).mean() for _ in range(2000)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def accuracy(*, is_smoke: bool) -> list[dict[str, object]]:
    bunch = load_digits()
    x, y = (bunch.images[:, np.newaxis] / 16).astype(np.float32), bunch.target.astype(np.int64)
    nb_epochs, seeds = (1, SEEDS[:1]) if is_smoke else (NB_EPOCHS, SEEDS)
    measured: dict[str, NDArray[np.float64]] = {}
    for source in SOURCES:
        runs = []
        for seed in tqdm(seeds, source):
            folds = list(StratifiedKFold(NB_FOLDS, shuffle=True, random_state=seed).split(x, y))
            runs.append(stands(source, seed, nb_epochs, folds, x, y))
        measured[source] = np.asarray(runs, dtype=np.float64).mean(axis=0)  # [clean and robust, N, lams]
    own = measured["art_oat.PGD"]
    rows = []
    for source, values in measured.items():
        row: dict[str, object] = {"source": source}
        for name, shares, reference in zip(("clean", "robust"), values, own, strict=True):
            difference = shares.mean(axis=1) - reference.mean(axis=1)
            low, high = interval(difference)
            row |= {name: f"{shares.mean():.4f}", f"{name} minus own": f"{difference.mean():+.4f}"}
            row |= {f"{name} 95% interval": f"{low:+.4f} to {high:+.4f}"}
        row |= {
            f"robust@{lam}": f"{share:.4f}"
            for lam, share in zip((0, 0.1, 0.2, 0.3, 0.4, 1), values[1].mean(0), strict=True)
        }
        rows.append(row)
    return rows


def step_times(name: str, network: nn.Module, shape: tuple[int, ...], nb_rounds: int) -> list[dict[str, object]]:
    """Time one training step of 128 images by each source, in turn."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(128, *shape, generator=generator)
    y = torch.randint(10, (128,), generator=generator)
    steps = {}
    for source, make in SOURCES.items():
        classifier = classifier_of(network, shape, 0)
        attack = bind(make(classifier), classifier)
        steps[source] = Step(classifier, Method(), attack, torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {source: [] for source in SOURCES}
    for _ in tqdm(range(nb_rounds + 1), name):
        for source, step in steps.items():
            started = time.perf_counter()
            step(x, y)
            seconds[source].append(time.perf_counter() - started)
    medians = {source: float(np.median(values[1:])) for source, values in seconds.items()}  # the first warms up
    own = medians["art_oat.PGD"]
    return [
        {"network": name, "source": source, "seconds per step": f"{median:.4f}", "ratio to own": f"{median / own:.2f}"}
        for source, median in medians.items()
    ]


def times(*, is_smoke: bool) -> list[dict[str, object]]:
    small = SmallCNN(channels=(16, 32, 64))
    rows = step_times("SmallCNN 16-32-64, 1x8x8", small, (1, 8, 8), 2 if is_smoke else 40)
    if not is_smoke:
        rows += step_times("WRN-10-2, 3x32x32", WideResNet(10, 2), (3, 32, 32), 12)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("accuracy", "time"))
    parser.add_argument("--smoke", action="store_true", help="one epoch or two rounds, nothing written")
    arguments = parser.parse_args()
    rows = {"accuracy": accuracy, "time": times}[arguments.part](is_smoke=arguments.smoke)
    for row in rows:
        print(row)
    if arguments.smoke:
        return
    environment = {
        "command": f"python benchmarks/attack_sources.py {arguments.part}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    path = RESULTS / {"accuracy": "attack_sources.csv", "time": "attack_sources_time.csv"}[arguments.part]
    with write_whole(path) as file:
        writer = csv.DictWriter(file, [*rows[0], *environment], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **environment} for row in rows)


if __name__ == "__main__":
    main()
