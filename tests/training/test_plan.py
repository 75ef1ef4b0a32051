import numpy as np
import pytest
import torch

from art_oat import Architecture, OATTrainer
from art_oat.training.checkpoint import Checkpoint
from tests.networks import images, labels

X, Y = images(20, torch.float32).numpy(), labels(20).numpy()


def fault(classifier, **options) -> str:
    with pytest.raises(ValueError, match=r"must|needs") as caught:
        OATTrainer(classifier).fit(X, Y, **options)
    return str(caught.value)


def test_the_best_epoch_cannot_be_told_without_validation(classifier, tmp_path):
    message = fault(classifier, checkpoint=tmp_path / "best", restore_best=True)
    assert "checkpoint needs validation_data" in message
    assert "restore_best needs validation_data" in message
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_could_not_be_written_or_read_is_refused_beforehand(classifier, tmp_path):
    (tmp_path / "file").write_text("")
    validation = {"validation_data": (X, Y)}
    assert "where a file is in the way" in fault(classifier, checkpoint=tmp_path / "file" / "below", **validation)
    wrong = Checkpoint(tmp_path, Architecture("SmallCNN", {}))
    assert "architecture must be a Residual, as is trained, got a SmallCNN" in fault(
        classifier, checkpoint=wrong, **validation
    )
    assert "must be a folder, a Checkpoint or None, got int" in fault(classifier, checkpoint=3, **validation)


def test_faults_of_options_and_of_data_are_named_together(classifier):
    message = fault(classifier, callback=3, nb_epochs=0, scheduler=3, log_path=3, validation_data=(X + 1, Y))
    for name in ("callback must be", "nb_epochs must", "scheduler must", "log_path must", "validation x must lie"):
        assert name in message


def test_soft_labels_are_not_measured_by(classifier):
    soft = np.full((20, 5), 0.2)
    assert "validation y must hold exactly one 1 per row" in fault(classifier, validation_data=(X, soft))
