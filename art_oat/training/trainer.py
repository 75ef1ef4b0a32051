"""The trainer: a classifier and a method, and what is trained on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from types import MethodType
from typing import Any

import torch
from art.defences.trainer.trainer import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from art_oat.attacks import Attack, BoundAttack, bind, check_radii
from art_oat.checks import Array, checked_seed, refuse
from art_oat.classifier import OATClassifier
from art_oat.contexts import borrowed_generators
from art_oat.fingerprint import Plain
from art_oat.group import Group
from art_oat.levels import Inputs
from art_oat.training.batches import Batches, as_batches, is_generator, nb_batches, size_of, source_faults
from art_oat.training.callbacks import Callback, ProgressBar, alone
from art_oat.training.dials import trained_and_judged_by
from art_oat.training.guard import Guard
from art_oat.training.loop import Loop, finished
from art_oat.training.lr_stepper import PerStep, Scheduler, in_two_parts, scheduled
from art_oat.training.method import METHODS, Method
from art_oat.training.options import FitOptions, Validation
from art_oat.training.per_process import OwnBatches, PerProcess, is_per_process, unwrapped
from art_oat.training.phases import Phases
from art_oat.training.preprocessing import preprocessing_faults
from art_oat.training.records import EpochRecord, TrainingHistory
from art_oat.training.resume import StateError, TrainingState, described
from art_oat.training.schedule import Schedule
from art_oat.training.step import Step
from art_oat.training.step_batch import joint_faults

_UNCOUNTED = ("eps", "eps_step", "norm", "allow_large_eps", "on_nan")
"""Fields of a resolved method that decide nothing of what was trained so far: its attacks have their own."""


class OATTrainer(Trainer):
    """Once-for-all adversarial training (Wang et al. 2020, arXiv:2010.11828).

    ``min E_(x,y) E_lam [(1 - lam) CE(f(x; lam), y) + lam CE(f(x_adv; lam), y)]``: every sample of a batch gets a lam
    of its own, is attacked at it (by a plain network in evaluation mode), and weighs its two losses by it. Not to be
    mixed up with ART's ``AdversarialTrainerOAATPyTorch``, which is oracle-aligned adversarial training.

    A network with several widths (OATS) trains them together: a step draws widths, each of them is attacked on its own
    and gives a loss, and the optimizer sees the gradient of their sum. Lams and inputs are the same for all of them.

    The loss takes soft labels as they are, the attack takes the most likely class. Labels (of a batch, where batches
    are given) that are all one-hot count as indices. Batches are laid out in memory as the network is. Clean and robust
    accuracy on validation data are measured at every trained lam and width, by the attack of the training, or by the
    ``fallback`` where there is one, which needs them.

    In a process group (``torch.distributed``), the processes train one network together: each is given the same
    settings and data, and takes its share of every batch, whose size is that of all of them; or each is given a loader
    of its own samples, see :class:`PerProcess`. What is drawn is drawn for
    the whole batch: their number does not change what is trained, but for dropout, attacks of other libraries or one's
    own (see :class:`~art_oat.attacks.TensorAttack`), and norms (see ``sync_norms`` of :class:`Method`). The first one
    alone tells callbacks and writes files.

    Args:
        classifier: Holds the conditional network, a ``CrossEntropyLoss`` (its class weights and label smoothing are
            honored) and the optimizer. Weights are those it has: train again to train on.
        method: What is learned, and by which attack; None for ``Method()``, which is OAT as published. An attack, as
            ART's ``AdversarialTrainer`` takes it here, stands for ``Method(attack=...)``.
        seed: In ``[0, 2**32)``; what the order of samples, the lams, the widths, augmentation, the attack's random
            starts and dropout are drawn from. The same seed and weights give exactly the same training on the same
            machine, but for a ``DataLoader`` or a generator of ART's that shuffles by its own randomness.
        **parts: Fields of :class:`Method` to exchange, such as ``attack=PGD(0.2)`` or ``loss="trades"``.

    Attributes:
        method: The method, with every name replaced by what it means for the classifier.
        history: A :class:`TrainingHistory`: a record per epoch, over all calls of ``fit``.
        best_epoch: The epoch, as ``history`` counts, with the largest area under the trade-off on validation data in
            the last call of ``fit``; None where nothing was measured.

    Raises:
        TypeError: If an argument is of another kind than above, a part is unknown, and as :class:`Method`.
        ValueError: If the classifier has no optimizer, its loss leaves labels out or is not a mean, its preprocessing
            changes labels or the number of samples, the method does not suit it, and as :class:`Method`.

    Example:
        ``OATTrainer(classifier, Method.dial(eps=0.2)).fit(x, y, nb_epochs=30)``
    """

    def __init__(
        self, classifier: OATClassifier, method: Method | str | Attack | None = None, *, seed: int = 0, **parts: Any
    ) -> None:
        _check_classifier(classifier)
        self.seed = checked_seed(seed)
        super().__init__(classifier)
        self.method = _method_of(method, parts).resolved(classifier)
        refuse(self.method.faults(classifier))
        check_radii(self.method.radii(classifier), allow_large_eps=True)  # warns of what is next to nothing
        self.history = TrainingHistory()
        self.best_epoch: int | None = None
        self._generator = torch.Generator().manual_seed(self.seed)

    def fit(
        self,
        x: Array | DataLoader[Any] | PerProcess,
        y: Array | None = None,
        validation_data: tuple[Array, Array] | Validation | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        scheduler: Scheduler | Schedule | PerStep | None = None,
        *,
        callbacks: Sequence[Callback | Callable[[EpochRecord], Any]] = (),
        verbose: bool = True,
    ) -> TrainingHistory:
        """Train every operating point at once.

        Args:
            x: Inputs ``(N, *input_shape)`` within the clip values; uint8 is as in :mod:`art_oat.levels`. Or a
                ``DataLoader``, also as :class:`PerProcess`, or an ART ``DataGenerator`` of pairs ``(x, y)``.
            y: Class indices ``(N,)``, one-hot or soft labels ``(N, K)``; None with a loader or a generator.
            validation_data: Inputs and labels (not soft) to measure on after every epoch; or a :class:`Validation`.
            batch_size: Samples per step, of all processes together; a loader and a generator have their own.
            nb_epochs: How often every sample is seen, at least 1.
            scheduler: Has ``step()``, called after every epoch, or after every step as ``PerStep(scheduler)``; or maps
                progress in ``[0, 1]`` to a factor on the learning rates, such as :class:`OneCycle`.
            callbacks: :class:`Callback` objects, or functions of an :class:`EpochRecord`, in order; True ends it all.
            verbose: Whether to show progress.

        Returns:
            The ``history`` of the trainer; ``print`` shows it as a table.

        Raises:
            TypeError: If the network gives more than scores in training mode, or ``callbacks`` holds something else.
            ValueError: If an argument is not as above; names every fault, before anything is touched.
            RuntimeError: If training diverges, and ``on_nan`` does not help; the last good weights are back.
        """
        group, source = Group.here(), unwrapped(x)
        options = FitOptions(nb_epochs, scheduler, validation_data, callbacks, self.method)
        faults = source_faults(source, y, batch_size, self.classifier) + options.faults(self.classifier, source)
        refuse(faults or joint_faults(self.classifier, self.method, group, source, batch_size))
        with alone(options.callbacks if group.is_first else ()):
            return self._train(self._batches(x, y, batch_size, group), options, group, verbose=verbose)

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int = 20,
        validation_data: tuple[Array, Array] | Validation | None = None,
        scheduler: Scheduler | Schedule | PerStep | None = None,
        **options: Any,
    ) -> TrainingHistory:
        """Train on the batches of an ART ``DataGenerator``; an epoch is ``ceil(size / batch_size)`` of them.

        Args:
            generator: Has ``get_batch()``, ``size`` and ``batch_size``; its batches are checked as they come.
            nb_epochs: As in :meth:`fit`, like all that follow; errors, too, are those of :meth:`fit`.
            validation_data: See there.
            scheduler: See there.
            **options: The keywords of :meth:`fit`.

        Raises:
            TypeError: If ``generator`` is of another kind or a keyword is unknown.
        """
        if not is_generator(generator):
            kind = type(generator).__name__
            raise TypeError(f"generator must have get_batch(), size and batch_size, got {kind}. fit takes arrays.")
        return self.fit(generator, validation_data=validation_data, nb_epochs=nb_epochs, scheduler=scheduler, **options)

    def _batches(self, x: Any, y: Any, batch_size: int, group: Group) -> Batches:
        if is_per_process(x):
            return OwnBatches(unwrapped(x), self.classifier, group)
        return as_batches(x, y, batch_size, self.classifier, self._generator)

    def _train(self, batches: Batches, options: FitOptions, group: Group, *, verbose: bool) -> TrainingHistory:
        settings = self._settings(batches, options)
        group.check_same("the settings of a training", lambda: settings)
        file = options.resume_file
        # refuses before anything is touched
        saved = None if file is None else group.first(partial(file.read, settings, self.classifier))
        count = nb_batches(batches)
        nb_steps = None if count is None else options.nb_epochs * count
        nb_before = sum(not record.is_undone for record in self.history) if saved is None else saved["nb_before"]
        phases = Phases.of(self.method, options.nb_epochs, count, nb_before)
        scheduler = in_two_parts(options.scheduler, phases.clean_share)
        attack, judge = self._attacks()
        data = None if options.validation is None else (options.validation.x, options.validation.y)
        validation = None if data is None else self.classifier.kept_tensors(*data)
        group.spread(self._tensors())
        step = Step(self.classifier, self.method, attack, self._generator, group, has_own_rows=batches.are_own)
        callbacks = options.callbacks if group.is_first else ()
        if verbose and group.is_first:
            callbacks = (*callbacks, _progress_bar(options, count, saved))
        self.best_epoch = None
        with (
            self._seeded(),
            finished(step) as started,
            scheduled(self.classifier.optimizer, scheduler, options.interval, nb_steps) as stepper,
        ):
            guard = self._guard(attack, judge, validation)
            state = TrainingState(
                self.classifier, step, stepper, self._generator, guard, callbacks, self.history, phases
            )
            try:
                for callback in callbacks:
                    callback.on_fit_start(self.classifier.model, self.history)
                    started.append(callback)
                if file is not None and saved is not None:
                    state.restore(saved, str(file.path))
                Loop(state, batches, options, settings, validation, judge, self.seed).run()
            finally:
                self.best_epoch = None if state.best is None else state.best.epoch
        group.spread(self._tensors())  # a callback, told in the first process alone, may have put others there
        return self.history

    def _tensors(self) -> list[Tensor]:
        return [*self.classifier.model.parameters(), *self.classifier.model.buffers()]

    def _guard(self, attack: BoundAttack, judge: BoundAttack, validation: tuple[Inputs, Tensor] | None) -> Guard | None:
        if self.method.fallback is None or validation is None or self.classifier.model.lambdas[-1] == 0:
            return None
        return Guard(self.classifier, attack, judge, *validation, self.seed)

    def _attacks(self) -> tuple[BoundAttack, BoundAttack]:
        """Return the attack of the training, and that of the validation."""
        compiles, fallback = self.method.compile_attack, self.method.fallback
        lambdas = self.classifier.model.lambdas
        own, judge = trained_and_judged_by(self.method.attack, self.method.dials, lambdas)
        attack = bind(own, self.classifier, compiles=compiles)
        if own is judge and fallback is None:
            return attack, attack
        return attack, bind(judge if fallback is None else fallback, self.classifier, compiles=compiles)

    def _settings(self, batches: Batches, options: FitOptions) -> dict[str, Plain]:
        """What tells the training apart from others."""
        parts = {part.name: getattr(self.method, part.name) for part in fields(Method) if part.name not in _UNCOUNTED}
        parts |= {"seed": self.seed} | options.settings() | size_of(batches)
        return described(parts, self.classifier, options.scheduler)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Train from the trainer's own randomness (dropout draws from the global generator); end in evaluation mode.

        What is refused before the first step leaves both as they were.
        """
        before, modes = self._generator.get_state(), {it: it.training for it in self.classifier.model.modules()}
        seed = int(torch.randint(2**31, (), generator=self._generator))
        with borrowed_generators(self.classifier.device, seed):
            try:
                yield
            except StateError:
                self._generator.set_state(before)
                for module, is_training in modes.items():
                    module.training = is_training
                raise
            except BaseException:
                self.classifier.model.eval()
                raise
            self.classifier.model.eval()


