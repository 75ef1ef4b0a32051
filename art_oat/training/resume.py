"""Resuming: the state of a training, in memory and in a file, and which training it belongs to."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from art_oat.checks import one_line
from art_oat.classifier import OATClassifier
from art_oat.fingerprint import Plain, fingerprint
from art_oat.training.callbacks import Callback
from art_oat.training.guard import Guard
from art_oat.training.lr_stepper import LRStepper, is_schedule
from art_oat.training.phases import Phases
from art_oat.training.place import Place
from art_oat.training.records import EpochRecord
from art_oat.training.step import Step

_FORMAT = 6  # of 5, there was no place within an epoch


class StateError(ValueError):
    """A state is not of the training that is to go on from it."""


@dataclass
class TrainingState:
    """All parts of a training that change from step to step.

    Counts are of this call of ``fit``, but ``nb_records_before``, the length of the history when it began. Where a
    callback ended it, ``nb_done`` counts all epochs.
    """

    classifier: OATClassifier
    step: Step
    stepper: LRStepper
    generator: torch.Generator
    guard: Guard | None
    callbacks: Sequence[Callback]
    history: list[EpochRecord]
    phases: Phases
    nb_done: int = 0
    nb_steps: int = 0
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        self.nb_records_before = len(self.history)

    @property
    def next_epoch(self) -> int:
        """The number of the epoch to come; one that was undone gives its number to the one that is run again."""
        return 1 + sum(not record.is_undone for record in self.history)

    @property
    def nb_steps_before(self) -> int:
        """How many steps were taken when the epoch began."""
        return self.nb_steps - self.place.nb_batches

    @property
    def nb_restores(self) -> int:
        """How many epochs of this call diverged and were undone."""
        return sum(record.is_diverged for record in self.history[self.nb_records_before :])

    @property
    def lr_factor(self) -> float:
        """What the learning rates are multiplied by: one half for each restore."""
        return 0.5**self.nb_restores

    @property
    def best(self) -> EpochRecord | None:
        """The record with the largest area of this call."""
        found = [record for record in self.history if record.is_best and record.epoch > self.phases.nb_before]
        return found[-1] if found else None

    def state_dict(self) -> dict[str, Any]:
        """Return everything, between two steps, within the block that borrows torch's global generators."""
        return {
            "nb_before": self.phases.nb_before,
            "nb_records_before": self.nb_records_before,
            "nb_done": self.nb_done,
            "nb_steps": self.nb_steps,
            "history": [record.state_dict() for record in self.history],
            "guard": None if self.guard is None else self.guard.state_dict(),
            "callbacks": {
                name: [one.state_dict() for one in alike] for name, alike in self._callbacks_by_class().items()
            },
            "step": self.step.state_dict(),
            "stepper": self.stepper.state_dict(),
            "optimizer": self.classifier.optimizer.state_dict(),
            "place": self.place.state_dict(),
            **self.generators(),
        }

    def generators(self) -> dict[str, Tensor | None]:
        """Return the states of the generators that a training draws from."""
        device = self.classifier.device
        return {
            "generator": self.generator.get_state(),
            "cpu_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def set_generators(self, states: Mapping[str, Any]) -> None:
        """Draw from here on what :meth:`generators` said, which may have been on another device."""
        self.generator.set_state(states["generator"])
        torch.set_rng_state(states["cpu_generator"])
        if self.classifier.device.type == "cuda" and states["cuda_generator"] is not None:
            torch.cuda.set_rng_state(states["cuda_generator"], self.classifier.device)

    def begin_epoch(self, *, may_be_undone: bool) -> None:
        """Note how an epoch begins, and all of the state where it may have to be undone."""
        self.place = Place(self.generators(), self.snapshot() if may_be_undone else None)

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of everything, to go back to."""
        return copy.deepcopy(self.state_dict())

    def _callbacks_by_class(self) -> dict[str, list[Callback]]:
        """Return the callbacks by the name of their class, in their order."""
        found: dict[str, list[Callback]] = {}
        for callback in self.callbacks:
            found.setdefault(type(callback).__name__, []).append(callback)
        return found

    def restore(self, state: Mapping[str, Any], source: str) -> None:
        """Continue from a state of another origin, or leave everything as it is.

        Raises:
            StateError: If it is of another form; names the source.
        """
        before = self.snapshot()
        try:
            self.load_state_dict(state)
        except Exception as error:  # whatever schedulers, optimizers and callbacks raise
            self.load_state_dict(before)
            raise StateError(f"{source} must hold a state of this training, but does not: {one_line(error)}") from error

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` of the same training returned, perhaps on another device."""
        self.nb_records_before = state["nb_records_before"]
        self.nb_done, self.nb_steps = state["nb_done"], state["nb_steps"]
        self.history[:] = [EpochRecord.from_state(record) for record in state["history"]]
        self.step.load_state_dict(state["step"])
        self.classifier.optimizer.load_state_dict(state["optimizer"])
        self.stepper.load_state_dict(state["stepper"])
        if self.guard is not None:
            self.guard.load_state_dict(state["guard"])
            if self.guard.has_tripped:
                self.step.attack = self.guard.strong
        for name, alike in self._callbacks_by_class().items():
            for callback, kept in zip(alike, state["callbacks"].get(name, ()), strict=False):
                if kept:
                    callback.load_state_dict(kept)
        self.place = Place.from_state(state["place"])
        self.set_generators(state)


def described(parts: Mapping[str, Any], classifier: OATClassifier, scheduler: Any) -> dict[str, Plain]:
    """Return what tells a training apart from others, by name: settings, and kinds and shapes of what is trained."""
    model, criterion, optimizer = classifier.model, classifier.loss, classifier.optimizer
    own = {
        "format": _FORMAT,
        "lambdas": model.lambdas,
        "widths": model.widths,
        "criterion": {"label_smoothing": criterion.label_smoothing, "weight": criterion.weight},
        "scheduler": type(scheduler) if _is_stepped(scheduler) else scheduler,
        "optimizer": {"class": type(optimizer).__qualname__, "groups": _groups(optimizer, scheduler)},
    }
    tensors = {
        name: f"{tensor.dtype} {[*tensor.shape]}"
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())
    }
    marks: dict[str, Plain] = fingerprint({**own, **parts, "tensors": tensors})
    return marks


