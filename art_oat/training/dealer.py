"""What is drawn for the batch of a step, and which part of it each of several processes gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from art_oat.classifier import OATClassifier
from art_oat.draws import Rows, drawing_for
from art_oat.group import Group
from art_oat.training.dials import weight_of
from art_oat.training.layout import InputLayout
from art_oat.training.method import Method
from art_oat.training.safeguard import UnfitError
from art_oat.training.step_batch import StepBatch, Whole


class Dealer:
    """Draws order, augmentation and lams of a batch, the same in every process, and deals it.

    Args:
        classifier: Is trained.
        method: How.
        layout: Lays inputs out.
        generator: What is drawn from.
        group: The processes that train together.
        has_own_rows: Whether each of them is given samples of its own, and not all the same batch.
    """

    def __init__(
        self,
        classifier: OATClassifier,
        method: Method,
        layout: InputLayout,
        generator: torch.Generator,
        group: Group,
        *,
        has_own_rows: bool,
    ) -> None:
        self.classifier = classifier
        self.method = method
        self.layout = layout
        self.generator = generator
        self.group = group
        self.has_own_rows = has_own_rows and group.size > 1

    def drawn(self, x: Tensor, y: Tensor, eps_share: float, *, is_clean: bool) -> StepBatch:
        """Return a batch as it is drawn; of samples that are this process's own, the part that they are of it."""
        if self.has_own_rows:
            return self._own_part(x, y, eps_share, is_clean=is_clean)
        order = torch.randperm(len(x), generator=self.generator).to(x.device)  # no lam may always meet the same samples
        x, y = self.layout.augmented(x[order], self.method.augmentation, self.generator), y[order]
        x = self.layout.arranged(x)
        lam = self._lam(len(x), x)
        return StepBatch(x, y, lam, self._weight(lam, is_clean=is_clean), eps_share)

    def _own_part(self, x: Tensor, y: Tensor, eps_share: float, *, is_clean: bool) -> StepBatch:
        shuffle = Shuffle.of(y, self.classifier.nb_classes, self.group, self.generator)
        nb_samples = len(shuffle.y)
        rows, order = (it.to(x.device) for it in shuffle.rows[self.group.rank].sort())
        with drawing_for(Rows(rows, nb_samples)):
            x = self.layout.arranged(self._augmented(x[order]))
        lam = self._lam(nb_samples, x)
        whole = shuffle.whole(self._weight(lam, is_clean=is_clean))
        return StepBatch(x, whole.y[rows], lam[rows], whole.weight[rows], eps_share, whole, rows)

    def _augmented(self, x: Tensor) -> Tensor:
        """Augment own samples by what is drawn for all, where an augmentation draws so, or by draws of this process."""
        augmentation = self.method.augmentation
        if augmentation is None or getattr(augmentation, "draws_rows", False) is True:
            return self.layout.augmented(x, augmentation, self.generator)
        with self.group.drawing_apart(self.classifier.device):
            return self.layout.augmented(x, augmentation, self.group.own_generator(self.generator))

    def _lam(self, nb_samples: int, x: Tensor) -> Tensor:
        return self.method.sampling.draw(self.classifier.model.lambdas, nb_samples, self.generator).to(x)

    def _weight(self, lam: Tensor, *, is_clean: bool) -> Tensor:
        return torch.zeros_like(lam) if is_clean else weight_of(lam, self.method.dials)

    def dealt(self, batch: StepBatch) -> StepBatch:
        """Return the part of a drawn batch that this process trains on; it itself, where that is all.

        Raises:
            UnfitError: If a process has too few samples.
            ValueError: If something else was drawn in another process.
        """
        if not self.has_own_rows or batch.whole is None:
            return batch.part(self.group)
        self.group.check_same("what a training draws", lambda: int(self.generator.get_state().sum()))
        if fault := _share_fault(batch.whole, self.method):
            raise UnfitError(ValueError(fault))
        return batch


@dataclass(frozen=True)
class Shuffle:
    """The order of a joint batch to which each process gives samples of its own.

    Args:
        y: All labels in that order: class indices ``[N]``; or probabilities ``[N, K]`` where those of a process are.
        rows: Where the samples of each process come in it, by rank.
    """

    y: Tensor
    rows: Sequence[Tensor]

    @classmethod
    def of(cls, y: Tensor, nb_classes: int, group: Group, generator: torch.Generator) -> Self:
        """Shuffle the batch to which each process gives samples with labels ``y``.

        Before that, its row ``k * size + r`` is the ``k``-th sample of process ``r``, while all have that many.
        """
        labels = group.each(y.cpu())
        if any(it.dim() > 1 for it in labels):  # one process may have indices, if all its labels happen to be certain
            labels = [it if it.dim() > 1 else F.one_hot(it, nb_classes) for it in labels]
        turns = [torch.arange(len(it)) * group.size + rank for rank, it in enumerate(labels)]
        before = torch.cat(turns).argsort()
        order = before[torch.randperm(len(before), generator=generator)]
        return cls(torch.cat(labels)[order].to(y.device), order.argsort().split([len(it) for it in labels]))

    def whole(self, weight: Tensor) -> Whole:
        """Return what is known of the batch, once the weights of the adversarial term are drawn."""
        counts = [int((weight[rows.to(weight.device)] > 0).sum()) for rows in self.rows]
        return Whole(self.y, weight, [len(rows) for rows in self.rows], counts)


def _share_fault(whole: Whole, method: Method) -> str:
    """Say why norms cannot see the samples of all processes: each must run the same passes, on a sample at least."""
    if not method.sync_norms or not any(whole.nb_attacked):
        return ""
    counts = {"attacked": list(whole.nb_attacked)}
    if method.matches_dropout:
        clean = [nb - attacked for nb, attacked in zip(whole.nb_samples, whole.nb_attacked, strict=True)]
        counts |= {"clean": clean} if any(clean) else {}
    for kind, found in counts.items():
        if 0 in found:
            return (
                f"with sync_norms, each process must have a sample in every batch that is {kind}, got {found} of them. "
                "Take a larger batch_size in the loader, and drop_last=True."
            )
    return ""
