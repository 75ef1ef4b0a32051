"""A loss of one's own, written sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from art_oat.attacks import Objective
from art_oat.checks import refusals
from art_oat.classifier import OATClassifier
from art_oat.numbers import is_name_in, shown
from art_oat.training.loss import attacked, class_weights, total_weight

PerSample = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``(logits [N, K], logits_adv [N, K], y [N], lam [N]) -> losses [N]``."""


@dataclass(frozen=True)
class PerSampleLoss:
    """What :func:`per_sample_loss` makes: the mean of a function of each sample, called as :func:`hybrid_loss`."""

    function: PerSample
    objective: Objective = "cross-entropy"

    def __call__(
        self, logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: nn.CrossEntropyLoss | None = None
    ) -> Tensor:
        """Return the batch mean; a scalar that carries gradient."""
        is_attacked, criterion = attacked(logits_adv, y, lam), criterion or nn.CrossEntropyLoss()
        every_adv = logits.masked_scatter(is_attacked[:, None], logits_adv.to(logits))
        losses = self.function(logits, every_adv, y, lam)
        if not isinstance(losses, Tensor) or losses.shape != lam.shape:
            got = f"shape {list(losses.shape)}" if isinstance(losses, Tensor) else shown(losses)
            raise TypeError(
                f"the function of per_sample_loss must return {len(y)} losses, one per sample, got {got}. "
                "Leave out the mean over samples: the cross-entropy of torch takes reduction='none'."
            )
        return (losses * class_weights(criterion, logits, y)).sum() / total_weight(criterion, y)

    def faults(self, classifier: OATClassifier) -> list[str]:
        """Say why this cannot train a classifier: its label smoothing, or what the function makes of three samples."""
        lam = torch.tensor([0.0, 0.5, 1.0], device=classifier.device)
        logits = torch.zeros(3, classifier.nb_classes, device=classifier.device, requires_grad=True)
        faults = refusals(lambda: self(logits, logits[1:], torch.zeros_like(lam, dtype=torch.int64), lam))
        if classifier.loss.label_smoothing:
            faults.append(
                "label smoothing cannot be that of the classifier's loss, since per_sample_loss takes losses as they "
                "are. Smooth in the function, and give the classifier CrossEntropyLoss()."
            )
        return faults


def per_sample_loss(function: PerSample, *, objective: Objective = "cross-entropy") -> PerSampleLoss:
    """Make a training objective of a function that gives each sample its loss.

    Everything has one row per sample. A sample of lam 0 is not attacked, so its ``logits_adv`` are its ``logits``.
    The classifier's class weights weigh the losses; its label smoothing is refused. Only a loss that is a sum of a term
    of ``logits`` and one of ``logits_adv`` can be computed with half the memory; ``hybrid_loss`` is, this is not.

    Args:
        function: Takes scores on clean inputs and after the attack, each ``[N, K]``, labels ``[N]`` (or probabilities
            ``[N, K]`` where labels are soft, or distilled) and lam in ``[0, 1]``, ``[N]``; returns losses ``[N]``.
            It is tried on scores of 0 when a trainer is made.
        objective: What the attack of the training maximizes, if it is called by name; see :class:`~art_oat.PGD`.

    Returns:
        A loss for ``Method(loss=...)`` and ``OATTrainer(..., loss=...)``.

    Raises:
        TypeError: If ``function`` cannot be called.
        ValueError: If ``objective`` is none.

    Example:
        Cross-entropy, and the squared distance that the attack moves the scores (logit pairing, arXiv:1803.06373):

        >>> import torch
        >>> from torch.nn import functional as F
        >>> def pairing(logits, logits_adv, y, lam):
        ...     moved = (logits - logits_adv).square().mean(dim=1)
        ...     return F.cross_entropy(logits_adv, y, reduction="none") + 0.5 * lam * moved
        >>> loss = per_sample_loss(pairing)
        >>> loss(torch.zeros(2, 10), torch.ones(1, 10), torch.tensor([3, 7]), torch.tensor([0.0, 1.0]))
        tensor(2.5526)

        It trains as one of ours does: ``OATTrainer(classifier, Method.dial(eps=0.2, loss=loss))``.
    """
    if not callable(function):
        raise TypeError(f"function must be callable on (logits, logits_adv, y, lam), got {shown(function)}.")
    if not is_name_in(objective, get_args(Objective)):
        raise ValueError(f"objective must be one of {get_args(Objective)}, got {shown(objective)}.")
    return PerSampleLoss(function, objective)
