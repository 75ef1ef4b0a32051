"""The loop of a training: epochs of steps, guarded, measured, recorded and told of."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from art_oat.attacks import BoundAttack, robust_correct
from art_oat.checks import warn_caller
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.fingerprint import Plain
from art_oat.frontier import MeasuredPoint
from art_oat.levels import Inputs
from art_oat.training.batches import Batches, CheckedBatches, nb_batches
from art_oat.training.callbacks import Callback
from art_oat.training.guard import CatastrophicOverfittingWarning, Guard
from art_oat.training.options import FitOptions
from art_oat.training.place import Place
from art_oat.training.records import EpochRecord, mean_area
from art_oat.training.resume import TrainingState
from art_oat.training.safeguard import MAX_RESTORES, DivergenceError, DivergenceWarning
from art_oat.training.step import Step


@dataclass(frozen=True)
class Loop:
    """Trains until all epochs are done, or a callback ends it; ``judge`` is the attack of the validation."""

    state: TrainingState
    batches: Batches
    options: FitOptions
    settings: Mapping[str, Plain]
    validation: tuple[Inputs, Tensor] | None
    judge: BoundAttack
    seed: int

    def run(self) -> None:
        """Train from where the state is."""
        state, options, group = self.state, self.options, self.state.step.group
        for epoch in range(state.nb_done + 1, options.nb_epochs + 1):
            self._run_epoch_for_good()
            trained = time.perf_counter()
            with state.step.averaged():
                points = self._measured() if options.is_validated_after(epoch) else ()
                record = self._record(trained, points)
                told = [callback.on_epoch_end(record) for callback in state.callbacks]
            state.place = Place()
            is_ended = group.first(partial(any, [answer is True for answer in told]))
            state.nb_done = options.nb_epochs if is_ended else epoch
            if options.resume_file is not None and group.is_first:
                options.resume_file.write(self.settings, state.state_dict())
            if is_ended:
                return

    def _run_epoch_for_good(self) -> None:
        """Run an epoch, or the rest of it, and again where it is undone."""
        state, guard = self.state, self.state.guard
        while True:
            if not state.place.nb_batches:
                state.begin_epoch(may_be_undone=self._is_guarded() or self._may_restore() or self._writes_steps())
            try:
                self._run_epoch()
            except DivergenceError as error:
                self._restore(error)
            else:
                if guard is None or not self._is_guarded() or not self._has_collapsed(guard):
                    return
                self._fall_back(guard)

    def _writes_steps(self) -> bool:
        """Whether what is written within an epoch must hold its beginning, for who goes on with restores."""
        return self.options.resume_file is not None and self.options.resume_file.is_for_steps

    def _may_restore(self) -> bool:
        return self.options.method.on_nan == "restore" and self.state.nb_restores < MAX_RESTORES

    def _restore(self, error: DivergenceError) -> None:
        """Undo the epoch that diverged, and train on at half the learning rate.

        Generators go on from where they are, so that no step comes again.

        Raises:
            DivergenceError: If that is not wanted, or no more.
        """
        state, undo = self.state, self.state.place.undo
        if self.options.method.on_nan == "raise":
            raise error
        if undo is None or not self._may_restore():
            remedy = f"It was restored {state.nb_restores} times, each at half the learning rate: lower it further"
            raise DivergenceError(error.what, remedy) from None
        drawn = state.generators()
        record = replace(self._record(time.perf_counter()), loss=math.nan, is_undone=True, is_diverged=True)
        state.load_state_dict(undo)
        state.set_generators(drawn)
        state.history.append(record)
        warn_caller(
            f"training diverged, with {error.what}. The epoch is undone and run again at {state.lr_factor:g} of the "
            f"learning rate (restore {state.nb_restores} of {MAX_RESTORES}).",
            DivergenceWarning,
        )

    def _is_guarded(self) -> bool:
        """Whether a collapse is looked for after the epoch; early on, nothing is robust that could collapse."""
        state = self.state
        is_early = state.phases.is_clean(state.next_epoch) or state.phases.eps_share(state.nb_steps_before) < 1
        return not (state.guard is None or state.guard.has_tripped or is_early)

    def _has_collapsed(self, guard: Guard) -> bool:
        """Look for a collapse, in every process; what the first one finds counts."""
        guard.has_tripped = self.state.step.group.first(partial(bool, guard.has_collapsed()))
        return guard.has_tripped

    def _fall_back(self, guard: Guard) -> None:
        """Undo the epoch, and let the fallback train from here on."""
        state = self.state
        assert state.place.undo is not None
        record = replace(self._record(time.perf_counter()), is_undone=True)
        state.load_state_dict(state.place.undo)
        state.history.append(record)
        guard.has_tripped = True
        state.step.attack = guard.strong
        warn_caller(  # last, as whoever makes warnings errors ends the training here
            f"robust accuracy on held-out samples collapsed in epoch {record.epoch}: {record.holdout_robust:.1%} are "
            f"right after the fallback, {guard.reference:.1%} were before or are after the attack of the training. "
            f"The epoch is undone, and training goes on by {self.options.method.fallback}.",
            CatastrophicOverfittingWarning,
        )

    def _run_epoch(self) -> None:
        state, step, epoch = self.state, self.state.step, self.state.next_epoch
        is_clean, is_new = state.phases.is_clean(epoch), not state.place.nb_batches
        step.start_epoch(epoch, is_clean=is_clean, is_new=is_new, lr_factor=state.lr_factor)
        for x, y in self._batches_to_come():
            step(x, y, eps_share=state.phases.eps_share(state.nb_steps))
            state.stepper.end_step()
            state.nb_steps += 1
            state.place.nb_batches += 1
            for callback in state.callbacks:
                callback.on_step_end(state.nb_steps, step.metrics)
            self._write_if_due()
        if not step.metrics.nb_samples:
            raise ValueError("an epoch must hold at least one batch, got none. Is drop_last set?")
        step.end_epoch()
        state.stepper.end_epoch(step.metrics.loss)

    def _batches_to_come(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of the epoch, without those that were trained on before a cut."""
        state, nb_taken = self.state, self.state.place.nb_batches
        if isinstance(self.batches, CheckedBatches):
            self.batches.set_epoch(len(state.history))
        batches = iter(self.batches)
        if nb_taken:
            now = state.generators()
            state.set_generators(state.place.begun)
            if (nb_there := sum(1 for _ in itertools.islice(batches, nb_taken))) < nb_taken:
                raise ValueError(f"an epoch must hold the {nb_taken} batches that were taken of it, got {nb_there}.")
            state.set_generators(now)
        return batches

    def _write_if_due(self) -> None:
        """Write the file to go on from within an epoch, but nothing that has diverged."""
        state, file = self.state, self.options.resume_file
        if file is None or state.place.nb_batches == nb_batches(self.batches) or not file.is_due(state.nb_steps):
            return
        if state.step.group.is_first and state.step.is_finite():
            file.write(self.settings, state.state_dict())

    def _measured(self) -> tuple[MeasuredPoint, ...]:
        assert self.validation is not None
        group, points = self.state.step.group, points_of(self.state.classifier)
        own = points[group.share(len(points))]
        return tuple(group.gathered(list(measure(self.state.classifier, own, *self.validation, self.judge, self.seed))))

    def _record(self, trained: float, points: tuple[MeasuredPoint, ...] = ()) -> EpochRecord:
        """Write down an epoch that was trained at the given time."""
        state, metrics = self.state, self.state.step.metrics
        area = mean_area(points, state.classifier.nb_classes)
        record = EpochRecord(
            epoch=state.next_epoch,
            seconds=trained - state.place.started,
            validation_seconds=time.perf_counter() - trained,
            learning_rate=float(state.classifier.optimizer.param_groups[0]["lr"]) * state.lr_factor,
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


def points_of(classifier: OATClassifier) -> list[OperatingPoint]:
    """Return every trained point."""
    return [OperatingPoint(*it) for it in itertools.product(classifier.model.lambdas, classifier.model.widths)]


def measure(
    classifier: OATClassifier, points: Iterable[OperatingPoint], x: Inputs, y: Tensor, attack: BoundAttack, seed: int
) -> Iterator[MeasuredPoint]:
    """Give clean and robust accuracy at points, by an attack that draws the same every time."""
    for lam, width in points:
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
