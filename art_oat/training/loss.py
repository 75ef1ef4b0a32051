"""Owns the training objective."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F


class Loss(Protocol):
    """A training objective; see :func:`hybrid_loss` for the arguments."""

    def __call__(
        self, logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: nn.CrossEntropyLoss | None = None
    ) -> Tensor:
        """Return a scalar that carries gradient."""
        ...


def hybrid_loss(
    logits: Tensor,
    logits_adv: Tensor,
    y: Tensor,
    lam: Tensor,
    criterion: nn.CrossEntropyLoss | None = None,
) -> Tensor:
    """Weigh clean against adversarial cross-entropy, sample by sample.

    ``mean((1 - lam) * CE(logits, y) + lam * CE(logits_adv, y))``, the objective of Wang et al. 2020
    (arXiv:2010.11828). With class weights ``w`` the mean is ``sum(w[y] * ...) / sum(w[y])`` for class indices, and
    that over ``N`` for probabilities, as in torch.

    Args:
        logits: Scores on clean inputs, ``[N, K]``.
        logits_adv: Scores on the same inputs after the attack, ``[A, K]``, for the samples with lam above 0, in
            their order; the others are not attacked, and their adversarial term has weight 0.
        y: Class indices in ``[0, K)``, ``[N]``; or probabilities ``[N, K]``, each row of sum 1.
        lam: Weight of the adversarial term in ``[0, 1]``, ``[N]``.
        criterion: Gives class weights and label smoothing; None for neither.

    Returns:
        Batch mean in nats; a scalar that carries gradient.

    Raises:
        ValueError: If ``lam`` does not hold one weight per sample, or ``logits_adv`` not one row per attacked one.

    Example:
        >>> import torch
        >>> scores = torch.zeros(2, 10)
        >>> hybrid_loss(scores, scores[:1], torch.tensor([3, 7]), torch.tensor([0.0, 0.5]))
        tensor(2.3026)
    """
    is_attacked = lam > 0
    if lam.shape != y.shape[:1]:
        raise ValueError(f"lam must hold {len(y)} weights, one per sample, got {list(lam.shape)}.")
    if len(logits_adv) != int(is_attacked.sum()):
        raise ValueError(
            f"logits_adv must hold {int(is_attacked.sum())} rows, one per lam above 0, got {len(logits_adv)}."
        )
    criterion = criterion or nn.CrossEntropyLoss()
    clean = _cross_entropy(criterion, logits, y)
    adversarial = _cross_entropy(criterion, logits_adv, y[is_attacked])
    total = ((1 - lam) * clean).sum() + (lam[is_attacked] * adversarial).sum()
    has_probabilities = y.dim() > 1
    return total / (len(y) if criterion.weight is None or has_probabilities else criterion.weight[y].sum())


def _cross_entropy(criterion: nn.CrossEntropyLoss, logits: Tensor, y: Tensor) -> Tensor:
    weight = None if criterion.weight is None else criterion.weight.to(logits)
    return F.cross_entropy(logits, y, weight=weight, reduction="none", label_smoothing=criterion.label_smoothing)
