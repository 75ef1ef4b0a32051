"""The published OAT code against ours: same data, seeds and steps; accuracies at every lam, and time per step.

    python -m benchmarks.official --official DIR                                # digits, some 80 minutes on one core
    python -m benchmarks.official --official DIR --data cifar10 --data-folder FOLDER --network resnet-34 \\
        --nb-epochs 200 --batch-size 128                                        # as published; wants a GPU

DIR is a checkout of VITA-Group/Once-for-All-Adversarial-Training (Wang et al. 2020, arXiv:2010.11828), see
``published.py``. Three networks see the same batches in the same order, under the same optimizer (SGD, momentum 0.9,
weight decay 5e-4 on every parameter, a cosine stepped per epoch), and their last weights are judged by the same PGD-20:

- "published": their network, their step.
- "ours, published layout": ``to_published``, by ``OATTrainer``. Starts from the very weights and codes of the first;
  that both then give the same scores is checked.
- "ours": ``to_conditional``, by ``OATTrainer``: what a user gets. Starts from weights of its own.

The published results take the best of several checkpoints, one per lam, by validation images. Here nothing is chosen.
CIFAR-10 is cropped and mirrored, and batches that are not full are left out, as published. Digits are not changed, only
enlarged from 8x8 to the 32x32 that the published networks need.

Differences from "published" are paired by image, averaged over lams and seeds, with a 95% bootstrap interval over
images. That does not hold what another seed of the training would change, which was more than 5 points in trainings of
200 steps: take several seeds. Times are those of whole steps on one batch, in turns, see ``timing.py``.
"""

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset, default_collate

from art_oat import PGD, OATClassifier, OATModel, OATTrainer, to_conditional
from art_oat.contexts import borrowed_generators
from art_oat.data import Split, load
from art_oat.data.augmentation import RandomCropFlip
from art_oat.layers import DEFAULT_LAMBDAS
from art_oat.surgery import to_published
from benchmarks.folds import right
from benchmarks.published import Conditioned, PublishedStep, our_name, published_class, published_network
from benchmarks.statistics import paired
from benchmarks.steps import NB_CLASSES, NETWORKS, SHAPE, batch, plain_network, sgd, step_for
from benchmarks.study import Found, run
from benchmarks.tables import Row
from benchmarks.timing import take_turns

THEIRS, LAYOUT, OURS = "published", "ours, published layout", "ours"


@dataclass(frozen=True)
class Settings:
    """What all networks have in common; ``eps`` is in units of pixels in [0, 1]."""

    network: str = "wrn-10-1"
    data: str = "digits"
    data_folder: str | None = None
    nb_train: int | None = None
    nb_test: int | None = None
    nb_epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 0.1
    eps: float = 8 / 255
    seeds: tuple[int, ...] = (0, 1, 2)
    nb_rounds: int = 20


@dataclass(frozen=True)
class Contestants:
    """The three networks before training."""

    published: nn.Module
    ours: dict[str, OATClassifier]

    @property
    def codes(self) -> Tensor:
        return self.ours[LAYOUT].model.encoding.table

    @property
    def lambdas(self) -> tuple[float, ...]:
        return self.ours[LAYOUT].model.lambdas

    def published_at(self, lam: float) -> Conditioned:
        """Return the published network at a lam, in evaluation mode."""
        row = self.lambdas.index(lam)
        return Conditioned(self.published.eval(), self.codes[row : row + 1], is_clean=lam == 0)

    def published_step(self, settings: Settings, seed: int) -> PublishedStep:
        generator = torch.Generator().manual_seed(seed)
        optimizer = sgd(self.published, settings.learning_rate)
        return PublishedStep(self.published, self.lambdas, self.codes, optimizer, PGD(settings.eps), generator)


