"""Training objectives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from art_oat.attacks import Objective
from art_oat.checks import refuse
from art_oat.numbers import is_name_in, number_faults, plain_fields, shown


class Loss(Protocol):
    """A training objective; see :func:`hybrid_loss` for the arguments, and ``per_sample_loss`` for an easier way.

    A sum of a term of ``logits`` and a term of ``logits_adv`` may have an attribute ``is_separable = True``. A step
    then calls it twice, holds the graph of one pass at a time, and needs half the memory. An attribute ``objective``
    names what the attack maximizes, see :class:`~art_oat.PGD`; without it, that is the cross-entropy.
    """

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
    over ``N`` for probabilities, as in torch.

    Args:
        logits: Scores on clean inputs, ``[N, K]``.
        logits_adv: Scores after the attack, ``[A, K]``, for the samples with lam above 0, in their order.
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
    is_attacked, criterion = attacked(logits_adv, y, lam), criterion or nn.CrossEntropyLoss()
    clean = cross_entropy(criterion, logits, y)
    adversarial = cross_entropy(criterion, logits_adv, y[is_attacked])
    return _weighed(clean, adversarial, lam, is_attacked) / total_weight(criterion, y)


@dataclass(frozen=True)
class _WithBeta:
    """A loss with a second term, and the weight of that."""

    beta: float

    def __post_init__(self) -> None:
        plain_fields(self)
        what = "be a number above 0, without which nothing would make the network robust"
        refuse(number_faults({"beta": self.beta}, what, lambda it: it > 0))


@dataclass(frozen=True)
class TRADESLoss(_WithBeta):
    """Clean cross-entropy, and how far an attack moves the scores (TRADES, Zhang et al. 2019, arXiv:1901.08573).

    ``mean(CE(f(x), y) + beta * lam * KL(softmax f(x) || softmax f(x_adv)))``. At ``lam = 1`` it is TRADES with
    ``1 / lambda = beta``, at 0 natural training. Train with the attack that maximizes this divergence,
    ``PGD(..., objective="kl")``, which is the trainer's default with this loss.

    Class weights weigh both terms of a sample; label smoothing concerns the cross-entropy alone. Where labels are
    probabilities, the divergence has their mean class weight. Call it as :func:`hybrid_loss`.

    Args:
        beta: Weight of the divergence at ``lam = 1``, above 0; the published comparison uses 6.

    Raises:
        ValueError: If ``beta`` is not as above.
    """

    beta: float = 6.0
    objective = "kl"

    def __call__(
        self, logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: nn.CrossEntropyLoss | None = None
    ) -> Tensor:
        """Return the batch mean in nats; a scalar that carries gradient."""
        is_attacked, criterion = attacked(logits_adv, y, lam), criterion or nn.CrossEntropyLoss()
        moved = _divergence(logits[is_attacked], logits_adv) * class_weights(criterion, logits, y)[is_attacked]
        total = cross_entropy(criterion, logits, y).sum() + self.beta * (lam[is_attacked] * moved).sum()
        return total / total_weight(criterion, y)


@dataclass(frozen=True)
class MARTLoss(_WithBeta):
    """Adversarial training in which misclassified samples count more (MART, Wang et al., ICLR 2020).

    From "Improving adversarial robustness requires revisiting misclassified examples":

    ``mean((1 - lam) * CE(f(x), y) + lam * (BCE(f(x_adv), y) + beta * KL(p(x) || p(x_adv)) * (1 - p_y(x))))`` with
    ``p = softmax f`` and ``BCE(f(x_adv), y) = -log p_y(x_adv) - log(1 - max_{k != y} p_k(x_adv))``. At ``lam = 1``
    it is MART, at 0 natural training.

    Class weights weigh all terms of a sample; label smoothing concerns ``CE`` and the first term of ``BCE``. Where
    labels are probabilities, ``y`` is the most likely class. Call it as :func:`hybrid_loss`.

    Args:
        beta: Weight of the divergence, above 0; 5 as published.

    Raises:
        ValueError: If ``beta`` is not as above.
    """

    beta: float = 5.0
    objective = "cross-entropy"

    def __call__(
        self, logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: nn.CrossEntropyLoss | None = None
    ) -> Tensor:
        """Return the batch mean in nats; a scalar that carries gradient."""
        is_attacked, criterion = attacked(logits_adv, y, lam), criterion or nn.CrossEntropyLoss()
        classes = (y if y.dim() == 1 else y.argmax(dim=1))[is_attacked].unsqueeze(1)
        logits_of_attacked = logits[is_attacked]
        doubt = 1 - logits_of_attacked.softmax(dim=1).gather(1, classes).squeeze(1)
        moved = _divergence(logits_of_attacked, logits_adv)
        terms = _margin(logits_adv, classes) + self.beta * moved * doubt
        weighed = terms * class_weights(criterion, logits, y)[is_attacked]
        adversarial = cross_entropy(criterion, logits_adv, y[is_attacked]) + weighed
        clean = cross_entropy(criterion, logits, y)
        return _weighed(clean, adversarial, lam, is_attacked) / total_weight(criterion, y)


@dataclass(frozen=True)
class ALPLoss(_WithBeta):
    """The hybrid loss, and how far an attack moves the scores (logit pairing, Kannan et al. 2018, arXiv:1803.06373).

    ``mean((1 - lam) * CE(f(x), y) + lam * (CE(f(x_adv), y) + beta * mean_k (f_k(x_adv) - f_k(x))^2))``. At ``lam = 1``
    it is adversarial logit pairing, but that clean inputs have no cross-entropy of their own; at 0 natural training.

    It was published with claims that stronger attacks did not confirm (Engstrom et al. 2018, arXiv:1807.10272): judge
    what it trains by AutoAttack.

    Class weights weigh all terms of a sample; label smoothing concerns the cross-entropies alone. Where labels are
    probabilities, the squares have their mean class weight. Call it as :func:`hybrid_loss`.

    Args:
        beta: Weight of the squares, above 0. Published is 0.5; the figures of ``docs/results.md`` are for 1.

    Raises:
        ValueError: If ``beta`` is not as above.
    """

    beta: float = 1.0
    objective = "cross-entropy"

    def __call__(
        self, logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: nn.CrossEntropyLoss | None = None
    ) -> Tensor:
        """Return the batch mean in nats; a scalar that carries gradient."""
        is_attacked, criterion = attacked(logits_adv, y, lam), criterion or nn.CrossEntropyLoss()
        moved = ((logits_adv - logits[is_attacked]) ** 2).mean(dim=1)
        weighed = self.beta * moved * class_weights(criterion, logits, y)[is_attacked]
        adversarial = cross_entropy(criterion, logits_adv, y[is_attacked]) + weighed
        clean = cross_entropy(criterion, logits, y)
        return _weighed(clean, adversarial, lam, is_attacked) / total_weight(criterion, y)


LOSSES: dict[str, Callable[[], Loss]] = {
    "oat": lambda: hybrid_loss,
    "trades": TRADESLoss,
    "mart": MARTLoss,
    "alp": ALPLoss,
}
"""The losses that have a name; another one is one more entry."""


def loss_by_name(name: str) -> Loss:
    """Return one of :data:`LOSSES`, with its default weight.

    Raises:
        ValueError: If the name is none of these.
    """
    if not is_name_in(name, LOSSES):
        raise ValueError(f"loss must be one of {tuple(LOSSES)}, got {name!r}.")
    return LOSSES[name]()


def objective_of(loss: Loss) -> Objective:
    """Return what the attack that goes with a loss maximizes."""
    objective: Objective = getattr(loss, "objective", "cross-entropy")
    return objective


def value_fault(value: Any, *, is_term: bool = False) -> str:
    """Say why nothing can be learned from what a loss returned, or ``""``; a term of it may carry no gradient."""
    is_scalar = isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()
    if is_scalar and (value.requires_grad or is_term):
        return ""
    got = f"one of {value.dtype} and shape {list(value.shape)}" if isinstance(value, Tensor) else shown(value)
    return f"loss must return a scalar tensor that carries gradient, got {got}{' without gradient' * is_scalar}."


def is_separable(loss: Loss) -> bool:
    """Whether a loss is a sum of a term of the clean scores and a term of the attacked ones."""
    return loss is hybrid_loss or getattr(loss, "is_separable", False) is True


def attacked(logits_adv: Tensor, y: Tensor, lam: Tensor) -> Tensor:
    """Return which samples are attacked, bool ``[N]``; refuse what is no tensor or does not fit together."""
    given = {"logits_adv": logits_adv, "y": y, "lam": lam}
    if faulty := [name for name, it in given.items() if not isinstance(it, Tensor) or it.dim() == 0]:
        raise TypeError(f"{' and '.join(faulty)} must be tensors with one row per sample.")
    is_attacked = lam > 0
    if lam.shape != y.shape[:1]:
        raise ValueError(f"lam must hold {len(y)} weights, one per sample, got {list(lam.shape)}.")
    nb_attacked = int(is_attacked.sum())
    if len(logits_adv) != nb_attacked:
        raise ValueError(f"logits_adv must hold {nb_attacked} rows, one per lam above 0, got {len(logits_adv)}.")
    return is_attacked


def _weighed(clean: Tensor, adversarial: Tensor, lam: Tensor, is_attacked: Tensor) -> Tensor:
    """``sum((1 - lam) * clean + lam * adversarial)``, of terms ``[N]`` and, for those that are attacked, ``[A]``."""
    return ((1 - lam) * clean).sum() + (lam[is_attacked] * adversarial).sum()


def _divergence(logits: Tensor, logits_adv: Tensor) -> Tensor:
    """``KL(softmax(logits) || softmax(logits_adv))`` of each sample, ``[A]``."""
    log_clean, log_adv = logits.log_softmax(dim=1), logits_adv.log_softmax(dim=1)
    return F.kl_div(log_adv, log_clean, reduction="none", log_target=True).sum(dim=1)


def _margin(logits: Tensor, classes: Tensor) -> Tensor:
    """``-log(1 - p_k)`` of the most likely wrong class ``k``, for right ones ``[A, 1]``; exact also near 1."""
    wrong = logits.scatter(1, classes, -math.inf).argmax(dim=1, keepdim=True)
    return logits.logsumexp(dim=1) - logits.scatter(1, wrong, -math.inf).logsumexp(dim=1)


def class_weights(criterion: nn.CrossEntropyLoss, logits: Tensor, y: Tensor) -> Tensor:
    """Class weight of each sample, ``[N]``."""
    if criterion.weight is None:
        return logits.new_ones(len(y))
    weight = criterion.weight.to(logits)
    return weight[y] if y.dim() == 1 else y.to(logits) @ weight


def total_weight(criterion: nn.CrossEntropyLoss | None, y: Tensor) -> float:
    """Return what torch divides by to take a mean: the sum of class weights for indices, else the number of samples."""
    if criterion is None or criterion.weight is None or y.dim() > 1:
        return len(y)
    return float(criterion.weight[y].sum())


def cross_entropy(criterion: nn.CrossEntropyLoss, logits: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each sample ``[N]``, with the class weights and label smoothing of a criterion."""
    weight = None if criterion.weight is None else criterion.weight.to(logits)
    return F.cross_entropy(logits, y, weight=weight, reduction="none", label_smoothing=criterion.label_smoothing)
