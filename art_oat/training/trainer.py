"""Owns the training loop: draw lams, attack, weigh the losses, step."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from art.defences.trainer.trainer import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from art_oat.attack import PGD, TensorAttack, withstand
from art_oat.classifier import OATClassifier
from art_oat.frontier import MeasuredPoint
from art_oat.inputs import Array, as_array, count_faults, refuse
from art_oat.model import OATModel
from art_oat.randomness import borrowed_generators
from art_oat.training.batches import ArrayBatches, Batches, GeneratorBatches, LoaderBatches, is_pair
from art_oat.training.history import EpochRecord, write_history
from art_oat.training.loss import hybrid_loss
from art_oat.training.sampling import StratifiedSampling


class Loss(Protocol):
    """A training objective; see :func:`hybrid_loss` for the arguments."""

    def __call__(
        self, logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: nn.CrossEntropyLoss | None = None
    ) -> Tensor:
        """Return a scalar that carries gradient."""
        ...


class Scheduler(Protocol):
    """Anything with ``step()``, such as every scheduler of torch."""

    def step(self) -> Any:
        """Advance the schedule by one epoch, or one step."""
        ...


_Validation = tuple[Tensor, Tensor]


class OATTrainer(Trainer):
    """Once-for-all adversarial training (Wang et al. 2020, arXiv:2010.11828).

    ``min E_(x,y) E_lam [(1 - lam) CE(f(x; lam), y) + lam CE(f(x_adv; lam), y)]``: every sample of a batch gets a lam
    of its own, is attacked at it (by a plain network in evaluation mode), and weighs its two losses by it. Not to be
    mixed up with ART's ``AdversarialTrainerOAATPyTorch``, which is oracle-aligned adversarial training.

    Args:
        classifier: Holds the conditional network, a ``CrossEntropyLoss`` (its class weights and label smoothing are
            honored) and the optimizer. Weights are those it has: train again to train on.
        attack: Perturbs a batch of tensors; None for ``PGD()``, which is PGD-7 at 8/255. It differentiates through
            the classifier's preprocessing; its eps is in units of ``x``.
        sampling: How lams are drawn; None for the published uniform draw.
        loss: The objective.
        seed: What the order of samples, the lams, the attack's random starts and dropout are drawn from. The same
            seed and weights give exactly the same training on the same machine, as far as the data come in the
            same order: a ``DataLoader`` or a generator of ART's shuffles by its own randomness.

    Attributes:
        history: One :class:`EpochRecord` per epoch, over all calls of ``fit``.

    Raises:
        TypeError: If an argument is of another kind than above.
        ValueError: If the classifier has no optimizer, its loss leaves labels out or is not a mean, or ``sampling``
            weighs a lam that is not trained.
    """

    def __init__(
        self,
        classifier: OATClassifier,
        attack: TensorAttack | None = None,
        *,
        sampling: StratifiedSampling | None = None,
        loss: Loss = hybrid_loss,
        seed: int = 0,
    ) -> None:
        if not isinstance(classifier, OATClassifier):
            raise TypeError(f"classifier must be an OATClassifier, got {type(classifier).__name__}.")
        if not isinstance(classifier.loss, nn.CrossEntropyLoss):
            raise TypeError(f"the classifier's loss must be a CrossEntropyLoss, got {type(classifier.loss).__name__}.")
        if classifier.loss.ignore_index >= 0 or classifier.loss.reduction != "mean":
            raise ValueError(
                "the classifier's loss must count every label (no ignore_index) and have reduction 'mean'."
            )
        if sampling is not None and not isinstance(sampling, StratifiedSampling):
            raise TypeError(f"sampling must be a StratifiedSampling, got {type(sampling).__name__}.")
        if attack is not None and (not callable(attack) or isinstance(attack, nn.Module)):
            raise TypeError(f"attack must be callable on tensors as art_oat.PGD is, got {type(attack).__name__}.")
        if classifier.optimizer is None:
            raise ValueError("the classifier must hold an optimizer to be trained: OATClassifier(..., optimizer=...).")
        super().__init__(classifier)
        self.attack: TensorAttack = PGD() if attack is None else attack
        self.sampling = StratifiedSampling() if sampling is None else sampling
        self.sampling.check(classifier.model.lambdas)
        self.loss = loss
        self.seed = seed
        self.history: list[EpochRecord] = []
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
        scheduler: Scheduler | None = None,
        *,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        validation_interval: int = 1,
        log_path: str | Path | None = None,
        verbose: bool = True,
    ) -> None:
        """Train every operating point at once.

        Args:
            x: Inputs ``(N, *input_shape)``, finite and within the classifier's clip values; or a ``DataLoader`` of
                pairs ``(x, y)``, whose batches are checked as they come.
            y: Class indices ``(N,)`` or one-hot labels ``(N, K)``; None with a ``DataLoader``.
            validation_data: Inputs and labels on which clean and robust accuracy are measured, at every trained lam,
                by the training attack.
            batch_size: Samples per step; a ``DataLoader`` has its own.
            nb_epochs: How often every sample is seen, at least 1.
            scheduler: Has ``step()``.
            scheduler_interval: Whether ``step()`` is called once per epoch or once per step.
            validation_interval: Validate after every so many epochs, and after the last one.
            log_path: Where to write the history as CSV after every epoch; None for nowhere.
            verbose: Whether to show progress.

        Raises:
            ValueError: If an argument is not as above; names every fault, before anything is touched.
            RuntimeError: If the loss, a gradient or a score is no longer finite. Weights and statistics are then the
                last ones that had a finite loss and gradient; the optimizer's own state is not rolled back.
        """
        counts = {"nb_epochs": nb_epochs, "batch_size": batch_size, "validation_interval": validation_interval}
        faults = self._option_faults(counts, scheduler, scheduler_interval, log_path)
        if isinstance(x, DataLoader):
            faults += [] if y is None else ["y must be None with a DataLoader, which yields the labels itself."]
        elif y is None:
            faults.append("y must hold the labels of x, got None.")
        else:
            faults += self.classifier.data_faults(as_array(x), as_array(y))
        refuse([*faults, *self._validation_faults(validation_data)])
        if isinstance(x, DataLoader):
            batches: Batches = LoaderBatches(x, self.classifier)
        else:
            assert y is not None
            inputs, indices = self.classifier.as_tensors(x, y)
            batches = ArrayBatches(inputs, indices, batch_size, self._generator)
        schedule = _Schedule(scheduler, scheduler_interval)
        validation = self._as_validation(validation_data)
        self._train(batches, _Plan(nb_epochs, schedule, validation, validation_interval, log_path, verbose))

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int = 20,
        validation_data: tuple[Array, Array] | None = None,
        scheduler: Scheduler | None = None,
        *,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        validation_interval: int = 1,
        log_path: str | Path | None = None,
        verbose: bool = True,
    ) -> None:
        """Train on the batches of an ART ``DataGenerator``; an epoch is ``ceil(size / batch_size)`` of them.

        Args:
            generator: Has ``get_batch()``, ``size`` and ``batch_size``; its batches are checked as they come.
            nb_epochs: As in :meth:`fit`.
            validation_data: As in :meth:`fit`.
            scheduler: As in :meth:`fit`.
            scheduler_interval: As in :meth:`fit`.
            validation_interval: As in :meth:`fit`.
            log_path: As in :meth:`fit`.
            verbose: As in :meth:`fit`.

        Raises:
            ValueError: If the generator's size is not known, and as :meth:`fit`.
            RuntimeError: As :meth:`fit`.
        """
        counts = {"nb_epochs": nb_epochs, "validation_interval": validation_interval}
        faults = self._option_faults(counts, scheduler, scheduler_interval, log_path)
        faults += ["generator must know its size, got None."] if generator.size is None else []
        refuse([*faults, *self._validation_faults(validation_data)])
        schedule = _Schedule(scheduler, scheduler_interval)
        plan = _Plan(nb_epochs, schedule, self._as_validation(validation_data), validation_interval, log_path, verbose)
        self._train(GeneratorBatches(generator, self.classifier), plan)

    def _option_faults(
        self, counts: dict[str, int], scheduler: Any, scheduler_interval: str, log_path: Any
    ) -> list[str]:
        faults = count_faults(counts)
        if counts.get("batch_size") == 1 and 0 in self._model.lambdas and len(self._model.lambdas) > 1:
            faults.append("batch_size must be at least 2, got 1: lam = 0 would get every batch.")
        if scheduler is not None and not _has_plain_step(scheduler):
            faults.append(f"scheduler must have step() without arguments, got {type(scheduler).__name__}.")
        if log_path is not None and (not isinstance(log_path, str | Path) or Path(log_path).is_dir()):
            faults.append(f"log_path must name a file, got {log_path!r}.")
        if scheduler_interval not in ("epoch", "step"):
            faults.append(f"scheduler_interval must be 'epoch' or 'step', got {scheduler_interval!r}.")
        return faults

    def _validation_faults(self, data: Any) -> list[str]:
        if data is None:
            return []
        if not is_pair(data):
            return [f"validation_data must be a pair (x, y), got {type(data).__name__}."]
        x, y = (as_array(part) for part in data)
        faults: list[str] = self.classifier.data_faults(x, y, ("validation x", "validation y"))
        return faults

    def _as_validation(self, data: tuple[Array, Array] | None) -> _Validation | None:
        return None if data is None else self.classifier.as_tensors(*data)

    def _train(self, batches: Batches, plan: _Plan) -> None:
        step = _Step(self)
        with (
            self._seeded(),
            tqdm(total=_nb_steps(batches, plan.nb_epochs), disable=not plan.verbose, unit="step") as bar,
        ):
            for epoch in range(1, plan.nb_epochs + 1):
                bar.set_description(f"epoch {epoch}/{plan.nb_epochs}")
                started = time.perf_counter()
                tally = _Tally()
                for x, y in batches:
                    step(x, y, tally)
                    plan.schedule.end_step()
                    bar.set_postfix(tally.shown(), refresh=False)
                    bar.update()
                if not tally.nb_samples:
                    raise ValueError("an epoch must hold at least one batch, got none. Is drop_last set?")
                step.check_outcome()
                plan.schedule.end_epoch()
                self._record(tally, started, plan.validation_after(epoch))
                if plan.log_path is not None:
                    write_history(self.history, Path(plan.log_path))

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Train from the trainer's own randomness (dropout draws from the global generator); restore the mode."""
        model, was_training = self._model, self._model.training
        seed = int(torch.randint(2**31, (), generator=self._generator))
        with borrowed_generators(self.classifier.device, seed):
            try:
                yield
            finally:
                model.train(was_training)

    def _record(self, tally: _Tally, started: float, validation: _Validation | None) -> None:
        trained = time.perf_counter()
        points = () if validation is None else tuple(self._measure(validation))
        record = EpochRecord(
            epoch=len(self.history) + 1,
            seconds=trained - started,
            validation_seconds=time.perf_counter() - trained,
            learning_rate=self.classifier.optimizer.param_groups[0]["lr"],
            loss=tally.loss,
            clean=tally.clean,
            robust=tally.robust,
            validation=points,
        )
        self.history.append(record)

    def _measure(self, validation: _Validation) -> Iterator[MeasuredPoint]:
        """Clean and robust accuracy at every trained lam, by the training attack with the same draws every epoch."""
        for lam in self._model.lambdas:
            view = self.classifier.at(lam)
            generator = torch.Generator().manual_seed(self.seed)
            masks = withstand(
                view.as_module(), *validation, self.attack, clip_values=self.classifier.clip_values, generator=generator
            )
            clean, robust = (float(mask.double().mean()) for mask in masks)
            yield MeasuredPoint(view.point.lam, view.point.width, clean, robust, len(validation[1]), len(validation[1]))


