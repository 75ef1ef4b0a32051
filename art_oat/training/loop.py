"""The loop of a training: epochs of steps, guarded, measured, recorded and told of."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from art_oat.attacks import BoundAttack, robust_correct
from art_oat.checks import warn_caller
from art_oat.classifier import OATClassifier
from art_oat.frontier import MeasuredPoint
from art_oat.storage import Plain
from art_oat.training.batches import Batches
from art_oat.training.callbacks import Callback
from art_oat.training.guard import CatastrophicOverfittingWarning
from art_oat.training.options import FitOptions
from art_oat.training.records import EpochRecord, mean_area
from art_oat.training.resume import TrainingState
from art_oat.training.step import Step


@dataclass(frozen=True)
class Loop:
    """Trains until all epochs are done, or a callback ends it; ``judge`` is the attack of the validation."""

    state: TrainingState
    batches: Batches
    options: FitOptions
    settings: Mapping[str, Plain]
    validation: tuple[Tensor, Tensor] | None
    judge: BoundAttack
    seed: int

    def run(self) -> None:
        """Train from where the state is."""
        state, options = self.state, self.options
        for epoch in range(state.nb_done + 1, options.nb_epochs + 1):
            started = self._run_guarded_epoch()
            trained = time.perf_counter()
            with state.step.averaged():
                points = self._measured() if options.is_validated_after(epoch) else ()
                record = self._record(started, trained, points)
                told = [callback.on_epoch_end(record) for callback in state.callbacks]
            is_ended = any(answer is True for answer in told)
            state.nb_done = options.nb_epochs if is_ended else epoch
            if options.resume_file is not None:
                options.resume_file.write(self.settings, state.state_dict())
            if is_ended:
                return

    def _run_guarded_epoch(self) -> float:
        """Run an epoch, and again by the fallback where robustness collapsed; return when the last run began."""
        state, guard, started = self.state, self.state.guard, time.perf_counter()
        is_early = state.phases.is_clean(state.next_epoch) or state.phases.eps_share(state.nb_steps) < 1
        if guard is None or guard.has_tripped or is_early:  # early on, nothing is robust that could collapse
            self._run_epoch()
            return started
        last_good = copy.deepcopy(state.state_dict())
        self._run_epoch()
        if not guard.has_collapsed():
            return started
        record = replace(self._record(started, time.perf_counter()), is_undone=True)
        state.load_state_dict(last_good)
        state.history.append(record)
        guard.has_tripped = True
        state.step.attack = guard.strong
        warn_caller(  # last, as whoever makes warnings errors ends the training here
            f"robust accuracy on held-out samples collapsed in epoch {record.epoch}: {record.holdout_robust:.1%} are "
            f"right after the fallback, {guard.reference:.1%} were before or are after the attack of the training. "
            f"The epoch is undone, and training goes on by {self.options.method.fallback}.",
            CatastrophicOverfittingWarning,
        )
        started = time.perf_counter()
        self._run_epoch()
        return started

    def _run_epoch(self) -> None:
        state, step, epoch = self.state, self.state.step, self.state.next_epoch
        step.start_epoch(epoch, is_clean=state.phases.is_clean(epoch))
        for x, y in self.batches:
            step(x, y, eps_share=state.phases.eps_share(state.nb_steps))
            state.stepper.end_step()
            state.nb_steps += 1
            for callback in state.callbacks:
                callback.on_step_end(state.nb_steps, step.metrics)
        if not step.metrics.nb_samples:
            raise ValueError("an epoch must hold at least one batch, got none. Is drop_last set?")
        step.end_epoch()
        state.stepper.end_epoch(step.metrics.loss)

    def _measured(self) -> tuple[MeasuredPoint, ...]:
        assert self.validation is not None
        return tuple(measure(self.state.classifier, *self.validation, self.judge, self.seed))

    def _record(self, started: float, trained: float, points: tuple[MeasuredPoint, ...] = ()) -> EpochRecord:
        """Write down an epoch that started and was trained at the given times."""
        state, metrics = self.state, self.state.step.metrics
        area = mean_area(points, state.classifier.nb_classes)
        record = EpochRecord(
            epoch=state.next_epoch,
            seconds=trained - started,
            validation_seconds=time.perf_counter() - trained,
            learning_rate=float(state.classifier.optimizer.param_groups[0]["lr"]),
            loss=metrics.loss,
            clean=metrics.clean,
            robust=metrics.robust,
            holdout_robust=math.nan if state.guard is None else state.guard.take_holdout_robust(),
            validation=points,
            area=area,
            is_best=area > (-math.inf if state.best is None else state.best.area),
        )
        state.history.append(record)
        return record


def measure(classifier: OATClassifier, x: Tensor, y: Tensor, attack: BoundAttack, seed: int) -> Iterator[MeasuredPoint]:
    """Give clean and robust accuracy at every trained point, by an attack that draws the same every time."""
    for lam, width in itertools.product(classifier.model.lambdas, classifier.model.widths):
        view = classifier.at(lam, width)
        generator = torch.Generator().manual_seed(seed)
        masks = robust_correct(view.as_module(), x, y, attack.at(view.point), generator=generator)
        clean, robust = (float(mask.double().mean()) for mask in masks)
        yield MeasuredPoint(lam, width, clean, robust, len(y), len(y))


@contextmanager
def finished(step: Step) -> Iterator[list[Callback]]:
    """Leave the average in the network after the block, then tell callbacks of the end; all that, however it ends.

    The block appends the callbacks that it told of the start to the list that it is given.
    """
    started: list[Callback] = []
    try:
        yield started
    finally:
        with ExitStack() as stack:
            for callback in reversed(started):
                stack.callback(callback.on_fit_end)
            stack.callback(step.finish)
