"""Options of a call of ``fit``, apart from what is trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from art_oat.checks import Array, as_array
from art_oat.classifier import OATClassifier
from art_oat.numbers import count_faults, plain, plain_fields
from art_oat.training.batches import is_pair, nb_batches
from art_oat.training.callbacks import as_callbacks
from art_oat.training.layout import layout_faults
from art_oat.training.lr_stepper import PerStep, Scheduler, is_schedule, scheduler_faults
from art_oat.training.method import Method
from art_oat.training.preprocessing import preprocessing_faults
from art_oat.training.resume import state_faults
from art_oat.training.resume_file import ResumeFile
from art_oat.training.schedule import Schedule


@dataclass(frozen=True)
class Validation:
    """Validation data that are not measured after every epoch.

    Args:
        x: Inputs, as ``fit`` takes them.
        y: Labels, not soft.
        interval: Measure after every so many epochs, and after the last one; at least 1.
    """

    x: Array
    y: Array
    interval: int = 1

    def __post_init__(self) -> None:
        plain_fields(self)


class FitOptions:
    """The options of :meth:`OATTrainer.fit`, which documents them."""

    def __init__(
        self,
        nb_epochs: int,
        scheduler: Scheduler | Schedule | PerStep | None,
        validation_data: Any,
        callbacks: Iterable[Any],
        method: Method,
    ) -> None:
        self.nb_epochs = plain(nb_epochs)
        self.scheduler: Any = scheduler.scheduler if isinstance(scheduler, PerStep) else scheduler
        self.interval = "step" if isinstance(scheduler, PerStep) else "epoch"
        self.validation: Any = Validation(*validation_data) if is_pair(validation_data) else validation_data
        self.callbacks = as_callbacks(callbacks)
        self.method = method
        self.resume_file = next((one for one in self.callbacks if isinstance(one, ResumeFile)), None)

    def is_validated_after(self, epoch: int) -> bool:
        """Whether epoch ``epoch`` of this call, from 1, is followed by a validation."""
        if self.validation is None:
            return False
        return epoch % self.validation.interval == 0 or epoch == self.nb_epochs

    def settings(self) -> dict[str, Any]:
        """Return what decides the result, apart from data and scheduler."""
        settings: dict[str, Any] = {
            "nb_epochs": self.nb_epochs,
            "scheduler steps per": self.interval,
            "number of validation samples": 0 if self.validation is None else len(self.validation.x),
            "validation interval": 1 if self.validation is None else self.validation.interval,
        }
        for callback in self.callbacks:
            settings |= callback.settings()
        return settings

    def faults(self, classifier: OATClassifier, x: Any) -> list[str]:
        """Say all that is wrong, also with a classifier, and with options on inputs or a loader."""
        faults = [*count_faults({"nb_epochs": self.nb_epochs}), *scheduler_faults(self.scheduler, self.interval)]
        if getattr(self.scheduler, "optimizer", classifier.optimizer) is not classifier.optimizer:
            faults.append("scheduler must be made for the classifier's own optimizer, got one for another optimizer.")
        if self.method.clean_share and isinstance(self.scheduler, ReduceLROnPlateau):
            faults.append("scheduler must be no ReduceLROnPlateau with clean_share: the loss jumps after clean epochs.")
        if self.resume_file is not None or self.method.fallback is not None or self.method.on_nan == "restore":
            faults += state_faults(self.scheduler, classifier, is_written=self.resume_file is not None)
        if (nb_files := sum(isinstance(one, ResumeFile) for one in self.callbacks)) > 1:
            faults.append(f"callbacks must hold one ResumeFile at most, got {nb_files}.")
        for callback in self.callbacks:
            faults += callback.faults(classifier)
        if is_schedule(self.scheduler) and _is_endless(x):
            faults.append("scheduler must have step() with a loader of unknown length: progress cannot be told.")
        if self.resume_file is not None and self.resume_file.is_for_steps and _is_endless(x):
            faults.append("ResumeFile must be without every_steps and every_minutes with a loader of unknown length.")
        if self.method.eps_warmup and _is_endless(x):
            faults.append("eps_warmup must be 0 with a loader of unknown length: progress cannot be told.")
        faults += [*layout_faults(classifier.model), *preprocessing_faults(classifier)]
        return faults + self._validation_faults(classifier)

    def _validation_faults(self, classifier: OATClassifier) -> list[str]:
        if self.validation is None:
            names = [type(one).__name__ for one in self.callbacks if one.needs_validation]
            reason = "the best epoch has the largest area under its trade-off there"
            faults = [f"{name} needs validation_data: {reason}." for name in names]
            if self.method.fallback is not None:
                faults.append("validation_data must be given with a fallback: a collapse shows on held-out samples.")
            return faults
        if not isinstance(self.validation, Validation):
            kind = type(self.validation).__name__
            return [f"validation_data must be a pair (x, y) or a Validation, got {kind}."]
        faults = count_faults({"interval of the validation": self.validation.interval})
        x, y = as_array(self.validation.x, "validation x"), as_array(self.validation.y, "validation y")
        return faults + classifier.data_faults(x, y, ("validation x", "validation y"))


def _is_endless(source: Any) -> bool:
    """Whether this is a loader of unknown length."""
    return isinstance(source, DataLoader) and nb_batches(source) is None
