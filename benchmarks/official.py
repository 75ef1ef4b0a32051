"""The published OAT code against ours: same data, seeds and steps; accuracies at every lam, and time per step.

    python -m benchmarks.official --official DIR                                # digits, some 80 minutes on one core
    python -m benchmarks.official --official DIR --data cifar10 --data-folder FOLDER --network resnet-34 \\
        --nb-epochs 200 --batch-size 128                                        # as published; wants a GPU
    python -m benchmarks.official --official DIR --smoke                        # seconds; writes nothing

DIR is a checkout of VITA-Group/Once-for-All-Adversarial-Training (Wang et al. 2020, arXiv:2010.11828). Its network is
imported, and nothing else of it. Its training script cannot be run as it is: it puts everything on a GPU, reads data
through torchvision and writes to a fixed folder; changed to suit, it would time and compare other people's data loader
and our changes. So its step is written out here, from reading it at commit 2615279. With its own sampler, context and
attack in place of ours (and ``.cuda()`` made harmless), four steps gave the same weights to the last bit, in the same
time. The networks need torch alone: torchvision is never imported, nothing is stubbed, and DIR is not written to.

Three networks see the same batches in the same order, under the same optimizer (SGD, momentum 0.9, weight decay 5e-4 on
every parameter, a cosine stepped per epoch), and their last weights are judged by the same PGD-20:

- "published": their network, their step.
- "ours, published layout": ``to_published``, by ``OATTrainer``. Starts from the very weights and codes of the first;
  that both then give the same scores is checked.
- "ours": ``to_conditional``, by ``OATTrainer``: what a user gets. Starts from weights of its own.

What the published code does, and where ours differs:

- Lams: of a batch of B, the first ceil(B/6) samples get 0, the others draw from the rest of the list, independently.
  ``OATTrainer`` gives every lam its share of every batch, and shuffles which samples get which.
- A step answers the clean batch in training mode, attacks in evaluation mode, and answers the attacked samples, those
  with lam above 0: its attack sees statistics that hold this batch already. ``OATTrainer`` attacks first.
- The position in the batch chooses the side of a norm, so clean inputs of samples with lam above 0 go to the side of
  attacked ones, as in ours. On several GPUs each one is told the position in the whole batch, and sends samples to the
  wrong side. The dual norm is an option, which their command sets; here it is on, on one device.
- FiLM follows every norm but those of ResNet's shortcuts and WRN's last one. It ends in a leaky ReLU, and starts as
  torch starts linear layers, with scales near 0: an untrained network hardly depends on its input in evaluation mode.
  That of ``to_conditional`` follows every norm, has no last leaky ReLU, and starts as the identity.
- Convolutions start as torch starts them; those of ``art_oat.models`` as torch's ResNets do (only in "ours").
- The attack is PGD-7 with step min(1.25 eps, eps + 4/255) / 7 from a random start, as ``art_oat.PGD``, on the
  conditional network, which computes its FiLM in every pass. ``OATTrainer`` attacks a plain network, norm and FiLM
  merged.
- The published results take the best of several checkpoints, one per lam, by validation images. Here nothing is chosen.
- CIFAR-10 is cropped and mirrored, and batches that are not full are left out. So it is here. Digits are not changed,
  only enlarged from 8x8 to the 32x32 that the published networks need.

Differences from "published" are paired by image, averaged over lams and seeds, with a 95% bootstrap interval over
images. That does not hold what another seed of the training would change, which was more than 5 points in trainings of
200 steps: take several seeds. Times are those of whole steps on one batch, in turns, see ``turns.py``.
"""

import argparse
import copy
import importlib
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, default_collate

from art_oat import PGD, OATClassifier, OATModel, OATTrainer, RandomCropFlip, to_conditional
from art_oat.attacks import TensorAttack, bind, robust_correct
from art_oat.contexts import borrowed_generators
from art_oat.data import Split, load
from art_oat.layers import DEFAULT_LAMBDAS
from art_oat.models import ResNet, WideResNet, resnet34
from art_oat.surgery import to_published
from art_oat.training import Method
from art_oat.training.step import Step
from benchmarks import record
from benchmarks.attack_sources import interval
from benchmarks.timing import take_turns

REPOSITORY = "VITA-Group/Once-for-All-Adversarial-Training"
CLASSES = {
    "resnet": ("models.cifar10.resnet_OAT", "ResNet34OAT"),
    "wrn": ("models.svhn.wide_resnet_OAT", "WideResNetOAT"),
}
NETWORKS = ("wrn-10-1", "wrn-16-2", "wrn-16-8", "wrn-40-2", "resnet-34")
NB_CLASSES, SHAPE, DROPOUT = 10, (3, 32, 32), 0.3
THEIRS, LAYOUT, OURS = "published", "ours, published layout", "ours"

