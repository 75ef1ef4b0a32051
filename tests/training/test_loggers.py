import contextlib
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest

from art_oat import OATTrainer
from art_oat.training import MetricLogger, MLflowLogger, TensorBoardLogger, TrainingHistory, WandbLogger
from tests.networks import WIDTHS
from tests.training.trained import ATTACK, X, Y, classifier_of, make_classifier


class Noted(MetricLogger):
    """A logger as a user would write it."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.told: list[tuple] = []

    def write(self, axis, values, place) -> None:
        self.told.append((axis, values, place))


def fit(*callbacks, nb_epochs: int = 2, fails: bool = False) -> TrainingHistory:
    def fail(record):
        raise OSError("no space")

    trainer = OATTrainer(make_classifier(widths=WIDTHS), attack=ATTACK)
    told = [*callbacks, fail] if fails else callbacks
    with pytest.raises(OSError, match="no space") if fails else contextlib.nullcontext():
        trainer.fit(X, Y, (X, Y), batch_size=10, nb_epochs=nb_epochs, callbacks=told, verbose=False)
    return trainer.history


def figures(history: TrainingHistory) -> dict[tuple[str, int], float]:
    """What is to be logged of epochs."""
    found = {(f"epoch/{name}", it.epoch): getattr(it, name) for it in history for name in EPOCH}
    for it in history:
        for point in it.validation:
            where = f"{point.lam:g}" if point.width == 1 else f"{point.lam:g}x{point.width:g}"
            found[f"epoch/val_clean/{where}", it.epoch] = point.clean
            found[f"epoch/val_robust/{where}", it.epoch] = point.robust
    return found


EPOCH = ("seconds", "validation_seconds", "learning_rate", "loss", "clean", "robust", "area")


def test_every_figure_of_an_epoch_is_told_once_and_none_that_is_missing():
    logger = Noted()
    history = fit(logger)
    assert [(axis, place) for axis, _, place in logger.told] == [("epoch", 1), ("epoch", 2)]
    told = {(name, place): it for _, values, place in logger.told for name, it in values.items()}
    assert told == figures(history)
    assert all(math.isnan(record.holdout_robust) for record in history)


@pytest.mark.parametrize(("every", "steps"), [(None, []), (1, [1, 2, 3, 4]), (3, [3])])
def test_steps_are_told_where_they_are_asked_for(every, steps):
    logger = Noted(every=every)
    history = fit(logger)
    told = {place: values for axis, values, place in logger.told if axis == "step"}
    assert list(told) == steps
    for place in set(steps) & {2, 4}:  # the last of an epoch: its means are those of the record
        record = history[place // 2 - 1]
        assert told[place] == {f"step/{name}": getattr(record, name) for name in ("loss", "clean", "robust")}


@pytest.mark.parametrize("every", [0, -1])
def test_how_often_is_at_least_1(every):
    with pytest.raises(ValueError, match="every must be"):
        Noted(every=every)


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (TensorBoardLogger, "torch.utils.tensorboard", "tensorboard"),
        (lambda folder: WandbLogger(), "wandb", "wandb"),
        (lambda folder: MLflowLogger("dial"), "mlflow", "mlflow"),
    ],
)
def test_what_is_not_installed_is_refused_at_once_with_the_extra(monkeypatch, tmp_path, make, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"Logger needs {extra}\. Install it: pip install 'art-oat\[{extra}\]'"):
        make(tmp_path)


def test_tensorboard_reads_every_figure(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = fit(TensorBoardLogger(tmp_path / "new", every=2))
    read = accumulators.EventAccumulator(str(tmp_path / "new")).Reload()
    found = {(name, it.step): it.value for name in read.Tags()["scalars"] for it in read.Scalars(name)}
    steps = {place: found.pop(place) for place in [*found] if place[0].startswith("step/")}
    assert found == pytest.approx(figures(history))  # kept as float32
    assert steps["step/loss", 4] == pytest.approx(history[-1].loss)


def test_a_folder_that_cannot_be_written_is_refused_before_training(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", ModuleType("tensorboard"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"TensorBoardLogger must name a file, got .* cannot be written"):
        OATTrainer(classifier_of(make_classifier().model), attack=ATTACK).fit(
            X, Y, callbacks=[TensorBoardLogger(tmp_path / "file")], verbose=False
        )


@pytest.mark.parametrize(("fails", "status"), [(False, "FINISHED"), (True, "FAILED")])
def test_the_files_of_mlflow_hold_every_figure_and_whether_the_training_failed(monkeypatch, tmp_path, fails, status):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLflowLogger("dial", name="first", uri=tmp_path / "runs", params={"eps": 0.1}, every=2)
    history = fit(logger, fails=fails)
    client = mlflow.MlflowClient(tracking_uri=str(tmp_path / "runs"))
    (run,) = client.search_runs([client.get_experiment_by_name("dial").experiment_id])
    assert (run.info.status, run.info.run_name, run.data.params) == (status, "first", {"eps": "0.1"})
    names = [name for name in run.data.metrics if name.startswith("epoch/")]
    logged = {(name, it.step): it.value for name in names for it in client.get_metric_history(run.info.run_id, name)}
    assert logged == pytest.approx(figures(history))
    assert run.data.metrics["step/loss"] == pytest.approx(history[-1].loss)


class WandbRun:
    """A stand-in for a run of W&B."""

    def __init__(self, **init) -> None:
        self.init, self.axes, self.told, self.exit_codes = init, {}, [], []

    def define_metric(self, name, *, step_metric) -> None:
        self.axes[name] = step_metric

    def log(self, values) -> None:
        self.told.append(values)

    def finish(self, *, exit_code) -> None:
        self.exit_codes.append(exit_code)


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_of_wandb_gets_figures_with_their_axes_and_the_exit_code(monkeypatch, fails):
    runs = []
    module = SimpleNamespace(init=lambda **init: runs.append(WandbRun(**init)) or runs[-1])
    monkeypatch.setitem(sys.modules, "wandb", module)
    history = fit(WandbLogger({"project": "dial"}, every=2), fails=fails)
    (run,) = runs
    assert (run.init, run.exit_codes) == ({"project": "dial"}, [int(fails)])
    assert run.axes == {"epoch/*": "epoch", "step/*": "step"}
    told = {(name, it["epoch"]): it[name] for it in run.told if "epoch" in it for name in it if name != "epoch"}
    assert told == figures(history)
    assert [it["step"] for it in run.told if "step" in it] == ([2] if fails else [2, 4])


def test_wandb_keeps_every_figure_offline(tmp_path):
    wandb = pytest.importorskip("wandb")
    history = fit(WandbLogger({"project": "dial", "mode": "offline", "dir": str(tmp_path)}))
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert wandb.run is None  # finished
    assert len(history) == 2
