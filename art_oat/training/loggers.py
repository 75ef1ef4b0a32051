# ruff: noqa: D102 - the base class says it
"""Loggers: callbacks that hand the figures of a training to a program which draws them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from art_oat.checks import refuse
from art_oat.classifier import OATClassifier
from art_oat.model import OATModel
from art_oat.numbers import count_faults, plain
from art_oat.training.callbacks import Callback, file_faults
from art_oat.training.records import EpochMetrics, EpochRecord

Axis = Literal["epoch", "step"]


class MetricLogger(Callback):
    """Gives figures by name to :meth:`write`, which a subclass has.

    After every epoch that is kept, these are the columns of ``training.csv`` that hold a figure, such as ``epoch/loss``
    and ``epoch/val_robust/0.3x0.5`` (at lam 0.3 and width 0.5). Where steps are asked for, they are the means over the
    epoch so far: ``step/loss``, ``step/clean`` and ``step/robust``. A training has them anyway, so that steps cost what
    the program takes to note them.

    Args:
        every: Also log one step in so many, at least 1; None for epochs alone.

    Raises:
        ValueError: If ``every`` is not as above.
    """

    def __init__(self, *, every: int | None = None) -> None:
        refuse([] if every is None else count_faults({"every": every}))
        self.every = plain(every)

    def write(self, axis: Axis, values: Mapping[str, float], place: int) -> None:
        """Note finite figures by their names, at an epoch as the history counts, or a step of this call of ``fit``."""
        raise NotImplementedError

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        super().on_fit_start(model, history)
        self._error_before = sys.exc_info()[1]

    @property
    def has_failed(self) -> bool:
        """Whether the training that ends failed."""
        return sys.exc_info()[1] is not self._error_before

    def on_step_end(self, nb_steps: int, metrics: EpochMetrics) -> None:
        if self.every is not None and nb_steps % self.every == 0:
            values = {name: getattr(metrics, name) for name in ("loss", "clean", "robust")}
            self.write("step", _named("step", values), nb_steps)

    def on_epoch_end(self, record: EpochRecord) -> None:
        values = {name: it for name, it in record.row().items() if name != "epoch" and not name.startswith("is_")}
        self.write("epoch", _named("epoch", values), record.epoch)


class TensorBoardLogger(MetricLogger):
    """Writes event files for TensorBoard: ``tensorboard --logdir FOLDER``.

    Args:
        folder: Gets the files.
        every: As :class:`MetricLogger` has it.

    Raises:
        ImportError: If TensorBoard is not installed.
        ValueError: If ``every`` is not as above.
    """

    def __init__(self, folder: str | Path, *, every: int | None = None) -> None:
        super().__init__(every=every)
        _imported(self, "torch.utils.tensorboard", "tensorboard")
        self.folder = folder

    def faults(self, classifier: OATClassifier) -> list[str]:
        is_path = isinstance(self.folder, str | Path)
        return file_faults("TensorBoardLogger", Path(self.folder) / "events" if is_path else self.folder)

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        super().on_fit_start(model, history)
        self._writer = _imported(self, "torch.utils.tensorboard", "tensorboard").SummaryWriter(str(self.folder))

    def write(self, axis: Axis, values: Mapping[str, float], place: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, place)
        if axis == "epoch":
            self._writer.flush()

    def on_fit_end(self) -> None:
        self._writer.close()


class WandbLogger(MetricLogger):
    """Writes a run of Weights & Biases; it has failed where the training does.

    Args:
        init: Arguments of ``wandb.init``, such as ``{"project": "dial", "config": {"eps": 8 / 255}}``; with ``"mode":
            "offline"`` nothing is sent. Without ``"dir"``, W&B writes to the folder ``wandb`` where the program runs.
        every: As :class:`MetricLogger` has it.

    Raises:
        ImportError: If W&B is not installed.
        ValueError: If ``every`` is not as above.
    """

    def __init__(self, init: Mapping[str, Any] | None = None, *, every: int | None = None) -> None:
        super().__init__(every=every)
        _imported(self, "wandb", "wandb")
        self.init = dict(init or {})

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        super().on_fit_start(model, history)
        self._run = _imported(self, "wandb", "wandb").init(**self.init)
        for axis in ("epoch", "step"):
            self._run.define_metric(f"{axis}/*", step_metric=axis)

    def write(self, axis: Axis, values: Mapping[str, float], place: int) -> None:
        self._run.log({**values, axis: place})

    def on_fit_end(self) -> None:
        self._run.finish(exit_code=int(self.has_failed))


class MLflowLogger(MetricLogger):
    """Writes a run of MLflow; its status says whether the training failed.

    Args:
        experiment: Name of the experiment, which is made where it is missing.
        name: Name of the run; None for one that MLflow invents.
        uri: Where MLflow keeps runs: a server, or ``"sqlite:///FILE"`` (with the whole ``mlflow`` installed), or a
            folder, which MLflow 3 wants ``MLFLOW_ALLOW_FILE_STORE=true`` in the environment for; None for its default.
        params: Settings to note with the run, by name.
        every: As :class:`MetricLogger` has it.

    Raises:
        ImportError: If MLflow is not installed.
        ValueError: If ``every`` is not as above.
    """

    def __init__(
        self,
        experiment: str,
        *,
        name: str | None = None,
        uri: str | Path | None = None,
        params: Mapping[str, Any] | None = None,
        every: int | None = None,
    ) -> None:
        super().__init__(every=every)
        _imported(self, "mlflow", "mlflow")
        self.experiment, self.name = experiment, name
        self.uri = None if uri is None else str(uri)
        self.params = dict(params or {})

    def on_fit_start(self, model: OATModel, history: Sequence[EpochRecord]) -> None:
        super().on_fit_start(model, history)
        self._client = _imported(self, "mlflow", "mlflow").MlflowClient(tracking_uri=self.uri)
        found = self._client.get_experiment_by_name(self.experiment)
        number = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        self._run_id = self._client.create_run(number, run_name=self.name).info.run_id
        for name, value in self.params.items():
            self._client.log_param(self._run_id, name, value)

    def write(self, axis: Axis, values: Mapping[str, float], place: int) -> None:
        metric, now = _imported(self, "mlflow.entities", "mlflow").Metric, time.time_ns() // 1_000_000
        metrics = [metric(name, value, now, place) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def on_fit_end(self) -> None:
        self._client.set_terminated(self._run_id, "FAILED" if self.has_failed else "FINISHED")


def _named(axis: Axis, values: Mapping[str, float]) -> dict[str, float]:
    """Return the finite ones by names that all programs take."""
    return {f"{axis}/{name.replace('@', '/')}": it for name, it in values.items() if math.isfinite(it)}


def _imported(logger: MetricLogger, module: str, extra: str) -> Any:
    try:
        return import_module(module)  # optional, and slow
    except ImportError as error:
        kind = type(logger).__name__
        raise ImportError(f"{kind} needs {extra}. Install it: pip install 'art-oat[{extra}]'.") from error
