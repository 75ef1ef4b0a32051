"""OATS against what it stands in for, and the ways to train it.

    python -m benchmarks.oats widths --data digits                          # 20 minutes on one core
    python -m benchmarks.oats widths --data cifar10 --data-folder FOLDER    # 80 minutes on one core
    python -m benchmarks.oats sampling                                      # 60 minutes on one core
    python -m benchmarks.oats widths --smoke                                # seconds; writes nothing

``widths``: one network of three widths (all in every step, with one head or one per width; on digits also one width in
every step) against a network of each width alone, trained by the same recipe, each width for as many epochs.

``sampling``: one network of four widths, trained by every way of drawing widths, with and without in-place
distillation, each for the epochs that take as long as 30 of ``all`` (by the ratio of the times of whole training steps,
taken in turns beforehand).

Digits: 3-fold cross-validation over all 1,797 images, seeds 0 to 2, half the epochs of DIGITS_RECIPE. CIFAR-10
(JPEG-75): 4,000 training images, 1,000 test images, seed 0, a small ResNet, 10 epochs. Judged by PGD-20 at the six
trained lams. Differences are paired by image, averaged over lams and seeds, with a 95% bootstrap interval over images.
Results go to results/oats_widths_DATA.csv and results/oats_sampling_digits.csv. What is finished is kept in --cache,
and reused.
"""

import argparse
import csv
import dataclasses
import functools
import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import nn, optim

from art_oat import (
    PGD,
    OATClassifier,
    OATTrainer,
    OneCycle,
    RandomCropFlip,
    StratifiedSampling,
    parameter_groups,
    to_conditional,
)
from art_oat.attacks import bind, robust_correct
from art_oat.contexts import borrowed_generators
from art_oat.data import load
from art_oat.models import ResNet, SmallCNN
from art_oat.storage import write_whole
from art_oat.training import Method
from art_oat.training.step import Step
from benchmarks.attack_sources import interval

RESULTS = Path(__file__).parent / "results"
THREE, FOUR = (0.5, 0.75, 1.0), (0.25, 0.5, 0.75, 1.0)
Part = tuple[NDArray[np.int64], NDArray[np.int64]]
Stands = dict[float, NDArray[np.float64]]
"""By width: for clean and attacked images (rows), for every test image and lam, whether it is answered right."""


@dataclass(frozen=True)
class Task:
    """Data, network and recipe; ``together`` names ways to train three widths, to compare with single ones."""

    name: str
    seeds: tuple[int, ...]
    nb_epochs: int
    input_shape: tuple[int, ...]
    build: Callable[[float], nn.Module]
    data: Callable[[int], tuple[NDArray[np.float32], NDArray[np.int64], list[Part]]]
    attack: PGD
    learning_rate: float
    weight_decay: float
    exempt: tuple[str, ...]
    together: tuple["Arm", ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def trainer(self, arm: "Arm", seed: int) -> OATTrainer:
        with borrowed_generators(seed=seed):
            network = self.build(arm.network_width)
        model = to_conditional(network, widths=arm.widths, heads=arm.heads, input_shape=self.input_shape, seed=seed)
        groups = parameter_groups(model, self.weight_decay, exempt=self.exempt)
        optimizer = optim.SGD(groups, self.learning_rate, momentum=0.9, nesterov=True)
        classifier = OATClassifier(model, nn.CrossEntropyLoss(), self.input_shape, 10, optimizer, clip_values=(0, 1))
        return OATTrainer(
            classifier,
            attack=self.attack,
            width_sampling=arm.sampling,
            distills=arm.distills,
            seed=seed,
            **self.options,
        )


@dataclass(frozen=True)
class Arm:
    """One way to get a network for some widths."""

    name: str
    widths: tuple[float, ...] = (1.0,)
    heads: str = "shared"
    sampling: str = "all"
    distills: bool = False
    network_width: float = 1.0


SHARED = Arm("OATS, shared head", THREE)
PER_WIDTH = Arm("OATS, head per width", THREE, heads="per-width")
RANDOM = Arm("OATS, random width", THREE, sampling="random")


def digits_data(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Part]]:
    bunch = load_digits()
    x, y = (bunch.images[:, np.newaxis] / 16).astype(np.float32), bunch.target.astype(np.int64)
    return x, y, list(StratifiedKFold(3, shuffle=True, random_state=seed).split(x, y))


def cifar10_data(folder: str, _: int) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Part]]:
    data = load("cifar10", folder=folder, seed=0, nb_train=4000)
    x = np.concatenate([data.train.x, data.test.x[:1000]])
    y = np.concatenate([data.train.y, data.test.y[:1000]])
    return x, y, [(np.arange(len(data.train.x)), np.arange(len(data.train.x), len(x)))]


