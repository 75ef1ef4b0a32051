import contextlib
import copy
import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from art_oat import PGD, OATTrainer, load_model, to_conditional
from art_oat.frontier import MeasuredPoint
from art_oat.model_io import Architecture
from art_oat.training import Callback, Checkpoint, CSVLogger, EarlyStopping, RestoreBest, ResumeFile, Validation
from tests.conftest import make_classifier
from tests.networks import WIDTHS, Residual
from tests.training.trained import X, Y, classifier_of

ARCHITECTURE = Architecture("SmallCNN", {"channels": [4, 6], "nb_classes": 3})
CLEAN = (0.6, 0.6, 0.5, 0.6, 0.9)
ROBUST = (0.2, 0.5, 0.6, 0.5, 0.1)
AREAS = [(clean - 1 / 5) * robust for clean, robust in zip(CLEAN, ROBUST, strict=True)]  # .08 .2 .18 .2 .07


@pytest.fixture
def measured(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """A validation measures one point, from a list; gives the weights that each was measured with."""
    states: list[dict[str, torch.Tensor]] = []

    def measure(classifier, *_):
        accuracies = CLEAN[len(states)], ROBUST[len(states)]
        states.append(copy.deepcopy(classifier.model.state_dict()))
        yield MeasuredPoint(1.0, 1.0, *accuracies, 20, 20)

    monkeypatch.setattr("art_oat.training.loop.measure", measure)
    return states


def fit(classifier, *callbacks, nb_epochs: int = 5, **parts) -> OATTrainer:
    trainer = OATTrainer(classifier, attack=PGD(eps=0.1, nb_steps=1), **parts)
    trainer.fit(X, Y, (X, Y), nb_epochs=nb_epochs, callbacks=callbacks, verbose=False)
    return trainer


def assert_holds(model, state) -> None:
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_checkpoint_holds_the_largest_area_and_of_equal_ones_the_first(classifier, measured, tmp_path, ema):
    trainer = fit(classifier, Checkpoint(tmp_path / "best"), ema=ema)
    assert [record.area for record in trainer.history] == pytest.approx(AREAS)
    assert [record.is_best for record in trainer.history] == [True, True, False, False, False]
    assert trainer.best_epoch == 2
    assert_holds(load_model(tmp_path / "best", Residual()), measured[1])
    assert_holds(classifier.model, measured[-1])


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
def test_the_best_weights_of_every_width_are_saved_and_put_back(measured, tmp_path, widths, ema):
    classifier = make_classifier(widths=widths, heads="per-width")
    fit(classifier, RestoreBest(), Checkpoint(tmp_path), ema=ema)
    assert_holds(classifier.model, measured[1])
    assert_holds(load_model(tmp_path, Residual()), measured[1])


def test_the_best_weights_are_put_back_while_no_snapshot_is_taken(classifier):
    best = RestoreBest()
    best.on_fit_start(classifier.model, [])
    best._tensors = [torch.ones_like(it) for it in (*classifier.model.parameters(), *classifier.model.buffers())]
    before = copy.deepcopy(classifier.model.state_dict())
    with ThreadPoolExecutor(1) as pool:
        with classifier.model.writing:
            ending = pool.submit(best.on_fit_end)
            with pytest.raises(TimeoutError):
                ending.result(timeout=0.2)
            torch.testing.assert_close(classifier.model.state_dict(), before, rtol=0, atol=0)
        ending.result()
    assert all(bool((it == 1).all()) for it in classifier.model.parameters())


def test_the_best_weights_are_put_back_also_where_training_breaks_off(classifier, measured, tmp_path):
    def interrupt(record) -> None:
        if record.epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(classifier, RestoreBest(), Checkpoint(tmp_path), interrupt)
    assert_holds(classifier.model, measured[1])
    assert_holds(load_model(tmp_path, Residual()), measured[1])


def test_every_fit_has_a_best_epoch_of_its_own(classifier, measured, tmp_path):
    trainer = fit(classifier, nb_epochs=2)
    trainer.fit(X, Y, Validation(X, Y, 2), nb_epochs=3, callbacks=[Checkpoint(tmp_path)], verbose=False)
    # epoch 3 of the history is not measured, 4 and 5 get the third and the fourth of the list
    assert trainer.best_epoch == 5
    assert [record.is_best for record in trainer.history[2:]] == [False, True, True]
    assert_holds(load_model(tmp_path, Residual()), measured[3])


def test_without_validation_no_epoch_is_the_best(classifier, measured):
    trainer = fit(classifier, nb_epochs=1)
    trainer.fit(X, Y, nb_epochs=1, verbose=False)
    assert trainer.best_epoch is None


def test_a_checkpoint_saved_with_its_architecture_is_loaded_alone(measured, tmp_path):
    torch.manual_seed(0)
    classifier = classifier_of(to_conditional(ARCHITECTURE.build()), nb_classes=3)
    trainer = OATTrainer(classifier, attack=PGD(eps=0.1, nb_steps=1))
    checkpoint = Checkpoint(tmp_path, ARCHITECTURE)
    trainer.fit(X, Y % 3, (X, Y % 3), nb_epochs=2, callbacks=[checkpoint], verbose=False)
    assert_holds(load_model(tmp_path), measured[1])


def test_a_checkpoint_of_other_kinds_is_refused(tmp_path):
    with pytest.raises(TypeError, match="folder must be a path, got int"):
        Checkpoint(3)
    with pytest.raises(TypeError, match="architecture must be an Architecture or None, got str"):
        Checkpoint(tmp_path, "SmallCNN")


WRITERS = {"CSVLogger": CSVLogger, "Checkpoint": Checkpoint, "ResumeFile": ResumeFile}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("path", ["file/below", "file/far/below", "n" * 256])
def test_a_path_that_cannot_be_written_is_refused_before_training(classifier, tmp_path, name, path):
    (tmp_path / "file").touch()
    before = copy.deepcopy(classifier.model.state_dict())
    with pytest.raises(ValueError, match=f"{name} must name a .*: (Not a directory|File name too long)"):
        fit(classifier, WRITERS[name](tmp_path / path), nb_epochs=1)
    torch.testing.assert_close(classifier.model.state_dict(), before, rtol=0, atol=0)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_during_training_is_told_of_with_the_file(classifier, tmp_path, monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write: No space left on device: .*it") as caught:
        fit(classifier, WRITERS[name](tmp_path / "it"), nb_epochs=1)
    assert caught.value.errno == errno.ENOSPC
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("patience", "nb_epochs"), [(1, 3), (2, 4), (3, 5), (4, 5)])
def test_training_ends_when_the_area_has_not_grown_for_as_many_validations_as_there_is_patience(
    classifier, measured, patience, nb_epochs
):
    assert len(fit(classifier, EarlyStopping(patience)).history) == nb_epochs  # the second of five areas is the largest


@pytest.mark.parametrize("patience", [0, 1.5])
def test_patience_is_a_count(patience):
    with pytest.raises((TypeError, ValueError), match="patience must be a whole number, at least 1"):
        EarlyStopping(patience)


class TensorBoard(Callback):
    """A logger as a user would write it, in a file of its own."""

    def __init__(self, writer) -> None:
        self.writer = writer

    def on_fit_start(self, model, history) -> None:
        self.writer.append(("start", len(history)))

    def on_step_end(self, nb_steps, metrics) -> None:
        self.writer.append(("loss", metrics.loss, nb_steps))

    def on_epoch_end(self, record) -> None:
        self.writer.append(("area", record.area, record.epoch))

    def on_fit_end(self) -> None:
        self.writer.append(("end",))


def test_a_logger_of_a_users_own_is_told_of_every_step_and_epoch_in_order(classifier, measured):
    told = []
    trainer = OATTrainer(classifier, attack=PGD(eps=0.1, nb_steps=1))
    trainer.fit(X, Y, (X, Y), batch_size=10, nb_epochs=2, callbacks=[TensorBoard(told)], verbose=False)
    assert [entry[0] for entry in told] == ["start", "loss", "loss", "area", "loss", "loss", "area", "end"]
    assert [entry[2] for entry in told if entry[0] == "loss"] == [1, 2, 3, 4]
    losses = [entry[1] for entry in told if entry[0] == "loss"]
    assert losses[1::2] == [record.loss for record in trainer.history]  # the mean over the epoch so far
    assert [entry[1:] for entry in told if entry[0] == "area"] == [
        (pytest.approx(AREAS[0]), 1),
        (pytest.approx(AREAS[1]), 2),
    ]


def test_every_callback_is_told_of_the_end_of_a_training_that_fails(classifier):
    told = []

    def fail(*_):
        raise OSError("no space")

    class Failing(TensorBoard):
        on_step_end = fail

    with pytest.raises(OSError, match="no space"):
        fit(classifier, Failing(told), TensorBoard(told))
    assert told == [("start", 0), ("start", 0), ("end",), ("end",)]


def test_only_callbacks_that_were_told_of_the_start_are_told_of_the_end(classifier):
    told = []

    class Failing(TensorBoard):
        def on_fit_start(self, *_) -> None:
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fit(classifier, TensorBoard(told), Failing(told), TensorBoard(told))
    assert told == [("start", 0), ("end",)]


@pytest.mark.parametrize("wrong", [3, RestoreBest, "log.csv"])
def test_what_is_no_callback_is_refused(classifier, wrong):
    with pytest.raises(TypeError, match="callbacks must hold Callbacks or functions of an EpochRecord"):
        fit(classifier, wrong)


@pytest.mark.parametrize("wrong", [None, RestoreBest()])
def test_callbacks_come_in_a_list(classifier, wrong):
    trainer = OATTrainer(classifier, attack=PGD(eps=0.1, nb_steps=1))
    with pytest.raises(TypeError, match=f"callbacks must be a list of .*, got {type(wrong).__name__}"):
        trainer.fit(X, Y, callbacks=wrong, verbose=False)


def test_a_training_has_one_file_to_resume_from(classifier, tmp_path):
    with pytest.raises(ValueError, match="callbacks must hold one ResumeFile at most, got 2"):
        fit(classifier, ResumeFile(tmp_path / "a.pt"), ResumeFile(tmp_path / "b.pt"))
    assert not list(tmp_path.iterdir())


class Adding(Callback):
    """Adds a number per epoch."""

    def __init__(self, number: int) -> None:
        self.number, self.total = number, 0

    def on_epoch_end(self, record) -> None:
        self.total += self.number

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state) -> None:
        self.total = state["total"]


def test_callbacks_of_one_class_continue_each_from_its_own_state(tmp_path):
    def totals(nb_epochs: int) -> list[int]:
        callbacks = [Adding(1), Adding(10)]

        def stop(record) -> bool:
            if record.epoch == nb_epochs:
                raise KeyboardInterrupt
            return False

        with contextlib.suppress(KeyboardInterrupt):
            fit(make_classifier(), *callbacks, ResumeFile(tmp_path / "state.pt"), stop, nb_epochs=3)
        return [one.total for one in callbacks]

    assert totals(2) == [2, 20]  # the second epoch is not in the file
    assert totals(4) == [3, 30]
