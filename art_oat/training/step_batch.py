"""The batch of a step, and the part of it that one of several processes trains on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from art_oat.attacks import Rows
from art_oat.training.distributed import ALONE, Group
from art_oat.training.loss import total_weight
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
        own = group.share(len(self.x))
        if 0 < (nb_attacked := int(self.is_attacked.sum())) < group.size or len(self.x) < group.size:
            raise UnfitError(
                ValueError(
                    f"a batch must hold an attacked sample for each of {group.size} processes, got {nb_attacked} in a "
                    f"batch of {len(self.x)}. Take larger batches, or leave out the last of them (drop_last)."
                )
            )
        x = self.x[own].clone()  # in the same layout in memory, without gaps
        return StepBatch(x, self.y[own], self.lam[own], self.weight[own], self.eps_share, self, group)

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