def digits_task() -> Task:
    return Task(
        name="digits",
        seeds=(0, 1, 2),
        nb_epochs=30,
        input_shape=(1, 8, 8),
        build=lambda width: SmallCNN(channels=[int(width * channels) for channels in (16, 32, 64)]),
        data=digits_data,
        attack=PGD(0.2, 0.05, 7),
        learning_rate=0.2,
        weight_decay=3e-3,
        exempt=(),
        together=(SHARED, PER_WIDTH, RANDOM),
        options={"sampling": StratifiedSampling({1.0: 3.3})},
    )


def cifar10_task(folder: str) -> Task:
    return Task(
        name="cifar10",
        seeds=(0,),
        nb_epochs=10,
        input_shape=(3, 32, 32),
        build=lambda width: ResNet((1, 1, 1), channels=int(width * 16)),
        data=functools.partial(cifar10_data, folder),
        attack=PGD(),
        learning_rate=0.2,
        weight_decay=5e-4,
        exempt=("norm", "film", "bias"),
        together=(SHARED, PER_WIDTH),
        options={"augmentation": RandomCropFlip(4)},
    )


def stands(task: Task, arm: Arm, seed: int, nb_epochs: int) -> Stands:
    """Train on each fold's rest; judge every test image at every lam and width."""
    x, y, folds = task.data(seed)
    judge = PGD(task.attack.eps, 2.5 * task.attack.eps / 20, 20)
    found: dict[float, list[NDArray[np.float64]]] = {width: [] for width in arm.widths}
    for train, test in folds:
        trainer = task.trainer(arm, seed)
        trainer.fit(x[train], y[train], nb_epochs=nb_epochs, scheduler=OneCycle(), verbose=False)
        classifier: OATClassifier = trainer.get_classifier()
        images, labels = classifier.as_tensors(x[test], y[test])
        for width in arm.widths:
            columns = []
            for lam in classifier.model.lambdas:
                network = classifier.at(lam, width).as_module()
                generator = torch.Generator().manual_seed(seed)
                masks = robust_correct(network, images, labels, judge, clip_values=(0, 1), generator=generator)
                columns.append(np.stack([mask.numpy() for mask in masks]))
            found[width].append(np.stack(columns, axis=2).astype(np.float64))
    order = np.argsort(np.concatenate([test for _, test in folds]), kind="stable")
    return {width: np.concatenate(parts, axis=1)[:, order] for width, parts in found.items()}


def measure(task: Task, epochs: Mapping[Arm, int], cache: Path) -> dict[Arm, Stands]:
    """Mean over seeds of what stands, by arm; every seed of every arm is kept as soon as it is done."""
    runs: dict[Arm, list[Stands]] = {arm: [] for arm in epochs}
    for seed, (arm, nb_epochs) in itertools.product(task.seeds, epochs.items()):
        path = cache / f"{task.name}-{arm.name}-{nb_epochs}-{seed}.npz".replace(" ", "_")
        if not path.exists():
            started = time.perf_counter()
            found = stands(task, arm, seed, nb_epochs)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **{str(width): values for width, values in found.items()})
            shares = {width: values.mean(axis=(1, 2)).round(3).tolist() for width, values in found.items()}
            print(f"{task.name}, {arm.name}, seed {seed}: {time.perf_counter() - started:.0f} s, {shares}", flush=True)
        with np.load(path) as kept:
            runs[arm].append({float(width): kept[width] for width in kept.files})
    return {
        arm: {width: np.mean([run[width] for run in found], axis=0) for width in arm.widths}
        for arm, found in runs.items()
    }


def row(
    arm: Arm, width: float, values: NDArray[np.float64], reference: NDArray[np.float64], versus: str
) -> dict[str, object]:
    """What is reported of one arm at one width: means over lams, and differences from a reference."""
    result: dict[str, object] = {"arm": arm.name, "width": width, "versus": versus}
    for name, own, other in zip(("clean", "robust"), values, reference, strict=True):
        difference = own.mean(axis=1) - other.mean(axis=1)
        low, high = interval(difference)
        result |= {name: f"{own.mean():.4f}", f"{name} minus reference": f"{difference.mean():+.4f}"}
        result |= {f"{name} 95% interval": f"{low:+.4f} to {high:+.4f}"}
    lams = (0, 0.1, 0.2, 0.3, 0.4, 1)
    return result | {f"robust@{lam}": f"{share:.4f}" for lam, share in zip(lams, values[1].mean(axis=0), strict=True)}


