# ruff: noqa: D102 - the base class says it
"""Callbacks: what is told of a training while it goes on, and may end it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from art_oat.checks import refuse
from art_oat.classifier import OATClassifier
from art_oat.lock import locked_file
from art_oat.model import OATModel
from art_oat.model_files import WEIGHTS
from art_oat.model_io import Architecture, save_model
from art_oat.numbers import count_faults, plain
from art_oat.storage import write_rows, writing_fault
from art_oat.training.records import EpochMetrics, EpochRecord


class Callback:
    """Is told of a training; a subclass overrides what it wants to know.

    An epoch that was undone because robustness collapsed is not told of; its steps are. Between epochs, the network is
    in evaluation mode and holds the average of its weights, if one is asked for.

    Example:
        One that ends a training when its time is over::

            class TimeLimit(Callback):
                def __init__(self, seconds: float) -> None:
                    self.seconds = seconds

                def on_epoch_end(self, record: EpochRecord) -> bool:
                    return sum(epoch.seconds for epoch in self.history) > self.seconds
    """

    needs_validation = False
    """Whether ``fit`` is to refuse this without validation data."""

    model: OATModel
    history: Sequence[EpochRecord]

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        """Take note of what is trained, and of the list that gets a record per epoch."""
        self.model, self.history = model, history

    def on_step_end(self, nb_steps: int, metrics: EpochMetrics) -> None:
        """Take note of a step: how many this call of ``fit`` has taken, and the means over the epoch so far."""

    def on_epoch_end(self, record: EpochRecord) -> Any:
        """Take note of an epoch; True, and nothing else, ends the training."""

    def on_fit_end(self) -> None:
        """Clean up; comes also where the training fails, but not where :meth:`on_fit_start` did."""

    def faults(self, classifier: OATClassifier) -> list[str]:
        """Say why this cannot be told of the training of a classifier, before anything is touched."""
        del classifier
        return []

    def own_files(self) -> list[Path]:
        """Return what this writes and no other training may write meanwhile; ``fit`` refuses it if one does."""
        return []

    def settings(self) -> dict[str, Any]:
        """Return what of this decides the weights; a resumed training must have the same."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs to know, of plain values and tensors.

        It is kept by the name of the class, of several in their order.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""


class _Function(Callback):
    """Tells a plain function of every epoch."""

    def __init__(self, function: Callable[[EpochRecord], Any]) -> None:
        self._function = function

    def on_epoch_end(self, record: EpochRecord) -> Any:
        return self._function(record)


def as_callbacks(given: Any) -> tuple[Callback, ...]:
    """Return callbacks, as :func:`as_callback` does one.

    Raises:
        TypeError: If it is no sequence of what is told of epochs.
    """
    if not isinstance(given, Iterable):
        raise TypeError(f"callbacks must be a list of Callbacks and functions, got {type(given).__name__}.")
    return tuple(as_callback(one) for one in given)


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

    def on_epoch_end(self, record: EpochRecord) -> None:
        write_rows(Path(self.path), [record.row() for record in self.history])

    def faults(self, classifier: OATClassifier) -> list[str]:
        return file_faults("CSVLogger", self.path)


@contextmanager
def alone(callbacks: Iterable[Callback]) -> Iterator[None]:
    """Have the files of callbacks for this process alone.

    Raises:
        RuntimeError: If another process has one; names it, and who.
    """
    with ExitStack() as stack:
        for path in dict.fromkeys(path.absolute() for callback in callbacks for path in callback.own_files()):
            stack.enter_context(locked_file(path))
        yield


def file_faults(name: str, path: Any) -> list[str]:
    """Say why a path cannot be that of a file that is written."""
    if not isinstance(path, str | Path):
        return [f"{name} must name a file, got {path!r}."]
    fault = writing_fault(Path(path))
    return [] if fault is None else [f"{name} must name a file, got {str(path)!r}, which cannot be written: {fault}."]


