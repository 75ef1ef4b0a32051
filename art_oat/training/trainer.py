"""Owns the training loop: epochs of steps, measured, recorded and kept."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from art.defences.trainer.trainer import Trainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from art_oat.attacks import BoundAttack, bind, check_radii, robust_correct
from art_oat.checks import Array, refuse
from art_oat.classifier import OATClassifier
from art_oat.contexts import borrowed_generators
from art_oat.frontier import Frontier, MeasuredPoint
from art_oat.model import OATModel
from art_oat.training.batches import Batches, as_batches, is_generator, nb_batches, size_of, source_faults
from art_oat.training.checkpoint import BestEpoch, Checkpoint
from art_oat.training.guard import CatastrophicOverfittingWarning, Guard
from art_oat.training.method import Method
from art_oat.training.plan import Callback, Plan
from art_oat.training.preprocessing import preprocessing_faults
from art_oat.training.records import EpochRecord, write_history
from art_oat.training.resume import Ongoing, StateFile, described
from art_oat.training.schedule import Schedule, Scheduler, in_two_parts, paced
from art_oat.training.step import Step, Tally, layout_faults

_Validation = tuple[Tensor, Tensor]
_SUPERSEDED = ("eps", "eps_step", "norm", "allow_large_eps")
"""Fields of a resolved method that decide nothing any more: its attacks have their own."""


class OATTrainer(Trainer):
    """Once-for-all adversarial training (Wang et al. 2020, arXiv:2010.11828).

    ``min E_(x,y) E_lam [(1 - lam) CE(f(x; lam), y) + lam CE(f(x_adv; lam), y)]``: every sample of a batch gets a lam
    of its own, is attacked at it (by a plain network in evaluation mode), and weighs its two losses by it. Not to be
    mixed up with ART's ``AdversarialTrainerOAATPyTorch``, which is oracle-aligned adversarial training.

    A network with several widths (OATS) trains them together: a step draws widths, each of them is attacked on its own
    and gives a loss, and the optimizer sees the gradient of their sum. Lams and inputs are the same for all of them.

    Batches are laid out in memory as the network is: with channels last where ``to(memory_format=...)`` made it so.

    Args:
        classifier: Holds the conditional network, a ``CrossEntropyLoss`` (its class weights and label smoothing are
            honored) and the optimizer. Weights are those it has: train again to train on.
        method: What is learned, and by which attack; None for ``Method()``, which is OAT as published.
        seed: What the order of samples, the lams, the widths, augmentation, the attack's random starts and dropout are
            drawn from. The same seed and weights give exactly the same training on the same machine, as far as the data
            come in the same order: a ``DataLoader`` or a generator of ART's shuffles by its own randomness.
        **parts: Fields of :class:`Method` to exchange, such as ``attack=PGD(0.2)`` or ``loss="trades"``.

    Attributes:
        method: The method, with every name replaced by what it means for the classifier.
        history: One :class:`EpochRecord` per epoch, over all calls of ``fit``.
        best_epoch: The epoch, as ``history`` counts, with the largest area under the trade-off on validation data in
            the last call of ``fit``; None where nothing was measured.

    Raises:
        TypeError: If an argument is of another kind than above, a part is unknown, and as :class:`Method`.
        ValueError: If the classifier has no optimizer, its loss leaves labels out or is not a mean, its preprocessing
            changes labels or the number of samples, an attack cannot take inputs of its shape or has an ``eps`` that
            is too large, ``sampling`` weighs a lam that is not trained, ``"bf16"`` goes with weights that are not
            float32, and as :class:`Method`.

    Example:
        ``OATTrainer(classifier, Method.dial(eps=0.2)).fit(x, y, nb_epochs=30)``
    """

    def __init__(self, classifier: OATClassifier, method: Method | None = None, *, seed: int = 0, **parts: Any) -> None:
        _check_classifier(classifier)
        if not isinstance(method, Method | None):
            kind = type(method).__name__
            raise TypeError(f"method must be a Method or None, got {kind}. An attack goes by name: attack={kind}(...).")
        super().__init__(classifier)
        self.method = replace(method or Method(), **parts).resolved(classifier)
        refuse(self.method.faults(classifier))
        check_radii(self.method.radii(classifier), allow_large_eps=True)  # warns of what is next to nothing
        self.seed = seed
        self.history: list[EpochRecord] = []
        self.best_epoch: int | None = None
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def _model(self) -> OATModel:
        model: OATModel = self.classifier.model
        return model

    def fit(
        self,
        x: Array | DataLoader[Any],
        y: Array | None = None,
        validation_data: tuple[Array, Array] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        scheduler: Scheduler | Schedule | None = None,
        *,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        validation_interval: int = 1,
        checkpoint: str | Path | Checkpoint | None = None,
        restore_best: bool = False,
        callback: Callback | None = None,
        log_path: str | Path | None = None,
        state_path: str | Path | None = None,
        verbose: bool = True,
    ) -> None:
        """Train every operating point at once.

        Args:
            x: Inputs ``(N, *input_shape)``, finite and within the classifier's clip values; or a ``DataLoader`` or
                ART ``DataGenerator`` of pairs ``(x, y)``, whose batches are checked as they come.
            y: Class indices ``(N,)``, one-hot labels ``(N, K)``, or soft ones: floats ``(N, K)``, at least 0, of sum
                1 per row. The loss takes soft labels as they are, the attack takes the most likely class; labels (of
                a batch, where batches are given) that are all one-hot count as indices. None with a ``DataLoader``
                or generator.
            validation_data: Inputs and labels (not soft) on which clean and robust accuracy are measured, at every
                trained lam and width, by the training attack, or by the ``fallback`` where there is one, which needs
                them.
            batch_size: Samples per step; a ``DataLoader`` and a generator have their own.
            nb_epochs: How often every sample is seen, at least 1.
            scheduler: Has ``step()``, as torch's schedulers (a ``ReduceLROnPlateau`` sees the mean training loss); or
                maps progress in ``[0, 1]`` to a factor on the optimizer's learning rates, such as :class:`OneCycle`.
                A factor applies to every step, and the learning rates are back at what they were when ``fit`` ends.
            scheduler_interval: Whether ``step()`` is called once per epoch or once per step.
            validation_interval: Validate after every so many epochs, and after the last one.
            checkpoint: Folder where the model is saved whenever the area under its trade-off on ``validation_data``
                (its mean over the widths) is the largest of this call, over what lies there: one best epoch,
                not one per lam.
            restore_best: Whether the network gets weights and statistics of the best epoch back in the end, however
                the training ends; the optimizer's own state stays.
            callback: Is called with the :class:`EpochRecord` after every epoch; if it returns True, training ends.
            log_path: Where to write the history as CSV after every epoch; None for nowhere.
            state_path: File that gets, after every epoch and whole or not at all, everything that the training needs to
                go on. If it is there, ``fit`` goes on after the last epoch in it, in whatever trainer and network, and
                comes to the very same result as if it had never been cut; that of a finished training gives the
                result back, and trains no more. Delete it to train anew. It must be of the same training: its settings
                are compared, the data are not. Exact for arrays; a ``DataLoader`` or a generator of ART's shuffles by
                its own randomness, and an attack, an augmentation or a callback that remembers something starts anew.
                A scheduler with ``step()`` needs ``state_dict()`` and ``load_state_dict()``. None for no file.
            verbose: Whether to show progress.

        Raises:
            TypeError: If the network does not return scores alone in training mode; nothing is changed.
            ValueError: If an argument is not as above, or the network lies with channels last on a processor and has
                layers that torch cannot train so; names every fault, before anything is touched. And if
                ``state_path`` is the file of a training with other settings; names them, before anything is touched.
            RuntimeError: If the loss, a gradient or a score is no longer finite. Weights and statistics are then the
                last ones that had a finite loss and gradient (or their average, or those of the best epoch, where
                asked for); the optimizer's own state is not rolled back.
        """
        plan = Plan(
            nb_epochs=nb_epochs,
            scheduler=scheduler,
            scheduler_interval=scheduler_interval,
            validation_data=validation_data,
            validation_interval=validation_interval,
            checkpoint=checkpoint,
            restore_best=restore_best,
            callback=callback,
            log_path=log_path,
            state_path=state_path,
            verbose=verbose,
            has_fallback=self.method.fallback is not None,
        )
        faults = [*source_faults(x, y, batch_size, self.classifier), *plan.faults(self.classifier)]
        faults += [*layout_faults(self._model), *preprocessing_faults(self.classifier)]
        if self.method.clean_share and isinstance(scheduler, ReduceLROnPlateau):
            faults.append("scheduler must be no ReduceLROnPlateau with clean_share: the loss jumps after clean epochs.")
        if plan.counts_steps and isinstance(x, DataLoader) and nb_batches(x) is None:
            faults.append("scheduler must have step() with a loader of unknown length: progress cannot be told.")
        refuse(faults)
        self._train(as_batches(x, y, batch_size, self.classifier, self._generator), plan)

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int = 20,
        validation_data: tuple[Array, Array] | None = None,
        scheduler: Scheduler | Schedule | None = None,
        **options: Any,
    ) -> None:
        """Train on the batches of an ART ``DataGenerator``; an epoch is ``ceil(size / batch_size)`` of them.

        Args:
            generator: Has ``get_batch()``, ``size`` and ``batch_size``; its batches are checked as they come.
            nb_epochs: As in :meth:`fit`.
            validation_data: As in :meth:`fit`.
            scheduler: As in :meth:`fit`.
            **options: The keywords of :meth:`fit`.

        Raises:
            TypeError: If ``generator`` is of another kind or a keyword is unknown, and as :meth:`fit`.
            ValueError: If the generator's size is not known, and as :meth:`fit`.
            RuntimeError: As :meth:`fit`.
        """
        if not is_generator(generator):
            kind = type(generator).__name__
            raise TypeError(f"generator must have get_batch(), size and batch_size, got {kind}. fit takes arrays.")
        self.fit(generator, validation_data=validation_data, nb_epochs=nb_epochs, scheduler=scheduler, **options)

    def _train(self, batches: Batches, plan: Plan) -> None:
        count = nb_batches(batches)
        nb_steps = None if count is None else plan.nb_epochs * count
        attack = bind(self.method.attack, self.classifier)
        judge = attack if self.method.fallback is None else bind(self.method.fallback, self.classifier)
        file = self._state_file(batches, plan)
        saved = None if file is None else file.read()  # refuses that of another training, before anything is touched
        nb_done = 0 if saved is None else saved["nb_done"]
        nb_before = self._next_epoch - 1 if saved is None else saved["nb_before"]
        nb_clean = 0 if nb_before else self._nb_clean(plan.nb_epochs)
        scheduler = in_two_parts(plan.scheduler, nb_clean / plan.nb_epochs)
        step = Step(self.classifier, self.method, attack, self._generator)
        best = BestEpoch(self._model, plan.as_checkpoint(), is_restored=plan.restore_best)
        validation = None if plan.validation_data is None else self.classifier.as_tensors(*plan.validation_data)
        guard = self._guard(attack, judge, validation)
        self.best_epoch = None
        with (
            self._seeded(),
            _finished(step, best),
            paced(self.classifier.optimizer, scheduler, plan.scheduler_interval, nb_steps) as pace,
            tqdm(total=nb_steps, initial=nb_done * (count or 0), disable=not plan.verbose, unit="step") as bar,
        ):
            ongoing = Ongoing(self.classifier, step, pace, best, self._generator, nb_clean)
            if saved is not None:
                self._restore(saved, ongoing, guard)
            for epoch in range(nb_done + 1, plan.nb_epochs + 1):
                bar.set_description(f"epoch {epoch}/{plan.nb_epochs}")
                started = self._run_guarded_epoch(batches, ongoing, guard, bar)
                trained = time.perf_counter()
                with step.averaged():
                    points = self._measure(validation, judge) if validation and plan.is_validated_after(epoch) else ()
                    record = self._record(step.tally, tuple(points), best, (started, trained), guard)
                    is_ended = self._conclude(record, best, plan)
                if file is not None:
                    nb_done = plan.nb_epochs if is_ended else epoch
                    file.write(self._saved(ongoing, guard, nb_before=nb_before, nb_done=nb_done))
                if is_ended:
                    return

    def _guard(self, attack: BoundAttack, judge: BoundAttack, validation: _Validation | None) -> Guard | None:
        if self.method.fallback is None or validation is None or self._model.lambdas[-1] == 0:
            return None
        return Guard(self.classifier, attack, judge, *validation, self.seed)

    def _state_file(self, batches: Batches, plan: Plan) -> StateFile | None:
        """Where the state of the training goes, or comes from; None for nowhere."""
        if plan.state_path is None:
            return None
        parts = {part.name: getattr(self.method, part.name) for part in fields(Method) if part.name not in _SUPERSEDED}
        parts |= {"seed": self.seed} | plan.settings() | size_of(batches)
        return StateFile(Path(plan.state_path), described(parts, self.classifier, plan.scheduler))

    def _nb_clean(self, nb_epochs: int) -> int:
        """Return how many of so many epochs are clean; one is left for the attack."""
        return min(round(self.method.clean_share * nb_epochs), nb_epochs - 1)

    def _saved(self, ongoing: Ongoing, guard: Guard | None, *, nb_before: int, nb_done: int) -> dict[str, Any]:
        return {
            "nb_before": nb_before,
            "nb_done": nb_done,
            "history": [record.state_dict() for record in self.history],
            "guard": None if guard is None else guard.state_dict(),
            "ongoing": ongoing.state_dict(),
        }

    def _restore(self, saved: dict[str, Any], ongoing: Ongoing, guard: Guard | None) -> None:
        """Go back to where a training of which this was saved stood."""
        ongoing.load_state_dict(saved["ongoing"])
        if guard is not None:
            guard.load_state_dict(saved["guard"])
            if guard.has_tripped:
                ongoing.step.attack = guard.strong
        self.history = [EpochRecord.from_state(record) for record in saved["history"]]
        self.best_epoch = ongoing.best.epoch

    def _run_guarded_epoch(self, batches: Batches, ongoing: Ongoing, guard: Guard | None, bar: Any) -> float:
        """Run an epoch, and again by the fallback where robustness collapsed; return when the last run began."""
        started, step = time.perf_counter(), ongoing.step
        is_clean = self._next_epoch <= ongoing.nb_clean  # nothing is robust yet that could collapse
        if guard is None or guard.has_tripped or is_clean:
            self._run_epoch(batches, ongoing, bar)
            return started
        last_good, nb_before = copy.deepcopy(ongoing.state_dict()), bar.n
        self._run_epoch(batches, ongoing, bar)
        if not guard.has_collapsed():
            return started
        record = self._record(step.tally, (), ongoing.best, (started, time.perf_counter()), guard)
        self.history[-1] = replace(record, is_undone=True)
        ongoing.load_state_dict(last_good)
        step.attack = guard.strong
        bar.update(nb_before - bar.n)
        self._tell_of_collapse(record, guard)
        started = time.perf_counter()
        self._run_epoch(batches, ongoing, bar)
        return started

    def _tell_of_collapse(self, record: EpochRecord, guard: Guard) -> None:
        """Say what was undone; last, as whoever makes warnings errors ends the training here."""
        warnings.warn(
            f"robust accuracy on held-out samples collapsed in epoch {record.epoch}: {record.standing:.1%} stand after "
            f"the fallback, {guard.reference:.1%} did before or stand after the attack of the training. The epoch is "
            f"undone, and training goes on by {self.method.fallback}.",
            CatastrophicOverfittingWarning,
            stacklevel=5,
        )

    def _run_epoch(self, batches: Batches, ongoing: Ongoing, bar: Any) -> None:
        step, pace, epoch = ongoing.step, ongoing.pace, self._next_epoch
        step.start_epoch(epoch, is_clean=epoch <= ongoing.nb_clean)
        area = {"area": f"{self.history[-1].area:.3f}"} if self.history and self.history[-1].validation else {}
        for x, y in batches:
            step(x, y)
            pace.end_step()
            bar.set_postfix(step.tally.shown() | area, refresh=False)
            bar.update()
        if not step.tally.nb_samples:
            raise ValueError("an epoch must hold at least one batch, got none. Is drop_last set?")
        step.end_epoch()
        pace.end_epoch(step.tally.loss)

    @property
    def _next_epoch(self) -> int:
        """The number of the epoch to come; one that was undone gives its number to the one that is run again."""
        return 1 + sum(not record.is_undone for record in self.history)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Train from the trainer's own randomness (dropout draws from the global generator); end in evaluation mode."""
        seed = int(torch.randint(2**31, (), generator=self._generator))
        with borrowed_generators(self.classifier.device, seed):
            try:
                yield
            finally:
                self._model.eval()

    def _record(
        self,
        tally: Tally,
        points: tuple[MeasuredPoint, ...],
        best: BestEpoch,
        times: tuple[float, float],
        guard: Guard | None,
    ) -> EpochRecord:
        """Write down an epoch that started and was trained at the given times."""
        started, trained = times
        area = _area(points, self.classifier.nb_classes)
        record = EpochRecord(
            epoch=self._next_epoch,
            seconds=trained - started,
            validation_seconds=time.perf_counter() - trained,
            learning_rate=float(self.classifier.optimizer.param_groups[0]["lr"]),
            loss=tally.loss,
            clean=tally.clean,
            robust=tally.robust,
            standing=math.nan if guard is None else guard.take_standing(),
            validation=points,
            area=area,
            is_best=best.is_beaten_by(area),
        )
        self.history.append(record)
        return record

    def _conclude(self, record: EpochRecord, best: BestEpoch, plan: Plan) -> bool:
        """Tell whoever asked of an epoch; return whether training is to end."""
        if plan.log_path is not None:
            write_history(self.history, Path(plan.log_path))
        if record.is_best:
            best.keep(record.epoch, record.area)
            self.best_epoch = record.epoch
        return plan.callback is not None and plan.callback(record) is True

    def _measure(self, validation: _Validation, attack: BoundAttack) -> Iterator[MeasuredPoint]:
        """Clean and robust accuracy at every trained point, by an attack with the same draws every epoch."""
        x, y = validation
        for lam, width in itertools.product(self._model.lambdas, self._model.widths):
            view = self.classifier.at(lam, width)
            generator = torch.Generator().manual_seed(self.seed)
            masks = robust_correct(view.as_module(), x, y, attack.at(view.point), generator=generator)
            clean, robust = (float(mask.double().mean()) for mask in masks)
            yield MeasuredPoint(lam, width, clean, robust, len(y), len(y))


