"""Cross-validations judged by the one PGD-20: several ways to train on the rest of each fold, at every lam."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn, optim

from art_oat import PGD, OATClassifier, OATTrainer, OneCycle, parameter_groups, to_conditional
from art_oat.attacks import robust_correct
from art_oat.contexts import borrowed_generators
from art_oat.layers import DEFAULT_LAMBDAS
from art_oat.models import SmallCNN
from art_oat.training import StratifiedSampling
from benchmarks.statistics import paired
from benchmarks.tables import Row

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
Answers = dict[float, NDArray[np.float64]]
"""By width, which test images are answered right, clean and attacked: ``[2, N, lams]``."""


@dataclass(frozen=True)
class Way:
    """One way to get a network for some widths; ``attack`` makes another than the task's."""

    name: str
    widths: tuple[float, ...] = (1.0,)
    heads: str = "shared"
    sampling: str = "all"
    distills: bool = False
    network_width: float = 1.0
    attack: Callable[[OATClassifier], Any] | None = None


@dataclass(frozen=True)
class Task:
    """Data, network and recipe."""

    name: str
    seeds: tuple[int, ...]
    nb_epochs: int
    input_shape: tuple[int, ...]
    build: Callable[[float], nn.Module]
    data: Callable[[int], tuple[NDArray[np.float32], NDArray[np.int64], list[Fold]]]
    attack: PGD
    weight_decay: float
    exempt: tuple[str, ...] = ()
    learning_rate: float = 0.2
    options: Mapping[str, Any] = field(default_factory=dict)

    def shortened(self) -> "Task":
        """Return the same task of one seed, one epoch and a few images."""
        x, y, _ = self.data(self.seeds[0])
        fold = np.arange(60), np.arange(60, 90)
        return replace(self, seeds=self.seeds[:1], nb_epochs=1, data=lambda _: (x[:90], y[:90], [fold]))

    def trainer(self, way: Way, seed: int) -> OATTrainer:
        with borrowed_generators(seed=seed):
            network = self.build(way.network_width)
        model = to_conditional(network, widths=way.widths, heads=way.heads, input_shape=self.input_shape, seed=seed)  # type: ignore[arg-type]
        groups = parameter_groups(model, self.weight_decay, exempt=self.exempt)  # type: ignore[arg-type]
        optimizer = optim.SGD(groups, self.learning_rate, momentum=0.9, nesterov=True)
        classifier = OATClassifier(model, nn.CrossEntropyLoss(), self.input_shape, 10, optimizer, clip_values=(0, 1))
        attack = self.attack if way.attack is None else way.attack(classifier)
        widths = {"width_sampling": way.sampling, "distills": way.distills}
        return OATTrainer(classifier, attack=attack, seed=seed, **widths, **self.options)


def digits(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64], list[Fold]]:
    """Return all digits in scikit-learn's order, and three folds."""
    bunch = load_digits()
    x, y = (bunch.images[:, np.newaxis] / 16).astype(np.float32), bunch.target.astype(np.int64)
    return x, y, list(StratifiedKFold(3, shuffle=True, random_state=seed).split(x, y))


DIGITS = Task(
    name="digits",
    seeds=(0, 1, 2),
    nb_epochs=30,
    input_shape=(1, 8, 8),
    build=lambda width: SmallCNN(channels=[int(width * channels) for channels in (16, 32, 64)]),
    data=digits,
    attack=PGD(0.2, 0.05, 7),
    weight_decay=3e-3,
    options={"sampling": StratifiedSampling({1.0: 3.3})},
)


def right(networks: Sequence[nn.Module], x: Tensor, y: Tensor, eps: float, seed: int) -> NDArray[np.float64]:
    """Return what plain networks answer right, clean and under PGD-20: ``[2, N, networks]``."""
    judge, found = PGD(eps, 2.5 * eps / 20, 20), []
    for network in networks:
        generator = torch.Generator().manual_seed(seed)
        masks = robust_correct(network, x, y, judge, clip_values=(0, 1), generator=generator)
        found.append(torch.stack(masks).cpu().double().numpy())
    return np.stack(found, axis=2)


def answers(task: Task, way: Way, seed: int, nb_epochs: int) -> Answers:
    """Train on each fold's rest; judge every test image at every lam and width."""
    x, y, folds = task.data(seed)
    found: dict[float, list[NDArray[np.float64]]] = {width: [] for width in way.widths}
    for train, test in folds:
        trainer = task.trainer(way, seed)
        trainer.fit(x[train], y[train], nb_epochs=nb_epochs, scheduler=OneCycle(), verbose=False)
        classifier = trainer.get_classifier()
        images, labels = classifier.as_tensors(x[test], y[test])
        for width in way.widths:
            networks = [classifier.at(lam, width).as_module() for lam in classifier.model.lambdas]
            found[width].append(right(networks, images, labels, task.attack.eps, seed))
    order = np.argsort(np.concatenate([test for _, test in folds]), kind="stable")
    return {width: np.concatenate(parts, axis=1)[:, order] for width, parts in found.items()}


def measure(task: Task, epochs: Mapping[Way, int], runs: Path) -> dict[Way, Answers]:
    """Return means over seeds; every seed of every way is kept as soon as it is done."""
    found: dict[Way, list[Answers]] = {way: [] for way in epochs}
    for seed, (way, nb_epochs) in itertools.product(task.seeds, epochs.items()):
        path = runs / f"{task.name}-{way.name}-{nb_epochs}-{seed}.npz".replace(" ", "_")
        if not path.exists():
            started = time.perf_counter()
            made = answers(task, way, seed, nb_epochs)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **{str(width): values for width, values in made.items()})
            shares = {width: values.mean(axis=(1, 2)).round(3).tolist() for width, values in made.items()}
            print(f"{task.name}, {way.name}, seed {seed}: {time.perf_counter() - started:.0f} s, {shares}", flush=True)
        with np.load(path) as kept:
            found[way].append({float(width): kept[width] for width in kept.files})
    return {
        way: {width: np.mean([it[width] for it in every], axis=0) for width in way.widths}
        for way, every in found.items()
    }


def row(values: NDArray[np.float64], reference: NDArray[np.float64], against: str) -> Row:
    """Report means over lams, differences from a reference, and robust accuracy at each lam."""
    by_lam = zip(DEFAULT_LAMBDAS, values[1].mean(axis=0), strict=True)
    return paired(values, reference, against) | {f"robust@{lam:g}": f"{share:.4f}" for lam, share in by_lam}
