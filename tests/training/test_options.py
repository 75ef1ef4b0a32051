import numpy as np
import pytest
import torch

from art_oat import PGD, OATTrainer
from art_oat.model_io import Architecture
from art_oat.training import Checkpoint, CSVLogger, EarlyStopping, OneCycle, RestoreBest
from tests.training.trained import X, Y, state


def fault(classifier, fallback=None, **options) -> str:
    before = state(classifier)
    with pytest.raises(ValueError, match=r"must|needs") as caught:
        OATTrainer(classifier, fallback=fallback).fit(X, Y, **options)
    torch.testing.assert_close(state(classifier), before, rtol=0, atol=0)
    return str(caught.value)


def test_the_best_epoch_cannot_be_told_without_validation(classifier, tmp_path):
    message = fault(classifier, callbacks=[Checkpoint(tmp_path / "best"), RestoreBest(), EarlyStopping(1)])
    for name in ("Checkpoint", "RestoreBest", "EarlyStopping"):
        assert f"{name} needs validation_data" in message
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_could_not_be_written_or_read_is_refused_beforehand(classifier, tmp_path):
    (tmp_path / "file").write_text("")
    validation = {"validation_data": (X, Y)}
    below = Checkpoint(tmp_path / "file" / "below")
    assert "Not a directory" in fault(classifier, callbacks=[below], **validation)
    wrong = Checkpoint(tmp_path, Architecture("SmallCNN", {}))
    message = fault(classifier, callbacks=[wrong], **validation)
    assert "architecture must be a Residual, as is trained, got a SmallCNN" in message


def test_faults_of_options_and_of_data_are_named_together(classifier):
    message = fault(classifier, nb_epochs=0, scheduler=3, callbacks=[CSVLogger(3)], validation_data=(X + 1, Y))
    for name in ("nb_epochs must", "scheduler must", "CSVLogger must", "validation x must lie"):
        assert name in message


def test_soft_labels_are_not_measured_by(classifier):
    soft = np.full((20, 5), 0.2)
    assert "validation y must hold exactly one 1 per row" in fault(classifier, validation_data=(X, soft))


class Stepped:
    """A scheduler that cannot say where it stands."""

    def step(self) -> None:
        pass


def test_a_collapse_cannot_be_told_without_validation_nor_undone_by_a_scheduler_that_cannot_go_back(classifier):
    message = fault(classifier, PGD(eps=0.1), scheduler=Stepped())
    assert "validation_data must be given with a fallback" in message
    assert "scheduler must have state_dict() and load_state_dict()" in message
    assert "where there is a fallback or on_nan='restore', got Stepped" in message


@pytest.mark.parametrize(
    ("fallback", "scheduler"), [(None, Stepped()), (PGD(eps=0.1), OneCycle()), (PGD(eps=0.1), None)]
)
def test_whatever_is_not_to_be_undone_or_can_be_is_taken(classifier, fallback, scheduler):
    trainer = OATTrainer(classifier, attack=PGD(eps=0.1, nb_steps=1), fallback=fallback)
    trainer.fit(X, Y, (X, Y), nb_epochs=1, scheduler=scheduler, verbose=False)
    assert len(trainer.history) == 1
