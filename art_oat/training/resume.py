"""Resuming: the state of a training, in memory and in a file, and which training it belongs to."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from art_oat.classifier import OATClassifier
from art_oat.storage import Plain, differences, fingerprint, replaced
from art_oat.training.callbacks import Callback, file_faults
from art_oat.training.guard import Guard
from art_oat.training.lr_stepper import LRStepper, is_schedule
from art_oat.training.phases import Phases
from art_oat.training.records import EpochRecord
from art_oat.training.step import Step

_FORMAT = 5  # of 4, callbacks of one class had one state


@dataclass
class TrainingState:
    """All parts of a training that change from step to step.

    Counts are of this call of ``fit``. Where a callback ended it, ``nb_done`` counts all epochs.
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

    @property
    def next_epoch(self) -> int:
        """The number of the epoch to come; one that was undone gives its number to the one that is run again."""
        return 1 + sum(not record.is_undone for record in self.history)

    @property
    def best(self) -> EpochRecord | None:
        """The record with the largest area of this call."""
        found = [record for record in self.history if record.is_best and record.epoch > self.phases.nb_before]
        return found[-1] if found else None

    def state_dict(self) -> dict[str, Any]:
        """Return everything, between two epochs, within the block that borrows torch's global generators."""
        device = self.classifier.device
        return {
            "nb_before": self.phases.nb_before,
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
            "generator": self.generator.get_state(),
            "cpu_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def _callbacks_by_class(self) -> dict[str, list[Callback]]:
        """Return the callbacks by the name of their class, in their order."""
        found: dict[str, list[Callback]] = {}
        for callback in self.callbacks:
            found.setdefault(type(callback).__name__, []).append(callback)
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` of the same training returned, perhaps on another device."""
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
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["cpu_generator"])
        if self.classifier.device.type == "cuda" and state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], self.classifier.device)


class ResumeFile(Callback):
    """Writes all that a training needs to continue, after every epoch, when the other callbacks were told.

    If the file is there, ``fit`` continues after the last epoch in it, in whatever trainer and network, and comes to
    the very same result as if it had never been cut. That of a finished training gives the result back, and trains no
    more. Delete it to train anew. The settings must be those of the training in the file; the data are not compared.

    Exact for arrays. A ``DataLoader`` or a generator of ART's shuffles by its own randomness, and an attack, an
    augmentation or a function that remembers something starts anew. A scheduler with ``step()`` needs ``state_dict()``
    and ``load_state_dict()``.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def read(self, settings: Mapping[str, Plain]) -> dict[str, Any] | None:
        """Return what :meth:`write` was given last for the same settings, tensors on the CPU; None without a file.

        Raises:
            ValueError: If the file is of something else, or of a training with other settings; names them.
        """
        path = Path(self.path)
        if not path.exists():
            return None
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            found, content = dict(kept["settings"]), dict(kept["content"])
        except OSError:
            raise
        except Exception as error:  # whatever unpickling raises
            raise ValueError(
                f"ResumeFile must name a file that fit wrote, or none yet, got {path}, which is none: {error!r}."
            ) from error
        if found.get("scheduler") != settings["scheduler"]:  # which decides what can be said of the optimizer's groups
            found, settings = {**found, "optimizer": None}, {**settings, "optimizer": None}
        if different := differences(found, settings):
            raise ValueError(
                f"ResumeFile must name a file of this training, got {path}, of one with other settings: {different}. "
                "Go on with the settings of that one, or delete the file to start anew."
            )
        return content

    def write(self, settings: Mapping[str, Plain], content: Mapping[str, Any]) -> None:
        """Replace the file, whole or not at all."""
        with replaced(Path(self.path)) as partial:
            torch.save({"settings": dict(settings), "content": dict(content)}, partial)

    def faults(self, classifier: OATClassifier) -> list[str]:  # noqa: D102
        return file_faults("ResumeFile", self.path)


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
            f"good state where there is a fallback, got {kind}."
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
