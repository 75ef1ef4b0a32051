"""Adversarial weight perturbation: training where nearby weights would do worst."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from art_oat.checks import refuse
from art_oat.contexts import traceless
from art_oat.numbers import count_faults, number_faults, plain_fields
from art_oat.training.loss import Loss, hybrid_loss, total_weight, value_fault


@dataclass(frozen=True)
class WeightPerturbation:
    """Adversarial weight perturbation, AWP (Wu et al. 2020, arXiv:2004.05884), in one step.

    Every weight of more than one dimension moves along the gradient ``v`` of the adversarial loss, in proportion to its
    own size: ``w + gamma * ||w|| * v / ||v||``. The gradient of the step is taken there and applied to ``w``. Norms and
    biases do not move.

    :class:`~art_oat.OATTrainer` perturbs once a step, by the sum of :func:`adversarial_part` over its widths. Where a
    step trains narrower widths alone, ``||w||`` is the size of the part that they use. In a loop of one's own, call it
    with the loss to climb, as a function::

        with WeightPerturbation(0.01)(model, lambda: loss(model(x_adv), y)):
            loss(model(x_adv), y).backward()
        optimizer.step()

    Args:
        gamma: Size of the perturbation relative to the weights, above 0. Published are 0.01 with cross-entropy and
            0.005 with :class:`~art_oat.TRADESLoss`.
        warmup_epochs: Epochs of a trainer before the first that is perturbed, at least 0.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    gamma: float = 0.01
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        plain_fields(self)
        faults = number_faults({"gamma": self.gamma}, "be a number above 0", lambda it: it > 0)
        refuse(faults + count_faults({"warmup_epochs": self.warmup_epochs}, least=0))

    def is_due(self, epoch: int) -> bool:
        """Whether epoch ``epoch``, from 1, is perturbed."""
        return epoch > self.warmup_epochs

    @contextmanager
    def __call__(
        self,
        model: nn.Module,
        losses: Callable[[], Tensor | Iterable[Tensor]],
        *,
        is_partial: bool = False,
        sum_up: Callable[[list[Tensor]], None] = lambda _: None,
    ) -> Iterator[None]:
        """Perturb the weights within the block; after it they are what they were, to the bit.

        Args:
            model: Its trainable weights are perturbed, but for those that the losses do not depend on.
            losses: Returns a scalar, or scalars whose gradients are summed; of a generator, one graph is held at a
                time. The model's buffers and torch's generators are restored after it.
            is_partial: Whether the losses use a part of the weights only. The size of a weight is then that of its
                entries that have a gradient.
            sum_up: Sums gradients in place over the processes that train together.
        """
        weights = [weight for weight in model.parameters() if weight.requires_grad and weight.dim() > 1]
        gradients = _gradients(model, weights, losses)
        sum_up(gradients)
        kept = [weight.detach().clone() for weight in weights]
        try:
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    length, used = gradient.norm(), weight * (gradient != 0) if is_partial else weight
                    weight.add_(gradient * torch.where(length > 0, self.gamma * used.norm() / length, 0))
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(weights, kept, strict=True):
                    weight.copy_(value)


def _gradients(
    model: nn.Module, weights: Sequence[Tensor], losses: Callable[[], Tensor | Iterable[Tensor]]
) -> list[Tensor]:
    """Sum up the gradients of losses; restore buffers and torch's generators."""
    total = [torch.zeros_like(weight) for weight in weights]
    device = weights[0].device if weights else torch.device("cpu")
    with traceless(model, device), torch.enable_grad():
        found = losses() if weights else ()
        for loss in (found,) if isinstance(found, Tensor) else found:
            for sum_, part in zip(total, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
                if part is not None:
                    sum_.add_(part)
    return total


def adversarial_part(
    loss: Loss,
    logits: Tensor,
    logits_adv: Tensor,
    y: Tensor,
    lam: Tensor,
    criterion: nn.CrossEntropyLoss | None = None,
) -> Tensor:
    """Return what weights are perturbed by: the sum over lams of ``lam * share * loss(its samples at lam 1)``.

    At ``lam = 1`` that is the loss which AWP was published for: the adversarial cross-entropy of
    ``hybrid_loss``, all of TRADES and MART. A share is of the samples, or of their class weights.

    Args:
        loss: A mean over samples.
        logits: Scores on clean inputs, ``[A, K]``; unused where :func:`uses_clean_scores` is False.
        logits_adv: Scores on attacked inputs, ``[A, K]``.
        y: Labels of the ``A`` samples, as the loss takes them.
        lam: Above 0, ``[A]``.
        criterion: As the loss takes it.

    Returns:
        Mean over the ``A`` samples in nats; a scalar that carries gradient.
    """
    total, whole = logits_adv.new_zeros(()), total_weight(criterion, y)
    for value in lam.unique().tolist():
        group = lam == value
        share = total_weight(criterion, y[group]) / whole
        if share > 0:  # a class of weight 0 may be all there is
            at_one = loss(logits[group], logits_adv[group], y[group], torch.ones_like(lam[group]), criterion)
            if fault := value_fault(at_one, is_term=not logits_adv.requires_grad):
                raise TypeError(fault)
            total = total + value * share * at_one
    return total


def uses_clean_scores(loss: Loss) -> bool:
    """Whether scores on clean inputs enter a loss at lam 1; with a loss that is not ours they may."""
    return loss is not hybrid_loss