def _progress_bar(options: FitOptions, nb_batches: int | None, saved: Mapping[str, Any] | None) -> ProgressBar:
    """Return what shows a training, also one that goes on."""
    nb_epochs, file = options.nb_epochs, options.resume_file
    nb_steps = None if nb_batches is None else nb_epochs * nb_batches
    if saved is None or file is None:
        return ProgressBar(nb_epochs, nb_steps)
    nb_done = saved["nb_done"]
    initial = nb_steps if nb_steps is not None and nb_done == nb_epochs else saved["nb_steps"]
    return ProgressBar(nb_epochs, nb_steps, nb_done, initial, file.origin(saved, nb_epochs, nb_batches))


def _method_of(given: Any, parts: dict[str, Any]) -> Method:
    """Return the method that is meant by one, by an attack or by None, with other parts."""
    if isinstance(given, Method | None):
        return replace(given or Method(), **parts)
    presets = [name for name, make in METHODS.items() if isinstance(given, str | MethodType) and given in (name, make)]
    if presets:
        raise TypeError(f"method must be a Method or an attack, got {given!r}: write Method.{presets[0]}().")
    if "attack" in parts:
        raise TypeError(f"the attack must be given once, got {given!r} and attack={parts['attack']!r}.")
    return Method(attack=given, **parts)


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