class Checkpoint(Callback):
    """Saves the model, over the one before, whenever the area under its trade-off is the largest of this ``fit``.

    Args:
        folder: Gets what :func:`~art_oat.save_model` writes; made where it is missing.
        architecture: As :func:`~art_oat.save_model` takes it.

    Raises:
        TypeError: If an argument is of another kind.
    """

    needs_validation = True

    def __init__(self, folder: str | Path, architecture: Architecture | None = None) -> None:
        if not isinstance(folder, str | Path):
            raise TypeError(f"folder must be a path, got {type(folder).__name__}.")
        if not isinstance(architecture, Architecture | None):
            raise TypeError(f"architecture must be an Architecture or None, got {type(architecture).__name__}.")
        self.folder = folder
        self.architecture = architecture

    def on_epoch_end(self, record: EpochRecord) -> None:
        if record.is_best:
            save_model(self.model, self.folder, self.architecture)

    def own_files(self) -> list[Path]:
        return [Path(self.folder) / WEIGHTS]

    def faults(self, classifier: OATClassifier) -> list[str]:
        faults = []
        if (fault := writing_fault(Path(self.folder) / WEIGHTS)) is not None:
            faults.append(f"Checkpoint must name a folder to write to, got {str(self.folder)!r}: {fault}.")
        expected = type(classifier.model.network).__name__
        if self.architecture is not None and (built := self.architecture.kind()) != expected:
            faults.append(f"the checkpoint's architecture must be a {expected}, as is trained, got a {built}.")
        return faults


class RestoreBest(Callback):
    """Gives the network weights and statistics of the best epoch back in the end, however the training ends.

    The best epoch has the largest area under the trade-off on validation data; of equal ones, it is the first. The
    optimizer keeps its state.
    """

    needs_validation = True

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []

    def on_epoch_end(self, record: EpochRecord) -> None:
        if record.is_best:
            self._tensors = [it.detach().clone() for it in (*self.model.parameters(), *self.model.buffers())]

    def on_fit_end(self) -> None:
        if self._tensors:
            with self.model.writing, torch.no_grad():
                torch._foreach_copy_([*self.model.parameters(), *self.model.buffers()], self._tensors)
        self._tensors = []

    def settings(self) -> dict[str, Any]:
        return {"RestoreBest": True}

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self._tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._tensors = state["tensors"]


class EarlyStopping(Callback):
    """Ends the training when the area under the trade-off has not grown for a while.

    Args:
        patience: How many validations in a row may come without a larger area before training ends, at least 1.

    Raises:
        ValueError: If ``patience`` is not as above.
    """

    needs_validation = True

    def __init__(self, patience: int) -> None:
        refuse(count_faults({"patience": patience}))
        self.patience = plain(patience)

    def on_epoch_end(self, record: EpochRecord) -> bool:
        validated = [each for each in self.history if each.validation]
        nb_worse = next((number for number, each in enumerate(reversed(validated)) if each.is_best), 0)
        return nb_worse >= self.patience

    def settings(self) -> dict[str, Any]:
        return {"patience": self.patience}


class ProgressBar(Callback):
    """Shows steps, epoch and means; ``fit`` makes one where it is to be verbose.

    Args:
        nb_epochs: Of this call of ``fit``.
        nb_steps: Likewise; None where that is not known.
        nb_done: Epochs that were done before.
        initial: Steps that were.
        origin: A line that says what is gone on with.
    """

    def __init__(
        self, nb_epochs: int, nb_steps: int | None, nb_done: int = 0, initial: int = 0, origin: str | None = None
    ) -> None:
        self.nb_epochs, self.nb_done = nb_epochs, nb_done
        self.nb_steps, self.initial = nb_steps, initial
        self.origin = origin
        self._area: dict[str, str] = {}

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        super().on_fit_start(model, history)
        if self.origin is not None:
            tqdm.write(self.origin, file=sys.stderr)
        self._bar = tqdm(total=self.nb_steps, initial=self.initial, unit="step")
        self._describe()

    def _describe(self) -> None:
        self._bar.set_description(f"epoch {min(self.nb_done + 1, self.nb_epochs)}/{self.nb_epochs}")

    def on_step_end(self, nb_steps: int, metrics: EpochMetrics) -> None:
        nb_restores = sum(record.is_diverged for record in self.history)
        restored = {"restored": str(nb_restores)} if nb_restores else {}
        self._bar.set_postfix(metrics.shown() | self._area | restored, refresh=False)
        self._bar.update(nb_steps - self._bar.n)

    def on_epoch_end(self, record: EpochRecord) -> None:
        self.nb_done += 1
        self._area = {"area": f"{record.area:.3f}"} if record.validation else {}
        self._describe()

    def on_fit_end(self) -> None:
        self._bar.close()
