"""Owns what a call of ``fit`` asks for, apart from the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from art_oat.checks import Array, as_array, count_faults
from art_oat.classifier import OATClassifier
from art_oat.training.batches import is_pair
from art_oat.training.checkpoint import Checkpoint
from art_oat.training.records import EpochRecord
from art_oat.training.resume import scheduler_state_faults, state_faults
from art_oat.training.schedule import Schedule, Scheduler, is_schedule, scheduler_faults

Callback = Callable[[EpochRecord], Any]
"""Is told of every epoch; returns True, and nothing else, to end the training."""


@dataclass(frozen=True)
class Plan:
    """The options of :meth:`OATTrainer.fit`, which documents them."""

    nb_epochs: int
    scheduler: Scheduler | Schedule | None
    scheduler_interval: str
    validation_data: tuple[Array, Array] | None
    validation_interval: int
    checkpoint: Checkpoint | str | Path | None
    restore_best: bool
    callback: Callback | None
    log_path: str | Path | None
    state_path: str | Path | None
    verbose: bool
    has_fallback: bool = False

    @property
    def counts_steps(self) -> bool:
        """Whether the number of steps must be known beforehand."""
        return self.scheduler is not None and is_schedule(self.scheduler)

    def is_validated_after(self, epoch: int) -> bool:
        """Whether epoch ``epoch`` of this call, from 1, is followed by a validation."""
        is_due = epoch % self.validation_interval == 0 or epoch == self.nb_epochs
        return is_due and self.validation_data is not None

    def settings(self) -> dict[str, Any]:
        """Return what decides the result, apart from data, scheduler and callback."""
        nb_validation = 0 if self.validation_data is None else len(self.validation_data[0])
        return {
            "nb_epochs": self.nb_epochs,
            "scheduler_interval": self.scheduler_interval,
            "number of validation samples": nb_validation,
            "validation_interval": self.validation_interval,
            "restore_best": self.restore_best,
        }

    def faults(self, classifier: OATClassifier) -> list[str]:
        """Say all that is wrong."""
        faults = count_faults({"nb_epochs": self.nb_epochs, "validation_interval": self.validation_interval})
        faults += scheduler_faults(self.scheduler, self.scheduler_interval)
        if getattr(self.scheduler, "optimizer", classifier.optimizer) is not classifier.optimizer:
            faults.append("scheduler must be made for the classifier's own optimizer, got one for another optimizer.")
        if self.scheduler_interval not in ("epoch", "step"):
            faults.append(f"scheduler_interval must be 'epoch' or 'step', got {self.scheduler_interval!r}.")
        faults += [
            f"{name} must name a file, got {path!r}."
            for name, path in {"log_path": self.log_path, "state_path": self.state_path}.items()
            if path is not None and (not isinstance(path, str | Path) or Path(path).is_dir())
        ]
        if self.state_path is not None or self.has_fallback:
            faults += scheduler_state_faults(self.scheduler)
        if self.state_path is not None:
            faults += state_faults(self.scheduler, classifier)
        if self.callback is not None and not callable(self.callback):
            faults.append(f"callback must be callable on an EpochRecord, got {type(self.callback).__name__}.")
        return [*faults, *self._checkpoint_faults(classifier), *self._validation_faults(classifier)]

    def _checkpoint_faults(self, classifier: OATClassifier) -> list[str]:
        asked = {"checkpoint": self.checkpoint is not None, "restore_best": bool(self.restore_best)}
        faults = [
            f"{name} needs validation_data: the best epoch has the largest area under its trade-off there."
            for name, is_asked in asked.items()
            if is_asked and self.validation_data is None
        ]
        if not isinstance(self.checkpoint, Checkpoint | str | Path | None):
            kind = type(self.checkpoint).__name__
            return [*faults, f"checkpoint must be a folder, a Checkpoint or None, got {kind}."]
        checkpoint = self.as_checkpoint()
        return faults if checkpoint is None else faults + checkpoint.faults(classifier.model)

    def as_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint, also where its folder alone was named."""
        return Checkpoint(self.checkpoint) if isinstance(self.checkpoint, str | Path) else self.checkpoint

    def _validation_faults(self, classifier: OATClassifier) -> list[str]:
        if self.validation_data is None:
            wanted = "validation_data must be given with a fallback: a collapse shows on samples that are held out."
            return [wanted] if self.has_fallback else []
        if not is_pair(self.validation_data):
            return [f"validation_data must be a pair (x, y), got {type(self.validation_data).__name__}."]
        x, y = (as_array(part) for part in self.validation_data)
        return classifier.data_faults(x, y, ("validation x", "validation y"))
