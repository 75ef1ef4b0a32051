# ruff: noqa: D102 - the base class says it
"""Callbacks: what is told of a training while it goes on, and may end it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from art_oat.checks import count_faults, refuse
from art_oat.classifier import OATClassifier
from art_oat.model import OATModel
from art_oat.model_io import Architecture, save_model
from art_oat.storage import write_rows
from art_oat.training.records import EpochMetrics, EpochRecord


class Callback:
    """Is told of a training; a subclass overrides what it wants to know.

    An epoch that was undone because robustness collapsed is not told of; its steps are. Between epochs, the network is
    in evaluation mode and holds the average of its weights, if one is asked for.

    Example:
        A logger for TensorBoard::

            class TensorBoard(Callback):
                def __init__(self, writer: SummaryWriter) -> None:
                    self.writer = writer

                def on_step_end(self, nb_steps: int, metrics: EpochMetrics) -> None:
                    self.writer.add_scalar("loss", metrics.loss, nb_steps)

                def on_epoch_end(self, record: EpochRecord) -> None:
                    self.writer.add_scalar("area", record.area, record.epoch)

                def on_fit_end(self) -> None:
                    self.writer.close()
    """

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        """Take note of what is trained, and of the list that gets a record per epoch."""

    def on_step_end(self, nb_steps: int, metrics: EpochMetrics) -> None:
        """Take note of a step: how many this call of ``fit`` has taken, and the means over the epoch so far."""

    def on_epoch_end(self, record: EpochRecord) -> Any:
        """Take note of an epoch; True, and nothing else, ends the training."""

    def on_fit_end(self) -> None:
        """Clean up; comes also where the training fails."""

    def faults(self, classifier: OATClassifier, scheduler: Any, *, has_validation: bool) -> list[str]:
        """Say why this cannot be told of a training, before anything is touched."""
        del classifier, scheduler, has_validation
        return []

    def settings(self) -> dict[str, Any]:
        """Return what of this decides the weights; a resumed training must have the same."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs to know, of plain values and tensors; kept by the name of the class."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""


class _Function(Callback):
    """Tells a plain function of every epoch."""

    def __init__(self, function: Callable[[EpochRecord], Any]) -> None:
        self._function = function

    def on_epoch_end(self, record: EpochRecord) -> Any:
        return self._function(record)


def as_callback(given: Any) -> Callback:
    """Return a callback, also of a function of an :class:`EpochRecord`.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(given, Callback):
        return given
    if not callable(given) or isinstance(given, type):
        kind = given.__name__ if isinstance(given, type) else type(given).__name__
        raise TypeError(f"callbacks must hold Callbacks or functions of an EpochRecord, got {kind}.")
    return _Function(given)


class CSVLogger(Callback):
    """Writes the whole history as CSV after every epoch; a reader never sees half a file.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._history: Sequence[EpochRecord] = ()

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        self._history = history

    def on_epoch_end(self, record: EpochRecord) -> None:
        write_rows(Path(self.path), [record.row() for record in self._history])

    def faults(self, classifier: OATClassifier, scheduler: Any, *, has_validation: bool) -> list[str]:
        return file_faults("CSVLogger", self.path)


def file_faults(name: str, path: Any) -> list[str]:
    """Say why a path cannot be that of a file."""
    is_fitting = isinstance(path, str | Path) and not Path(path).is_dir()
    return [] if is_fitting else [f"{name} must name a file, got {path!r}."]


class _OfValidation(Callback):
    """Needs the area under the trade-off on validation data."""

    def faults(self, classifier: OATClassifier, scheduler: Any, *, has_validation: bool) -> list[str]:
        reason = "the best epoch has the largest area under its trade-off there"
        return [] if has_validation else [f"{type(self).__name__} needs validation_data: {reason}."]