def widths_study(task: Task, cache: Path) -> Iterator[dict[str, object]]:
    """OATS against a single-width network of each width."""
    singles = {width: Arm(f"single {width:g}", network_width=width) for width in THREE}
    epochs = dict.fromkeys((*singles.values(), *task.together), task.nb_epochs)
    if RANDOM in epochs:
        epochs[RANDOM] *= len(THREE)  # a step trains one width: so each is trained as long as a single one
    found = measure(task, epochs, cache)
    for width, single in singles.items():
        alone = found[single][1.0]
        for arm, values in ((single, alone), *((arm, found[arm][width]) for arm in task.together)):
            yield row(arm, width, values, alone, single.name)


SAMPLINGS = (
    Arm("all", FOUR),
    Arm("all, distilled", FOUR, distills=True),
    Arm("sandwich", FOUR, sampling="sandwich"),
    Arm("sandwich, distilled", FOUR, sampling="sandwich", distills=True),
    Arm("random", FOUR, sampling="random"),
)


def step_seconds(task: Task, nb_rounds: int = 40) -> dict[str, float]:
    """Mean seconds of a training step of 128 by every way of drawing widths, in turn."""
    x, y, _ = task.data(0)
    steps = {}
    for arm in SAMPLINGS:
        trainer = task.trainer(arm, 0)
        classifier: OATClassifier = trainer.get_classifier()
        sampling = task.options.get("sampling", StratifiedSampling())
        attack = bind(task.attack, classifier)
        method = Method(sampling=sampling, width_sampling=arm.sampling, distills=arm.distills)  # type: ignore[arg-type]
        steps[arm.name] = Step(classifier, method, attack, torch.Generator().manual_seed(0))
    batch = torch.from_numpy(x[:128]), torch.from_numpy(y[:128])
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(nb_rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step(*batch)
            seconds[name].append(time.perf_counter() - started)
    # the mean of the middle half: one slow round must not count, but "random" is to be averaged over the widths
    ordered = {name: np.sort(values[1:]) for name, values in seconds.items()}
    return {name: float(values[nb_rounds // 10 : -nb_rounds // 10].mean()) for name, values in ordered.items()}


def sampling_study(task: Task, cache: Path) -> Iterator[dict[str, object]]:
    """Every way to draw widths, for the same time."""
    kept = cache / f"{task.name}-epochs.csv"
    if not kept.exists():
        seconds = step_seconds(task)
        epochs = {name: round(task.nb_epochs * seconds["all"] / value) for name, value in seconds.items()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("".join(f"{name};{nb_epochs}\n" for name, nb_epochs in epochs.items()), encoding="utf-8")
    epochs = {name: int(count) for name, count in (line.split(";") for line in kept.read_text("utf-8").splitlines())}
    found = measure(task, {arm: epochs[arm.name] for arm in SAMPLINGS}, cache)
    reference = found[SAMPLINGS[0]]
    for arm, stands_at in found.items():
        for width in FOUR:
            yield row(arm, width, stands_at[width], reference[width], "all") | {"epochs": epochs[arm.name]}
        pooled = [np.mean([values[width] for width in FOUR], axis=0) for values in (stands_at, reference)]
        yield row(arm, float("nan"), *pooled, "all") | {"width": "mean", "epochs": epochs[arm.name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("widths", "sampling"))
    parser.add_argument("--data", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--data-folder", help="where CIFAR-10 lies")
    parser.add_argument("--cache", type=Path, default=Path("runs/oats"), help="keeps what is finished")
    parser.add_argument("--smoke", action="store_true", help="one epoch, one seed, nothing written")
    arguments = parser.parse_args()
    task = digits_task() if arguments.data == "digits" else cifar10_task(arguments.data_folder)
    study = {"widths": widths_study, "sampling": sampling_study}[arguments.part]
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.smoke:
            task = dataclasses.replace(task, nb_epochs=1, seeds=task.seeds[:1])
        rows = list(study(task, Path(scratch) if arguments.smoke else arguments.cache))
    for line in rows:
        print(line)
    if arguments.smoke:
        return
    environment = {
        "command": f"python -m benchmarks.oats {arguments.part} --data {task.name}",
        "seeds": " ".join(map(str, task.seeds)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    with write_whole(RESULTS / f"oats_{arguments.part}_{task.name}.csv") as file:
        writer = csv.DictWriter(file, [*rows[0], *environment], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**line, **environment} for line in rows)


if __name__ == "__main__":
    main()
