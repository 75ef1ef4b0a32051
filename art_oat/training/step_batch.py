"""The batch of a step, and the part of it that one of several processes trains on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from art_oat.attacks import BoundAttack, Rows
from art_oat.checks import as_array
from art_oat.classifier import OATClassifier
from art_oat.group import ALONE, Group
from art_oat.layers import BatchNormLayer
from art_oat.training.batches import is_generator
from art_oat.training.loss import total_weight, value_fault
from art_oat.training.method import Method
from art_oat.training.safeguard import UnfitError

_ADVICE = (
    " A loader that gives each process its own samples has a DistributedSampler, or is given as PerProcess(loader)."
)


@dataclass(frozen=True)
class Whole:
    """What every process knows of all samples of a step: labels, and weights of the adversarial term.

    Where each has samples of its own, also how many of them, and how many of these are attacked, by process.
    """

    y: Tensor
    weight: Tensor
    nb_samples: Sequence[int] = ()
    nb_attacked: Sequence[int] = ()

    @property
    def is_attacked(self) -> Tensor:
        """Which samples are attacked, bool ``[N]``."""
        return self.weight > 0


@dataclass(frozen=True)
class StepBatch:
    """What every width of a step has in common; the weight of the adversarial term is 0 in a clean epoch.

    The attack has a share of its radius. A part, of one of several processes or of a step that accumulates gradients,
    has some of the samples, the ``rows`` of the ``whole``, which has them all.
    """

    x: Tensor
    y: Tensor
    lam: Tensor
    weight: Tensor
    eps_share: float
    whole: Whole | None = None
    rows: Tensor | None = None

    @property
    def joint(self) -> Whole:
        """What is known of all samples of the step, be it a part of them or not."""
        return self.whole or Whole(self.y, self.weight)

    def part(self, group: Group) -> StepBatch:
        """Return what this process trains on; it itself, where that is all."""
        if group.size == 1:
            return self
        group.check_same("the batches of a training, and what is drawn for them,", self._mark, _ADVICE)
        if fault := _size_fault(len(self.x), int(self.is_attacked.sum()), group):
            raise UnfitError(ValueError(fault))
        return self._rows(group.share(len(self.x)))

    def split(self, nb_parts: int, group: Group = ALONE) -> list[StepBatch]:
        """Return parts of alike many samples of each lam, as many in each process; at most one for each sample."""
        most = self.joint.nb_samples or [len(self.joint.y) // group.size]
        nb_parts = max(min(nb_parts, *most), 1)
        return [self] if nb_parts == 1 else [self._rows(slice(first, None, nb_parts)) for first in range(nb_parts)]

    def _rows(self, own: slice) -> StepBatch:
        x = self.x[own].clone()  # in the same layout in memory, without gaps
        rows = torch.arange(len(self.x), device=self.x.device) if self.rows is None else self.rows
        return StepBatch(x, self.y[own], self.lam[own], self.weight[own], self.eps_share, self.joint, rows[own])

    def _mark(self) -> list[float]:
        """Return numbers that hardly another batch has; sums of bytes do not depend on their order."""
        tensors = [self.x.contiguous(), self.y, self.lam]
        return [len(self.x), *self.x.flatten()[:8].tolist(), *(int(it.view(torch.uint8).sum()) for it in tensors)]

    def portion(self, criterion: nn.CrossEntropyLoss | None, *, of_attacked: bool = False) -> float:
        """Return which portion of the mean over the whole batch the mean over this part is; None weighs all alike."""
        if self.whole is None:
            return 1.0
        own, whole = self.y, self.whole.y
        if of_attacked:
            own, whole = own[self.is_attacked], whole[self.whole.is_attacked]
        return total_weight(criterion, own) / total_weight(criterion, whole)

    @property
    def attacked_rows(self) -> Rows | None:
        """Which of all attacked samples are of this part; None for all of them."""
        if self.whole is None:
            return None
        is_attacked = self.whole.is_attacked
        numbers = (is_attacked.cumsum(0) - 1)[self.rows]
        return Rows(numbers[self.is_attacked], int(is_attacked.sum()))

    @property
    def classes(self) -> Tensor:
        """Class indices, ``[N]``, which the attack leads away from."""
        return self.y if self.y.dim() == 1 else self.y.argmax(dim=1)

    @property
    def is_attacked(self) -> Tensor:
        """Which samples are attacked, bool ``[N]``."""
        return self.weight > 0

    @property
    def is_clean(self) -> bool:
        """Whether no sample is attacked in any process."""
        return not bool(self.joint.is_attacked.any())

    @property
    def drawing(self) -> int | None:
        """The rank of a process that has samples to attack, where another has none; None where all have, or none."""
        counts = [] if self.whole is None else list(self.whole.nb_attacked)
        return counts.index(max(counts)) if 0 in counts and any(counts) else None


Parts = Sequence[StepBatch]
Attacked = Sequence[Mapping[float, Tensor]]
"""The attacked samples of every part, by width."""


def each_attacked(parts: Parts, attacked: Attacked) -> Iterator[tuple[StepBatch, float, Tensor]]:
    """Give parts, widths and attacked samples, where there are some."""
    for part, found in zip(parts, attacked, strict=True):
        for width, x_adv in found.items():
            if len(x_adv):
                yield part, width, x_adv


def drawn_alike(
    parts: Parts, generator: torch.Generator, attack: BoundAttack, group: Group = ALONE
) -> Iterator[StepBatch]:
    """Give parts to attack, each with the generator as for the whole batch where the attack draws for all of that.

    A process that has nothing to attack then goes on from where the others have drawn.
    """
    start = end = generator.get_state()
    for part in parts:
        if attack.draws_rows:
            generator.set_state(start)
        yield part
        if not attack.draws_rows or bool(part.is_attacked.any()):
            end = generator.get_state()
    generator.set_state(end)
    if attack.draws_rows and (drawing := parts[0].drawing) is not None:
        group.follow(generator, drawing)


def check_value(value: Any, *, is_term: bool) -> None:
    """Refuse what a loss may not return.

    Raises:
        UnfitError: If it did.
    """
    if fault := value_fault(value, is_term=is_term):
        raise UnfitError(TypeError(fault))


def _size_fault(nb_samples: int, nb_attacked: int, group: Group) -> str:
    if nb_samples >= group.size and (nb_attacked == 0 or nb_attacked >= group.size):
        return ""
    return (
        f"a batch must hold an attacked sample for each of the {group.size} processes, got {nb_attacked} in a batch of "
        f"{nb_samples}. Take another batch_size, such that the last batch is larger, too."
    )


def joint_faults(classifier: OATClassifier, method: Method, group: Group, x: Any, batch_size: int) -> list[str]:
    """Say why several processes cannot train together on arrays, or a loader."""
    if group.size == 1:
        return []
    faults, lambdas = [], classifier.model.lambdas
    if not isinstance(x, DataLoader) and not is_generator(x):
        nb_samples = len(as_array(x, "x"))
        smallest = nb_samples % batch_size or min(batch_size, nb_samples)
        nb_clean = math.ceil(smallest / len(lambdas)) if 0 in lambdas else 0
        faults += [fault] if (fault := _size_fault(smallest, smallest - nb_clean, group)) else []
    if method.sync_norms and (paths := _lone_norms(classifier.model.network)):
        faults.append(f"sync_norms needs batch norms that were converted, but {', '.join(paths)} were not.")
    if method.sync_norms and classifier.model.recomputes:
        faults.append("sync_norms needs a network without activation checkpointing: its norms would exchange anew.")
    return faults


def _lone_norms(network: nn.Module) -> list[str]:
    """Return the paths of batch norms that belong to no converted layer."""
    own = {part for layer in network.modules() if isinstance(layer, BatchNormLayer) for part in layer.modules()}
    return [path for path, part in network.named_modules() if isinstance(part, _BatchNorm) and part not in own]