class Checkpoint(_OfValidation):
    """Saves the model whenever the area under its trade-off is the largest of this call of ``fit``.

    It is one best epoch for all lams, saved over the one before.

    Args:
        folder: Gets what :func:`~art_oat.save_model` writes; made where it is missing.
        architecture: As :func:`~art_oat.save_model` takes it.

    Raises:
        TypeError: If an argument is of another kind.
    """

    def __init__(self, folder: str | Path, architecture: Architecture | None = None) -> None:
        if not isinstance(folder, str | Path):
            raise TypeError(f"folder must be a path, got {type(folder).__name__}.")
        if not isinstance(architecture, Architecture | None):
            raise TypeError(f"architecture must be an Architecture or None, got {type(architecture).__name__}.")
        self.folder = folder
        self.architecture = architecture
        self._model: OATModel | None = None

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        self._model = model

    def on_epoch_end(self, record: EpochRecord) -> None:
        if record.is_best and self._model is not None:
            save_model(self._model, self.folder, self.architecture)

    def faults(self, classifier: OATClassifier, scheduler: Any, *, has_validation: bool) -> list[str]:
        faults = super().faults(classifier, scheduler, has_validation=has_validation)
        if any(path.is_file() for path in (Path(self.folder), *Path(self.folder).parents)):
            faults.append(f"Checkpoint must name a folder, got {str(self.folder)!r}, where a file is in the way.")
        expected = type(classifier.model.network).__name__
        if self.architecture is not None and (built := self.architecture.kind()) != expected:
            faults.append(f"the checkpoint's architecture must be a {expected}, as is trained, got a {built}.")
        return faults


class RestoreBest(_OfValidation):
    """Gives the network weights and statistics of the best epoch back in the end, however the training ends.

    The best epoch has the largest area under the trade-off on validation data; of equal ones, it is the first. The
    optimizer keeps its state.
    """

    def __init__(self) -> None:
        self._model: OATModel | None = None
        self._tensors: dict[str, torch.Tensor] = {}

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        self._model, self._tensors = model, {}

    def on_epoch_end(self, record: EpochRecord) -> None:
        if record.is_best and self._model is not None:
            self._tensors = {name: tensor.detach().clone() for name, tensor in _tensors(self._model)}

    def on_fit_end(self) -> None:
        with torch.no_grad():
            for name, tensor in _tensors(self._model) if self._model is not None and self._tensors else ():
                tensor.copy_(self._tensors[name])
        self._model, self._tensors = None, {}

    def settings(self) -> dict[str, Any]:
        return {"RestoreBest": True}

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self._tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._tensors = state["tensors"]


def _tensors(model: OATModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


class EarlyStopping(_OfValidation):
    """Ends the training when the area under the trade-off has not grown for a while.

    Args:
        patience: How many validations in a row may come without a larger area before training ends, at least 1.

    Raises:
        ValueError: If ``patience`` is not as above.
    """

    def __init__(self, patience: int) -> None:
        refuse(count_faults({"patience": patience}))
        self.patience = patience
        self._nb_worse = 0

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        self._nb_worse = 0

    def on_epoch_end(self, record: EpochRecord) -> bool:
        if record.validation:
            self._nb_worse = 0 if record.is_best else self._nb_worse + 1
        return self._nb_worse >= self.patience

    def settings(self) -> dict[str, Any]:
        return {"patience": self.patience}

    def state_dict(self) -> dict[str, Any]:
        return {"nb_worse": self._nb_worse}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._nb_worse = state["nb_worse"]


class ProgressBar(Callback):
    """Shows steps, epoch and means; ``fit`` makes one where it is to be verbose.

    Args:
        nb_epochs: Of this call of ``fit``.
        nb_steps: Likewise; None where it is not known.
        nb_done: How many epochs lie behind already.
    """

    def __init__(self, nb_epochs: int, nb_steps: int | None, nb_done: int) -> None:
        self.nb_epochs, self.nb_done = nb_epochs, nb_done
        self._area: dict[str, str] = {}
        self._bar = tqdm(total=nb_steps, initial=(nb_steps or 0) * nb_done // nb_epochs, unit="step")
        self._describe()

    def _describe(self) -> None:
        self._bar.set_description(f"epoch {min(self.nb_done + 1, self.nb_epochs)}/{self.nb_epochs}")

    def on_step_end(self, nb_steps: int, metrics: EpochMetrics) -> None:
        self._bar.set_postfix(metrics.shown() | self._area, refresh=False)
        self._bar.update(nb_steps - self._bar.n)

    def on_epoch_end(self, record: EpochRecord) -> None:
        self.nb_done += 1
        self._area = {"area": f"{record.area:.3f}"} if record.validation else {}
        self._describe()

    def on_fit_end(self) -> None:
        self._bar.close()
