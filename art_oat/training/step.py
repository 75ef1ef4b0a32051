"""One step of training: draw, attack, take the gradient at every width, and step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from art_oat.attacks import BoundAttack, drawing_for
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.group import ALONE, Group
from art_oat.layers.joint_norm import joint_norms
from art_oat.training.dealer import Dealer
from art_oat.training.ema import WeightAverage
from art_oat.training.layout import InputLayout
from art_oat.training.lr_stepper import scaled_rates
from art_oat.training.method import Method
from art_oat.training.passes import Outcome, Passes
from art_oat.training.precision import autocast
from art_oat.training.records import EpochMetrics
from art_oat.training.safeguard import Safeguard, check_finite
from art_oat.training.sampling import draw_widths
from art_oat.training.statistics import StatisticsWatch
from art_oat.training.step_batch import Attacked, Parts, StepBatch, drawn_alike

_NB_PROBES = 8


class Step:
    """One optimizer step on one batch, undone where training diverges.

    The average takes in the weights after every step, once they are known to be good: the next step has a finite loss
    and gradient, or the check at the end of the epoch passes. So it never holds NaN.

    Args:
        classifier: Is trained.
        method: How.
        attack: The method's attack, bound to the classifier.
        generator: Draws everything, the same in every process.
        group: The processes that take the step together.
        has_own_rows: Whether each of them is given samples of its own, and not all the same batch.
    """

    def __init__(
        self,
        classifier: OATClassifier,
        method: Method,
        attack: BoundAttack,
        generator: torch.Generator,
        group: Group = ALONE,
        *,
        has_own_rows: bool = False,
    ) -> None:
        self.classifier = classifier
        self.group = group
        self.method = method
        self.attack = attack
        self.generator = generator
        self.model = classifier.model
        self.safeguard = Safeguard(self.model, classifier.optimizer)
        self.average = None if method.ema is None else WeightAverage(self.safeguard.tensors, method.ema)
        self.layout = InputLayout(classifier)
        self.dealer = Dealer(classifier, method, self.layout, generator, group, has_own_rows=has_own_rows)
        self.passes = Passes(classifier, method, self.layout, group)
        self.statistics = StatisticsWatch(self.model)
        buffers = self.model.named_buffers()
        self._buffers = [buffer for _, buffer in self.model.named_buffers()]
        self._running = [buffer for name, buffer in buffers if name.endswith(("running_mean", "running_var"))]
        self.metrics = EpochMetrics()
        self.epoch, self.is_clean, self.lr_factor = 0, False, 1.0
        self._is_ahead = False  # whether the weights hold a step that the average does not
        self._last_x = torch.empty(0)
        self._largest_score = torch.zeros(())  # read at the end of an epoch: a GPU need not wait for it in each step
        self._nb_steps = 0

    def start_epoch(self, epoch: int, *, is_clean: bool = False, is_new: bool = True, lr_factor: float = 1.0) -> None:
        """Count anew, if it is new; a clean epoch trains every lam on clean inputs alone.

        Steps are taken at a factor of the optimizer's learning rates.
        """
        self.epoch, self.is_clean, self.lr_factor = epoch, is_clean, lr_factor
        if is_new:
            self.metrics = EpochMetrics()

    def __call__(self, x: Tensor, y: Tensor, *, eps_share: float = 1.0) -> None:
        """Train on one batch: ``x [N, ...]``, class indices ``[N]`` or probabilities ``[N, K]``.

        The attack has a share of its radius, in ``(0, 1]``; below 1, it is a :class:`~art_oat.attacks.ScalableAttack`.
        """
        with self.model.writing:
            self._train(x, y, eps_share)

    def _train(self, x: Tensor, y: Tensor, eps_share: float) -> None:
        batch = self.dealer.drawn(x, y, eps_share, is_clean=self.is_clean)
        self.classifier.optimizer.zero_grad()
        with self.statistics.watching() as counts, self.safeguard.undone_where_unfit(), self._apart():
            self._take_gradient(self.dealer.dealt(batch))
        self.statistics.look_at(counts, len(x))
        self.safeguard.keep()
        self._average()
        with scaled_rates(self.classifier.optimizer, self.lr_factor):
            self.classifier.optimizer.step()
        self._is_ahead = True
        self._nb_steps += 1
        self._last_x = batch.x[:_NB_PROBES].clone()

    def _take_gradient(self, batch: StepBatch) -> None:
        """Leave in the parameters the gradient of the step, summed over its widths."""
        widths = draw_widths(self.method.width_sampling, self.model.widths, self.generator)
        parts = batch.split(self.method.accumulation_steps, self.group)
        drawing = drawn_alike(parts, self.generator, self.attack, self.group)
        attacked = [{width: self._attacked(part, width) for width in widths} for part in drawing]
        self.model.train()
        with self.group.averaging(self._buffers), self._perturbed(parts, attacked):
            for part, found in zip(parts, attacked, strict=True):
                target = part.y
                for width, x_adv in found.items():
                    outcome = self._add_gradient(part, width, x_adv, target)
                    if self.method.distills and width == self.model.widths[-1]:
                        target = outcome.logits.softmax(dim=1)
        self.group.sum_gradients(list(self.model.parameters()))
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        check_finite("gradient", nn.utils.get_total_norm(gradients), self.epoch)
        if self._running:
            check_finite("running statistic", nn.utils.get_total_norm(self._running, math.inf), self.epoch)
        if self.method.clip_grad_norm is not None:
            parameters = [it for group in self.classifier.optimizer.param_groups for it in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.method.clip_grad_norm)

    def _add_gradient(self, batch: StepBatch, width: float, x_adv: Tensor, target: Tensor) -> Outcome:
        """Add the gradient of the loss at one width to what is there, and count what came of it."""
        outcome = self.passes.add_gradient(batch, width, x_adv, target, epoch=self.epoch)
        self._largest_score = outcome.logits.abs().max()
        self.metrics.add(outcome.loss, *outcome.counts)
        return outcome

    def _attacked(self, batch: StepBatch, width: float) -> Tensor:
        """Return the samples with lam above 0 after the attack at a width, ``[A, ...]``."""
        is_attacked = batch.is_attacked
        x = self.layout.arranged(batch.x[is_attacked])
        attack = self.attack if batch.eps_share == 1 else self.attack.scaled(batch.eps_share)
        generator = self.generator if attack.draws_rows else self.group.own_generator(self.generator)
        if not len(x):  # a draw for each process, also for one that has none
            return x
        precision = self.method.attack_precision or self.method.precision
        with autocast(precision, self.classifier.device), drawing_for(batch.attacked_rows):
            return attack(x, batch.classes[is_attacked], batch.lam[is_attacked], generator, width=width)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Let processes draw masks of their own, and norms see the samples of all of them, if that is asked for."""
        is_joint = self.method.sync_norms and self.group.size > 1
        with self.group.drawing_apart(self.classifier.device), joint_norms() if is_joint else nullcontext():
            yield

    def _perturbed(self, parts: Parts, attacked: Attacked) -> AbstractContextManager[None]:
        """Let the weights stand where they are worst within the block, if that is asked for."""
        perturbation = self.method.perturbation
        if perturbation is None or not perturbation.is_due(self.epoch) or parts[0].is_clean:
            return nullcontext()
        is_partial = self.model.widths[-1] not in attacked[0]
        losses = partial(self.passes.adversarial_losses, parts, attacked)
        return perturbation(self.model, losses, is_partial=is_partial, sum_up=self.group.sum_tensors)

    def end_epoch(self) -> None:
        """Look at all weights, and at some answers at every point: the last step may be the one that diverged."""
        points = itertools.product(self.model.lambdas, self.model.widths) if len(self._last_x) else ()  # gone on from
        with self.model.writing, torch.no_grad(), self.safeguard.undone_where_unfit():
            weights = [weight.detach() for weight in self.model.parameters()]
            check_finite("weight", nn.utils.get_total_norm(weights), self.epoch)
            scores = {
                OperatingPoint(*point): float(self.classifier.at(*point).as_module()(self._last_x).abs().max())
                for point in points
            }
            for score in self.group.sums([*scores.values()]):
                check_finite("score", torch.tensor(score), self.epoch)
        if scores:
            self.statistics.compare(scores, float(self._largest_score), self._nb_steps, self.epoch)
        self._average()

    def _average(self) -> None:
        if self.average is not None and self._is_ahead:
            self.average.update()
        self._is_ahead = False

    def averaged(self) -> AbstractContextManager[None]:
        """Let the network hold the average within the block, if there is one."""
        return nullcontext() if self.average is None else self.average.installed(self.model.writing)

    def is_finite(self) -> bool:
        """Whether the weights are finite after the last step; if not, the next one will tell."""
        weights = [weight.detach() for weight in self.model.parameters()]
        return bool(nn.utils.get_total_norm(weights).isfinite())

    def finish(self) -> None:
        """Leave the average in the network, if there is one."""
        if self.average is not None:
            with self.model.writing:
                self.average.install()

    def state_dict(self) -> dict[str, Any]:
        """Return weights and statistics as trained, those known to be good where a step is not yet, and the average."""
        return {
            "tensors": [tensor.detach() for tensor in self.safeguard.tensors],
            "good": self.safeguard.good if self._is_ahead else None,
            "average": None if self.average is None else self.average.state_dict(),
            "metrics": asdict(self.metrics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` of a step of the same network and method returned."""
        with self.model.writing:
            self.safeguard.load(state["tensors"], state["good"])
        self._is_ahead = state["good"] is not None
        self.metrics = EpochMetrics(**state["metrics"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