def contestants(folder: Path, settings: Settings, seed: int) -> Contestants:
    """Build the three networks; the published one and ours in its layout start from the same weights and codes.

    Raises:
        RuntimeError: If these two do not give the same scores.
    """
    with borrowed_generators(seed=seed):
        plain = plain_network(settings.network)
        layout = to_published(plain, seed=seed)
        published = published_network(folder, settings.network, layout.encoding.dim)
    state = {our_name(name, settings.network): tensor for name, tensor in published.state_dict().items()}
    layout.network.load_state_dict(state)
    _check_start(published, layout)
    ours = {LAYOUT: layout, OURS: to_conditional(plain, seed=seed)}
    classifiers = {name: _classifier(model, settings) for name, model in ours.items()}
    return Contestants(published.to(classifiers[LAYOUT].device), classifiers)


def _classifier(model: OATModel, settings: Settings) -> OATClassifier:
    return OATClassifier(
        model, nn.CrossEntropyLoss(), SHAPE, NB_CLASSES, sgd(model, settings.learning_rate), clip_values=(0, 1)
    )


@torch.no_grad()
def _check_start(published: nn.Module, layout: OATModel) -> None:
    """Compare scores in training mode: in evaluation the untrained published network hardly depends on its input."""
    theirs, ours = (copy.deepcopy(network).double().train() for network in (published, layout))
    index = torch.arange(len(layout.lambdas)).repeat_interleave(2)
    x = torch.rand(len(index), *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with borrowed_generators(seed=0):  # both drop the same features
        expected = theirs(x, ours.encoding.table[index], 2)
    with borrowed_generators(seed=0):
        scores = ours(x, x.new_tensor(layout.lambdas)[index])
    difference = float((scores - expected).abs().max() / expected.abs().max())
    if not difference < 1e-8:  # noqa: PLR2004 - float64 through some 40 layers
        raise RuntimeError(
            "the published network and ours must give the same scores from the same weights, got a difference of "
            f"{difference:.1e}, relative to the largest. Is DIR at another commit than 2615279?"
        )


def images(settings: Settings) -> tuple[Split, Split]:
    """Return training and test images, ``[N, 3, 32, 32]``; smaller gray ones are enlarged, pixel by pixel."""
    options = {"folder": settings.data_folder, "nb_train": settings.nb_train, "nb_test": settings.nb_test}
    data = load(settings.data, **options)
    return tuple(Split(_enlarged(split.x), split.y) for split in (data.train, data.test))


def _enlarged(x: NDArray[np.float32]) -> NDArray[np.float32]:
    channels, height, width = (wanted // given for wanted, given in zip(SHAPE, x.shape[1:], strict=True))
    return x.repeat(channels, axis=1).repeat(height, axis=2).repeat(width, axis=3)


def batches(train: Split, settings: Settings, seed: int) -> DataLoader[Any]:
    """Return a loader that gives the same batches, in the same order, to whoever goes through a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    change = RandomCropFlip() if settings.data == "cifar10" else lambda x, _: x

    def collate(samples: list[Any]) -> list[Tensor]:
        x, y = default_collate(samples)
        return [change(x, generator), y]

    pairs = TensorDataset(torch.from_numpy(train.x), torch.from_numpy(train.y))
    return DataLoader(pairs, settings.batch_size, shuffle=True, drop_last=True, collate_fn=collate, generator=generator)


def train_published(built: Contestants, loader: DataLoader[Any], settings: Settings, seed: int) -> None:
    step = built.published_step(settings, seed)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(step.optimizer, settings.nb_epochs)
    with borrowed_generators(built.codes.device, seed):  # for dropout
        for _ in range(settings.nb_epochs):
            for x, y in loader:
                step(x.to(built.codes), y.to(built.codes.device))
            scheduler.step()


def train_ours(classifier: OATClassifier, loader: DataLoader[Any], settings: Settings, seed: int) -> None:
    scheduler = optim.lr_scheduler.CosineAnnealingLR(classifier.optimizer, settings.nb_epochs)
    trainer = OATTrainer(classifier, attack=PGD(settings.eps), seed=seed)
    trainer.fit(loader, nb_epochs=settings.nb_epochs, scheduler=scheduler, verbose=False)


def accuracies(folder: Path, settings: Settings) -> dict[str, NDArray[np.float64]]:
    """Train all three on every seed; return what is right, averaged over seeds: ``[2, N, lams]`` by name."""
    train, test = images(settings)
    runs: dict[str, list[NDArray[np.float64]]] = {THEIRS: [], LAYOUT: [], OURS: []}
    for seed in settings.seeds:
        built = contestants(folder, settings, seed)
        train_published(built, batches(train, settings, seed), settings, seed)
        networks: dict[str, list[nn.Module]] = {THEIRS: [built.published_at(lam) for lam in built.lambdas]}
        for name, classifier in built.ours.items():
            train_ours(classifier, batches(train, settings, seed), settings, seed)
            networks[name] = [classifier.at(lam).as_module() for lam in built.lambdas]
        x, y = built.ours[OURS].as_tensors(*test)
        for name, points in networks.items():
            runs[name].append(right(points, x, y, settings.eps, seed))
            clean, robust = runs[name][-1].mean(axis=(1, 2))
            print(f"seed {seed}, {name}: clean {clean:.4f}, robust {robust:.4f}, mean over lams", flush=True)
    return {name: np.mean(found, axis=0) for name, found in runs.items()}


def step_seconds(folder: Path, settings: Settings) -> dict[str, float]:
    """Return the median seconds of a training step of each, in turns."""
    seed = settings.seeds[0]
    built = contestants(folder, settings, seed)
    steps: dict[str, Any] = {THEIRS: built.published_step(settings, seed)}
    for name, classifier in built.ours.items():
        steps[name] = step_for(OATTrainer(classifier, attack=PGD(settings.eps), seed=seed))
    x, y = batch(settings.batch_size, built.codes.device)
    with borrowed_generators(x.device, seed):
        turns = take_turns({name: partial(step, x, y) for name, step in steps.items()}, settings.nb_rounds)
    return {name: turns.median(name) for name in steps}


def rows(found: Mapping[str, NDArray[np.float64]], seconds: Mapping[str, float]) -> Iterator[Row]:
    """Report each network at every lam, and its mean over lams with the differences and the times."""
    for name, values in found.items():
        for lam, (clean, robust) in zip(DEFAULT_LAMBDAS, values.mean(axis=1).T, strict=True):
            yield {"network": name, "lam": lam, "clean": f"{clean:.4f}", "robust": f"{robust:.4f}"}
        row = {"network": name, "lam": "mean"} | paired(values, found[THEIRS], "published")
        ratio = seconds[name] / seconds[THEIRS]
        yield row | {"seconds per step": f"{seconds[name]:.4f}", "ratio to published": f"{ratio:.3f}"}


def measure(given: argparse.Namespace) -> Found:
    published_class(given.official, given.network)  # refuses another folder before anything is trained
    values = {part.name: getattr(given, part.name) for part in fields(Settings)}
    settings = Settings(**values | {"seeds": tuple(given.seeds)})
    if given.smoke:
        tiny = {"nb_train": 24, "nb_test": 3, "nb_epochs": 1, "batch_size": 12, "nb_rounds": 1}
        settings = replace(settings, seeds=settings.seeds[:1], **tiny)
    found = accuracies(given.official, settings)
    return Found({f"official_{given.data}": list(rows(found, step_seconds(given.official, settings)))}, settings.seeds)


OPTIONS: dict[str, dict[str, Any]] = {
    "--official": {"type": Path, "required": True, "metavar": "DIR", "help": "checkout of the published code"},
    "--network": {"choices": NETWORKS},
    "--data": {"choices": ("digits", "cifar10")},
    "--data-folder": {"help": "where CIFAR-10 lies"},
    "--nb-train": {"type": int, "help": "training images to keep; all by default"},
    "--nb-test": {"type": int, "help": "test images to keep; all by default"},
    "--nb-epochs": {"type": int},
    "--batch-size": {"type": int},
    "--learning-rate": {"type": float},
    "--eps": {"type": float, "help": "radius of all attacks; 8/255 by default"},
    "--seeds": {"type": int, "nargs": "+"},
    "--nb-rounds": {"type": int, "help": "steps of each that are timed"},
}
for part in fields(Settings):
    OPTIONS[f"--{part.name.replace('_', '-')}"]["default"] = part.default


def main(words: Sequence[str] | None = None) -> None:
    run("official", __doc__, measure, OPTIONS, words)


if __name__ == "__main__":
    main()
