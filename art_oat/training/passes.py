"""The passes of a step: the network run in its precision, and losses weighed by lam and by width."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from art_oat.classifier import OATClassifier
from art_oat.contexts import borrowed_generators, traceless
from art_oat.group import ALONE, Group
from art_oat.training.awp import adversarial_part, uses_clean_scores
from art_oat.training.layout import InputLayout
from art_oat.training.loss import is_separable
from art_oat.training.method import Method
from art_oat.training.precision import autocast
from art_oat.training.records import EpochMetrics
from art_oat.training.safeguard import UnfitError, check_finite
from art_oat.training.step_batch import Attacked, Parts, StepBatch, check_value, each_attacked


class Outcome(NamedTuple):
    """What came of the passes at one width.

    Attributes:
        logits: Scores on the clean inputs, without gradient, ``[N, K]``.
        loss: What :meth:`~art_oat.training.records.EpochMetrics.add` takes, of all processes together.
        counts: Likewise, in the order of its arguments.
    """

    logits: Tensor
    loss: float
    counts: list[int]


class Passes:
    """The passes of a step through the network in training mode, which leave gradients behind.

    Args:
        classifier: Is trained.
        method: How.
        layout: Of the inputs.
        group: The processes that take the step together.
    """

    def __init__(self, classifier: OATClassifier, method: Method, layout: InputLayout, group: Group = ALONE) -> None:
        self.classifier = classifier
        self.method = method
        self.layout = layout
        self.group = group
        self.loss = method.loss_function
        self.preprocess = classifier.preprocessed(nn.Identity(), is_training=True)
        self._is_clean_counted_alone = classifier.model.lambdas == (1.0,) and not uses_clean_scores(self.loss)

    def scores(self, x: Tensor, lam: Tensor, width: float) -> Tensor:
        """Return the scores ``[N, K]`` of preprocessed inputs, for a loss."""
        scores = self.classifier.model(self.preprocess(x), lam, width)
        if isinstance(scores, Tensor) and scores.shape == (len(x), self.classifier.nb_classes):
            return scores.float() if self.method.precision == "bf16" else scores
        got = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise UnfitError(
            TypeError(
                f"the network must give scores [N, {self.classifier.nb_classes}] also in training mode, got {got}. "
                "Convert a network that returns the scores alone: wrap it, or switch its auxiliary heads off."
            )
        )

    def adversarial_losses(self, parts: Parts, attacked: Attacked) -> Iterator[Tensor]:
        """Give what weights are perturbed by, width by width; labels count, also where scores are distilled."""
        loss, criterion = self.loss, self.classifier.loss
        for part, width, x_adv in each_attacked(parts, attacked):
            x, y, lam, weight = (values[part.is_attacked] for values in (part.x, part.y, part.lam, part.weight))
            with self._computing():
                with self._drawing_again():
                    logits_adv = self.scores(x_adv, lam, width)
                is_needed = uses_clean_scores(loss)
                logits = self.scores(self.layout.arranged(x), lam, width) if is_needed else logits_adv.detach()
            portion = part.portion(criterion, of_attacked=True)
            yield portion * adversarial_part(loss, logits, logits_adv, y, weight, criterion)

    def add_gradient(self, batch: StepBatch, width: float, x_adv: Tensor, target: Tensor, *, epoch: int) -> Outcome:
        """Add the gradient of the loss at one width to what is there.

        The loss compares with the target: the labels, or the scores of the largest width as probabilities.
        """
        lam, weight, is_attacked, classes = batch.lam, batch.weight, batch.is_attacked, batch.classes
        criterion = self.classifier.loss if target is batch.y else None  # a teacher's scores carry it already
        portion = batch.portion(criterion)
        # a block for each pass: one may hold casts of weights without gradient, or of a graph that is gone
        with self._computing():
            logits = self._clean_scores(batch, width)
        has_gradient = False
        if is_separable(self.loss):
            term = self.loss(logits, logits.detach()[is_attacked], target, weight, criterion)
            check_value(term, is_term=True)
            has_gradient = term.requires_grad  # a loss may have no clean term
            if has_gradient:
                (portion * term).backward()
            logits = logits.detach()
        with self._computing():
            logits_adv = self.scores(x_adv, lam[is_attacked], width) if len(x_adv) else logits[:0]
        loss = self.loss(logits, logits_adv, target, weight, criterion)
        check_value(loss, is_term=has_gradient)
        loss = portion * loss
        correct, robust = logits.argmax(1) == classes, logits_adv.argmax(1) == classes[is_attacked]
        joint, *counts = self.group.sums([loss.item(), *map(float, EpochMetrics.counts(correct, robust))])
        check_finite("loss", torch.tensor(joint), epoch)
        if loss.requires_grad:  # without attacked samples, the clean term may be all there is
            loss.backward()
        nb_samples = len(batch.joint.y)
        return Outcome(logits.detach(), joint * (nb_samples / counts[0]), [int(count) for count in counts])

    def _clean_scores(self, batch: StepBatch, width: float) -> Tensor:
        """Return the scores on clean inputs, after which the attacked inputs meet what theirs have met, if asked for.

        Masks are drawn for all rows at once, so that only equal batches meet equal ones. Where lam 1 alone is trained
        and the loss is the cross-entropy, they are for the records: training goes on as if only the attacked inputs
        were there, as plain adversarial training does, whose running statistics are those of attacked inputs.
        """
        if self._is_clean_counted_alone and not batch.is_clean:
            with torch.no_grad(), traceless(self.classifier.model, self.classifier.device):
                return self.scores(batch.x, batch.lam, width)
        is_attacked = batch.is_attacked
        if not self.method.matches_dropout or not bool(is_attacked.any()):
            return self.scores(batch.x, batch.lam, width)
        rest, attacked = (~is_attacked).nonzero().flatten(), is_attacked.nonzero().flatten()
        parts = [self.scores(self.layout.arranged(batch.x[rest]), batch.lam[rest], width)] if len(rest) else []
        with self._drawing_again():
            parts.append(self.scores(self.layout.arranged(batch.x[attacked]), batch.lam[attacked], width))
        return torch.cat(parts)[torch.cat([rest, attacked]).argsort()]

    def _drawing_again(self) -> AbstractContextManager[None]:
        """Let what comes after the block draw what the block draws, if dropout is to be matched."""
        return borrowed_generators(self.classifier.device) if self.method.matches_dropout else nullcontext()

    def _computing(self) -> AbstractContextManager[Any]:
        return autocast(self.method.precision, self.classifier.device)