# What the layers of the published networks are called in ours: those outside of blocks, those in them, and their parts.
OUTSIDE = {
    "resnet": {"conv1": "stem.0", "bn1": "stem.1", "film1": "stem.1.film", "linear": "head"},
    "wrn": {"conv1": "stem", "bn1": "norm", "fc": "head"},
}
INSIDE = {
    "resnet": {
        "conv1": "body.0",
        "bn1": "body.1",
        "film1": "body.1.film",
        "conv2": "body.3",
        "bn2": "body.4",
        "film2": "body.4.film",
        "conv_sc": "shortcut.0",
        "bn_sc": "shortcut.1",
    },
    "wrn": {
        "bn1": "norm1",
        "film1": "norm1.film",
        "conv1": "conv1",
        "bn2": "norm2",
        "film2": "norm2.film",
        "conv2": "conv2",
        "convShortcut": "shortcut",
    },
}
PARTS = {"BN_c": "clean", "BN_a": "adversarial", "MLP.0": "hidden", "MLP.2": "output"}


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

    @property
    def family(self) -> str:
        return self.network.split("-")[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(map(int, self.network.split("-")[1:]))


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let ``models`` be that of a folder within the block; afterwards nothing of it is left, nor written to it."""
    hidden = _modules()
    path, is_quiet = list(sys.path), sys.dont_write_bytecode
    for name in hidden:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, is_quiet
        for name in _modules():
            del sys.modules[name]
        sys.modules.update(hidden)


def _modules() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "models"}


def published_class(folder: Path, family: str) -> Callable[..., nn.Module]:
    """Return the class of the published conditional networks of a family, ``"resnet"`` or ``"wrn"``.

    Raises:
        ValueError: If the folder is no checkout of the published code.
    """
    module, name = CLASSES[family]
    try:
        if not (folder / (module.replace(".", "/") + ".py")).is_file():
            raise ImportError(f"there is no {module.replace('.', '/')}.py")
        with importable(folder.resolve()):
            return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"--official must name a checkout of the published OAT code, got {str(folder)!r}: {error}. "
            f"It is on GitHub as {REPOSITORY}: clone that and give the folder."
        ) from error


def published_network(folder: Path, settings: Settings, code_dim: int) -> nn.Module:
    """Build the published conditional network, dual norms on, from torch's global generator."""
    build = published_class(folder, settings.family)
    sizes = {"depth": settings.sizes[0], "widen_factor": settings.sizes[-1], "dropRate": DROPOUT}
    options = sizes if settings.family == "wrn" else {}
    return build(num_classes=NB_CLASSES, FiLM_in_channels=code_dim, use2BN=True, **options)


def plain_network(settings: Settings) -> ResNet | WideResNet:
    """Build our plain network of the same architecture, from torch's global generator."""
    return resnet34() if settings.family == "resnet" else WideResNet(*settings.sizes, dropout=DROPOUT)


def our_name(name: str, family: str) -> str:
    """Return what a tensor of a published network is called in ``to_published`` of ours.

    Example: ``bundle2.0.bn1.BN_a.weight`` of a WRN is ``stages.1.0.norm1.adversarial.weight``.
    """
    block = re.match(r"bundle(\d+)\.(\d+)\.", name)
    layer, rest = name[block.end() if block else 0 :].split(".", 1)
    stage = f"stages.{int(block[1]) - 1}.{block[2]}." if block else ""
    for theirs, ours in PARTS.items():
        rest = rest.replace(theirs, ours)
    return f"{stage}{(INSIDE if block else OUTSIDE)[family][layer]}.{rest}"


class Conditioned(nn.Module):
    """A published network as an ordinary one, at one code for the whole batch or one per sample.

    Args:
        network: Is called with images, codes ``[N, D]`` and the number of samples, at the front, with lam = 0.
        code: ``[1, D]`` or ``[N, D]``.
        is_clean: Whether lam is 0, for all samples, or above 0.
    """

    def __init__(self, network: nn.Module, code: Tensor, *, is_clean: bool) -> None:
        super().__init__()
        self.network = network
        self.code = code
        self.is_clean = is_clean

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for images ``[N, C, H, W]``."""
        return self.network(x, self.code.expand(len(x), -1), len(x) if self.is_clean else 0)


def published_draw(lambdas: Sequence[float], batch_size: int, generator: torch.Generator) -> Tensor:
    """Draw which lam each sample gets, int64 ``[batch_size]``: ceil(B / k) zeros first, the others independently.

    Args:
        lambdas: ``k`` of them, ascending.
        batch_size: ``B``.
        generator: What is drawn from.
    """
    has_zero = lambdas[0] == 0
    nb_clean = math.ceil(batch_size / len(lambdas)) if has_zero else 0
    others = torch.randint(int(has_zero), len(lambdas), (batch_size - nb_clean,), generator=generator)
    return torch.cat([others.new_zeros(nb_clean), others])


@dataclass(frozen=True)
class PublishedStep:
    """One step of the published training, in its order.

    ``mean((1 - lam) CE(f(x; lam), y) + lam CE(f(x_adv; lam), y))``, the second term without the samples of lam = 0.

    Args:
        network: As :class:`Conditioned` takes it.
        lambdas: Ascending.
        codes: One row per lam, ``[k, D]``.
        optimizer: Of the network's parameters, all of which are trained.
        attack: Runs on the network in evaluation mode.
        generator: What lams and attacks are drawn from.
    """

    network: nn.Module
    lambdas: tuple[float, ...]
    codes: Tensor
    optimizer: optim.Optimizer
    attack: TensorAttack
    generator: torch.Generator

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Train on one batch: images ``[N, C, H, W]`` in [0, 1], class indices ``[N]``."""
        index = published_draw(self.lambdas, len(x), self.generator).to(x.device)
        lam, code = x.new_tensor(self.lambdas)[index], self.codes[index]
        nb_clean = int((lam == 0).sum())
        self.network.train()
        clean = F.cross_entropy(self.network(x, code, nb_clean), y, reduction="none")
        y_adv, code = y[nb_clean:], code[nb_clean:]
        x_adv = self._attacked(x[nb_clean:], y_adv, code)
        adversarial = F.cross_entropy(self.network(x_adv, code, 0), y_adv, reduction="none")
        loss = (((1 - lam) * clean).sum() + (lam[nb_clean:] * adversarial).sum()) / len(x)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _attacked(self, x: Tensor, y: Tensor, code: Tensor) -> Tensor:
        bound = Conditioned(self.network, code, is_clean=False)
        self.network.eval().requires_grad_(False)
        try:
            return self.attack(bound, x, y, clip_values=(0.0, 1.0), generator=self.generator)
        finally:
            self.network.train().requires_grad_(True)


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
        optimizer = sgd(self.published, settings)
        return PublishedStep(self.published, self.lambdas, self.codes, optimizer, PGD(settings.eps), generator)


def sgd(network: nn.Module, settings: Settings) -> optim.SGD:
    return optim.SGD(network.parameters(), settings.learning_rate, momentum=0.9, weight_decay=5e-4)


def contestants(folder: Path, settings: Settings, seed: int) -> Contestants:
    """Build the three networks; the published one and ours in its layout start from the same weights and codes.

    Raises:
        RuntimeError: If these two do not give the same scores.
    """
    with borrowed_generators(seed=seed):
        plain = plain_network(settings)
        layout = to_published(plain, seed=seed)
        published = published_network(folder, settings, layout.encoding.dim)
    state = {our_name(name, settings.family): tensor for name, tensor in published.state_dict().items()}
    layout.network.load_state_dict(state)
    _check_start(published, layout)
    ours = {LAYOUT: layout, OURS: to_conditional(plain, seed=seed)}
    classifiers = {name: _classifier(model, settings) for name, model in ours.items()}
    return Contestants(published.to(classifiers[LAYOUT].device), classifiers)


def _classifier(model: OATModel, settings: Settings) -> OATClassifier:
    return OATClassifier(model, nn.CrossEntropyLoss(), SHAPE, NB_CLASSES, sgd(model, settings), clip_values=(0, 1))


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


def stands(networks: Sequence[nn.Module], test: Split, settings: Settings, seed: int) -> NDArray[np.float64]:
    """Return what plain networks answer right, clean and under PGD-20: ``[2, N, networks]``."""
    device = next(networks[0].parameters()).device
    x, y = torch.from_numpy(test.x).to(device), torch.from_numpy(test.y).to(device)
    judge = PGD(settings.eps, 2.5 * settings.eps / 20, 20)
    found = []
    for network in networks:
        generator = torch.Generator().manual_seed(seed)
        masks = robust_correct(network, x, y, judge, clip_values=(0, 1), generator=generator)
        found.append(torch.stack(masks).cpu().double().numpy())
    return np.stack(found, axis=2)


def accuracies(folder: Path, settings: Settings) -> dict[str, NDArray[np.float64]]:
    """Train all three on every seed; return what stands, averaged over seeds: ``[2, N, lams]`` by name."""
    train, test = images(settings)
    runs: dict[str, list[NDArray[np.float64]]] = {THEIRS: [], LAYOUT: [], OURS: []}
    for seed in settings.seeds:
        built = contestants(folder, settings, seed)
        train_published(built, batches(train, settings, seed), settings, seed)
        networks = {THEIRS: [built.published_at(lam) for lam in built.lambdas]}
        for name, classifier in built.ours.items():
            train_ours(classifier, batches(train, settings, seed), settings, seed)
            networks[name] = [classifier.at(lam).as_module() for lam in built.lambdas]
        for name, points in networks.items():
            runs[name].append(stands(points, test, settings, seed))
            clean, robust = runs[name][-1].mean(axis=(1, 2))
            print(f"seed {seed}, {name}: clean {clean:.4f}, robust {robust:.4f}, mean over lams", flush=True)
    return {name: np.mean(found, axis=0) for name, found in runs.items()}


def step_seconds(folder: Path, settings: Settings) -> dict[str, float]:
    """Return the median seconds of a training step of each, in turns, the first round not counted."""
    seed = settings.seeds[0]
    built = contestants(folder, settings, seed)
    steps: dict[str, Callable[[Tensor, Tensor], None]] = {THEIRS: built.published_step(settings, seed)}
    for name, classifier in built.ours.items():
        attack = bind(PGD(settings.eps), classifier)
        steps[name] = Step(classifier, Method(), attack, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(settings.batch_size, *SHAPE, generator=generator).to(built.codes)
    y = torch.randint(NB_CLASSES, (settings.batch_size,), generator=generator).to(x.device)
    with borrowed_generators(x.device, seed):
        turns = take_turns({name: partial(step, x, y) for name, step in steps.items()}, settings.nb_rounds)
    return {name: turns.median(name) for name in steps}


def rows(found: Mapping[str, NDArray[np.float64]], seconds: Mapping[str, float]) -> Iterator[dict[str, object]]:
    """Report each network at every lam, and its mean over lams with the differences and the times."""
    for name, values in found.items():
        for lam, (clean, robust) in zip(DEFAULT_LAMBDAS, values.mean(axis=1).T, strict=True):
            yield {"network": name, "lam": lam, "clean": f"{clean:.4f}", "robust": f"{robust:.4f}"}
        row: dict[str, object] = {"network": name, "lam": "mean"}
        for kind, own, reference in zip(("clean", "robust"), values, found[THEIRS], strict=True):
            difference = own.mean(axis=1) - reference.mean(axis=1)
            low, high = interval(difference)
            row |= {kind: f"{own.mean():.4f}", f"{kind} minus published": f"{difference.mean():+.4f}"}
            row |= {f"{kind} 95% interval": f"{low:+.4f} to {high:+.4f}"}
        ratio = seconds[name] / seconds[THEIRS]
        yield row | {"seconds per step": f"{seconds[name]:.4f}", "ratio to published": f"{ratio:.3f}"}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    usual = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True, metavar="DIR", help="checkout of the published code")
    parser.add_argument("--network", choices=NETWORKS, default=usual.network)
    parser.add_argument("--data", choices=("digits", "cifar10"), default=usual.data)
    parser.add_argument("--data-folder", help="where CIFAR-10 lies")
    parser.add_argument("--nb-train", type=int, help="training images to keep; all by default")
    parser.add_argument("--nb-test", type=int, help="test images to keep; all by default")
    parser.add_argument("--nb-epochs", type=int, default=usual.nb_epochs)
    parser.add_argument("--batch-size", type=int, default=usual.batch_size)
    parser.add_argument("--learning-rate", type=float, default=usual.learning_rate)
    parser.add_argument("--eps", type=float, default=usual.eps, help="radius of all attacks; 8/255 by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=usual.seeds)
    parser.add_argument("--nb-rounds", type=int, default=usual.nb_rounds, help="steps of each that are timed")
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--smoke", action="store_true", help="two steps on a few images, nothing written")
    arguments = parser.parse_args(argv)
    try:
        published_class(arguments.official, arguments.network.split("-")[0])
    except ValueError as fault:
        parser.error(str(fault))
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    values = {name: value for name, value in vars(arguments).items() if name not in ("official", "out", "smoke")}
    settings = Settings(**values | {"seeds": tuple(arguments.seeds)})
    if arguments.smoke:
        tiny = {"nb_train": 24, "nb_test": 3, "nb_epochs": 1, "batch_size": 12, "nb_rounds": 1}
        settings = replace(settings, seeds=settings.seeds[:1], **tiny)
    found = accuracies(arguments.official, settings)
    table = list(rows(found, step_seconds(arguments.official, settings)))
    print(record.text(table))
    if arguments.out is not None and not arguments.smoke:
        made_by = record.environment(_command(arguments, argv), settings.seeds)
        record.write(arguments.out, table, made_by | {"published commit": record.commit(arguments.official)})


def _command(arguments: argparse.Namespace, argv: Sequence[str] | None) -> str:
    """Return the command without what only this machine knows."""
    places = {str(arguments.official): "DIR", arguments.data_folder: "FOLDER", str(arguments.out): "FILE.csv"}
    words = [places.get(word, word) for word in (sys.argv[1:] if argv is None else argv)]
    return shlex.join(["python", "-m", "benchmarks.official", *words])


if __name__ == "__main__":
    main()