def _area(points: tuple[MeasuredPoint, ...], nb_classes: int) -> float:
    """Mean over widths of the area under the trade-off, from the corner that guessing reaches; NaN without points."""
    widths = dict.fromkeys(point.width for point in points)
    areas = [Frontier(tuple(p for p in points if p.width == width)).area((1 / nb_classes, 0.0)) for width in widths]
    return sum(areas) / len(areas) if areas else math.nan


def _check_classifier(classifier: Any) -> None:
    if not isinstance(classifier, OATClassifier):
        raise TypeError(f"classifier must be an OATClassifier, got {type(classifier).__name__}.")
    if not isinstance(classifier.loss, nn.CrossEntropyLoss):
        raise TypeError(f"the classifier's loss must be a CrossEntropyLoss, got {type(classifier.loss).__name__}.")
    if classifier.loss.ignore_index >= 0 or classifier.loss.reduction != "mean":
        raise ValueError("the classifier's loss must count every label (no ignore_index) and have reduction 'mean'.")
    if classifier.optimizer is None:
        raise ValueError("the classifier must hold an optimizer to be trained: OATClassifier(..., optimizer=...).")
    closure = inspect.signature(type(classifier.optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        kind = type(classifier.optimizer).__name__
        raise TypeError(f"the optimizer must take a step without a closure, which {kind} does not: use SGD or AdamW.")
    refuse(preprocessing_faults(classifier))


@contextmanager
def _finished(step: Step, best: BestEpoch) -> Iterator[None]:
    """Leave in the network what was asked for, however the block ends."""
    try:
        yield
    finally:
        step.finish()
        best.restore()