def _has_plain_step(scheduler: Any) -> bool:
    """Whether ``step()`` can be called without arguments; that of ReduceLROnPlateau wants a metric."""
    step = getattr(scheduler, "step", None)
    if not callable(step):
        return False
    parameters = inspect.signature(step).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(parameter.default is not parameter.empty or parameter.kind in variadic for parameter in parameters)


def _nb_steps(batches: Batches, nb_epochs: int) -> int | None:
    try:
        return nb_epochs * len(batches)
    except TypeError:  # a loader of an iterable data set knows no length
        return None


class _Schedule:
    """Advances a scheduler once per epoch or once per step."""

    def __init__(self, scheduler: Scheduler | None, interval: str) -> None:
        self.scheduler = scheduler
        self.interval = interval

    def end_step(self) -> None:
        if self.scheduler is not None and self.interval == "step":
            self.scheduler.step()

    def end_epoch(self) -> None:
        if self.scheduler is not None and self.interval == "epoch":
            self.scheduler.step()


@dataclass(frozen=True)
class _Plan:
    """What a call of ``fit`` asked for, checked."""

    nb_epochs: int
    schedule: _Schedule
    validation: _Validation | None
    validation_interval: int
    log_path: str | Path | None
    verbose: bool

    def validation_after(self, epoch: int) -> _Validation | None:
        is_due = epoch % self.validation_interval == 0 or epoch == self.nb_epochs
        return self.validation if is_due else None


