"""The batch of a step, and the part of it that one of several processes trains on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from art_oat.attacks import Rows
from art_oat.checks import as_array
from art_oat.classifier import OATClassifier
from art_oat.layers import BatchNormLayer
from art_oat.training.batches import is_generator
from art_oat.training.distributed import ALONE, Group
from art_oat.training.loss import total_weight
from art_oat.training.method import Method
from art_oat.training.safeguard import UnfitError


@dataclass(frozen=True)
class StepBatch:
    """What every width of a step has in common; the weight of the adversarial term is lam, or 0 in a clean epoch.

    The attack has a share of its radius. Of several processes, each has a part of the samples; ``whole`` has them all.
    """

    x: Tensor
    y: Tensor
    lam: Tensor
    weight: Tensor
    eps_share: float
    whole: StepBatch | None = None
    group: Group = ALONE

    def part(self, group: Group) -> StepBatch:
        """Return what this process trains on; it itself, where that is all."""
        if group.size == 1:
            return self
        group.check_same("the batches of a training, and what is drawn for them,", self._mark)
        if fault := _size_fault(len(self.x), int(self.is_attacked.sum()), group):
            raise UnfitError(ValueError(fault))
        own = group.share(len(self.x))
        x = self.x[own].clone()  # in the same layout in memory, without gaps
        return StepBatch(x, self.y[own], self.lam[own], self.weight[own], self.eps_share, self, group)

    def _mark(self) -> list[float]:
        """Return numbers that hardly another batch has; sums of bytes do not depend on their order."""
        tensors = [self.x.contiguous(), self.y, self.lam]
        return [len(self.x), *self.x.flatten()[:8].tolist(), *(int(it.view(torch.uint8).sum()) for it in tensors)]

    def portion(self, criterion: nn.CrossEntropyLoss | None, *, of_attacked: bool = False) -> float:
        """Return which portion of the mean over the whole batch the mean over this part is; None weighs all alike."""
        if self.whole is None:
            return 1.0
        own, whole = (it.y[it.is_attacked] if of_attacked else it.y for it in (self, self.whole))
        return total_weight(criterion, own) / total_weight(criterion, whole)

    @property
    def attacked_rows(self) -> Rows | None:
        """Which of all attacked samples are of this part; None for all of them."""
        if self.whole is None:
            return None
        is_attacked = self.whole.is_attacked
        numbers = (is_attacked.cumsum(0) - 1)[self.group.share(len(is_attacked))]
        return Rows(numbers[self.is_attacked], int(is_attacked.sum()))

    @property
    def classes(self) -> Tensor:
        """Class indices, ``[N]``, which the attack leads away from."""
        return self.y if self.y.dim() == 1 else self.y.argmax(dim=1)

    @property
    def is_attacked(self) -> Tensor:
        """Which samples are attacked, bool ``[N]``."""
        return self.weight > 0


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
    return faults


def _lone_norms(network: nn.Module) -> list[str]:
    """Return the paths of batch norms that belong to no converted layer."""
    own = {part for layer in network.modules() if isinstance(layer, BatchNormLayer) for part in layer.modules()}
    return [path for path, part in network.named_modules() if isinstance(part, _BatchNorm) and part not in own]