def _groups(optimizer: torch.optim.Optimizer, scheduler: Any) -> list[dict[str, Any]]:
    """What an optimizer was made with, as far as no scheduler that is stepped may have changed it."""
    groups = [{**group, "params": len(group["params"])} for group in optimizer.param_groups]
    if not _is_stepped(scheduler):
        return groups
    return [{name: group.get(name) for name in ("params", "initial_lr")} for group in groups]


def _is_stepped(scheduler: Any) -> bool:
    return scheduler is not None and not is_schedule(scheduler)


def state_faults(scheduler: Any, classifier: OATClassifier, *, is_written: bool) -> list[str]:
    """Say why a training by a scheduler could not go back to an earlier state, also where that is in a file."""
    is_stepped = _is_stepped(scheduler)
    if is_stepped and not all(hasattr(scheduler, name) for name in ("state_dict", "load_state_dict")):
        kind = type(scheduler).__name__
        return [
            "scheduler must have state_dict() and load_state_dict() to continue from a ResumeFile, or from the last "
            f"good state where there is a fallback or on_nan='restore', got {kind}."
        ]
    states = {"optimizer": _groups(classifier.optimizer, None)} if is_written else {}
    states |= {"scheduler": scheduler.state_dict()} if is_written and is_stepped else {}
    return [
        f"{name} must hold plain numbers and tensors to be read from a ResumeFile again, but: {error}"
        for name, state in states.items()
        if (error := _reading_error(state)) is not None
    ]


def _reading_error(state: Any) -> Exception | None:
    """What goes wrong with a state that is written and read."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever pickling raises
        return error
    return None