@dataclass
class _Tally:
    """Sums over the steps of an epoch."""

    loss_sum: float = 0.0
    nb_samples: int = 0
    nb_correct: int = 0
    nb_attacked: int = 0
    nb_robust: int = 0

    def add(self, loss: float, is_correct: Tensor, is_robust: Tensor) -> None:
        self.loss_sum += loss * len(is_correct)
        self.nb_samples += len(is_correct)
        self.nb_correct += int(is_correct.sum())
        self.nb_attacked += len(is_robust)
        self.nb_robust += int(is_robust.sum())

    @property
    def loss(self) -> float:
        return self.loss_sum / max(self.nb_samples, 1)

    @property
    def clean(self) -> float:
        return self.nb_correct / max(self.nb_samples, 1)

    @property
    def robust(self) -> float:
        return self.nb_robust / self.nb_attacked if self.nb_attacked else float("nan")

    def shown(self) -> dict[str, str]:
        return {"loss": f"{self.loss:.3f}", "clean": f"{self.clean:.3f}", "robust": f"{self.robust:.3f}"}


class _Step:
    """One optimizer step on one batch; goes back to the last state known to be good where training diverges."""

    def __init__(self, trainer: OATTrainer) -> None:
        self.trainer = trainer
        self.classifier: OATClassifier = trainer.classifier
        self.model = self.classifier.model
        self.replica = self.model.replica()
        self.attacked_network = self.classifier.preprocessed(self.replica)
        self.preprocess = self.classifier.preprocessed(nn.Identity(), is_training=True)
        self.state = [*self.model.parameters(), *self.model.buffers()]
        self.good_state = [tensor.detach().clone() for tensor in self.state]
        self.last_x = torch.empty(0)

    def __call__(self, x: Tensor, y: Tensor, tally: _Tally) -> None:
        generator = self.trainer._generator
        order = torch.randperm(len(x), generator=generator).to(x.device)  # no lam may always meet the same samples
        x, y = x[order], y[order]
        lam = self.trainer.sampling.draw(self.model.lambdas, len(x), generator).to(x)
        is_attacked = lam > 0
        x_adv = self._attack(x[is_attacked], y[is_attacked], lam[is_attacked])
        self.model.train()
        self.classifier.optimizer.zero_grad()
        logits = self.model(self.preprocess(x), lam)
        logits_adv = self.model(self.preprocess(x_adv), lam[is_attacked]) if len(x_adv) else logits[:0]
        loss = self.trainer.loss(logits, logits_adv, y, lam, self.classifier.loss)
        self._check("loss", loss)
        loss.backward()
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self._check("gradient", nn.utils.get_total_norm(gradients))
        with torch.no_grad():
            torch._foreach_copy_(self.good_state, self.state)
        self.classifier.optimizer.step()
        self.last_x = x
        tally.add(loss.item(), logits.argmax(1) == y, logits_adv.argmax(1) == y[is_attacked])

    def _attack(self, x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
        if not len(x):
            return x
        self.replica.aim(lam)
        trainer, clip_values = self.trainer, self.classifier.clip_values
        return trainer.attack(self.attacked_network, x, y, clip_values=clip_values, generator=trainer._generator)

    def check_outcome(self) -> None:
        """Answer the last batch at every trained lam: the last step itself may have been the one that diverged."""
        for lam in self.model.lambdas:
            with torch.no_grad():
                self._check("score", self.classifier.at(lam).as_module()(self.last_x).abs().max())

    def _check(self, what: str, value: Tensor) -> None:
        if bool(value.isfinite()):
            return
        with torch.no_grad():
            torch._foreach_copy_(self.state, self.good_state)
        self.classifier.optimizer.zero_grad()
        raise RuntimeError(
            f"training must stay finite, got a {what} of {value.item()} in epoch {len(self.trainer.history) + 1}. "
            "Weights and statistics are back at the last ones with a finite loss and gradient; the optimizer's own "
            "state is not. Lower the learning rate, or look for extreme inputs."
        )
