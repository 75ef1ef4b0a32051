"""The network and the training step of the published OAT code, and what its tensors are called in ours.

The network is imported from a checkout of VITA-Group/Once-for-All-Adversarial-Training, and nothing else of it. Its
training script cannot be run as it is: it puts everything on a GPU, reads data through torchvision and writes to a
fixed folder; changed to suit, it would time and compare other people's data loader and our changes. So its step is
written out here, from reading it at commit 2615279. With its own sampler, context and attack in place of ours (and
``.cuda()`` made harmless), four steps gave the same weights to the last bit, in the same time. The networks need torch
alone: torchvision is never imported, nothing is stubbed, and the checkout is not written to.

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
"""

import importlib
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from art_oat.attacks import TensorAttack
from benchmarks.steps import DROPOUT, NB_CLASSES

REPOSITORY = "VITA-Group/Once-for-All-Adversarial-Training"
CLASSES = {
    "resnet": ("models.cifar10.resnet_OAT", "ResNet34OAT"),
    "wrn": ("models.svhn.wide_resnet_OAT", "WideResNetOAT"),
}

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


def published_class(folder: Path, network: str) -> Callable[..., nn.Module]:
    """Return the class of the published conditional networks, for a name such as ``"wrn-10-1"``.

    Raises:
        ValueError: If the folder is no checkout of the published code.
    """
    module, name = CLASSES[family_of(network)]
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


def family_of(network: str) -> str:
    return network.partition("-")[0]


def published_network(folder: Path, network: str, code_dim: int) -> nn.Module:
    """Build the published conditional network, dual norms on, from torch's global generator."""
    build = published_class(folder, network)
    depth, *widen_factor = map(int, network.split("-")[1:])
    options = {"depth": depth, "widen_factor": widen_factor[0], "dropRate": DROPOUT} if widen_factor else {}
    return build(num_classes=NB_CLASSES, FiLM_in_channels=code_dim, use2BN=True, **options)


def our_name(name: str, network: str) -> str:
    """Return what a tensor of a published network is called in ``to_published`` of ours.

    Example: ``bundle2.0.bn1.BN_a.weight`` of a WRN is ``stages.1.0.norm1.adversarial.weight``.
    """
    family = family_of(network)
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
