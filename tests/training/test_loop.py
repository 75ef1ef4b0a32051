import csv
import itertools

import numpy as np
import pytest
import torch

from art_oat import Frontier, OATTrainer
from art_oat.training import CSVLogger, Validation
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS
from tests.training.trained import ATTACK, Watched, X, Y, fit


def test_every_sample_is_seen_once_an_epoch(classifier):
    loss = Watched()
    fit(classifier, loss=loss, batch_size=8, nb_epochs=1)
    seen = [y for _, _, y, _ in loss.calls]
    assert [len(y) for y in seen] == [8, 8, 4]
    assert torch.cat(seen).sort().values.tolist() == sorted(Y.tolist())


@pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
def test_the_log_holds_a_row_per_epoch_with_what_every_lam_and_width_answers(tmp_path, widths):
    classifier, path = make_classifier(widths=widths), tmp_path / "log" / "training.csv"
    history = fit(classifier, X, Y, (X[:10], Y[:10]), callbacks=[CSVLogger(path)]).history
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    points, (x, y) = history[-1].validation, map(torch.from_numpy, (X[:10], Y[:10]))
    assert [(point.lam, point.width) for point in points] == list(itertools.product(LAMBDAS, widths))
    for point in points:
        where = f"{point.lam:g}" if point.width == 1 else f"{point.lam:g}x{point.width:g}"
        network, generator = classifier.at(point.lam, point.width).as_module(), torch.Generator().manual_seed(0)
        x_adv = ATTACK(network, x, y, clip_values=(0, 1), generator=generator)
        is_right, is_right_under_attack = (network(images).argmax(dim=1) == y for images in (x, x_adv))
        assert float(rows[-1][f"val_clean@{where}"]) == point.clean == is_right.double().mean()
        assert float(rows[-1][f"val_robust@{where}"]) == (is_right & is_right_under_attack).double().mean()
    for record, row in zip(history, rows, strict=True):
        of_width = [tuple(point for point in record.validation if point.width == width) for width in widths]
        assert record.area == pytest.approx(np.mean([Frontier(part).area((1 / 5, 0)) for part in of_width]))
        assert float(row["area"]) == record.area
    assert [int(row["is_best"]) for row in rows] == [1, int(history[1].area > history[0].area)]


def test_validation_comes_at_its_interval_and_at_the_end(classifier):
    history = fit(classifier, X, Y, Validation(X, Y, interval=2), nb_epochs=5).history
    assert [bool(record.validation) for record in history] == [False, True, False, True, True]


@pytest.mark.parametrize(("answer", "nb_epochs"), [(True, 2), (1, 4), ("yes", 4), (None, 4)])
def test_training_ends_after_the_epoch_for_which_the_callback_says_true(classifier, answer, nb_epochs):
    told = []

    def callback(record):
        told.append(record)
        return answer if record.epoch == 2 else False

    history = fit(classifier, nb_epochs=4, callbacks=[callback]).history
    assert told == history
    assert len(told) == nb_epochs


def test_a_callback_that_fails_leaves_a_usable_network_and_the_log(classifier, tmp_path):
    def fail(record):
        raise OSError("no space")

    random_state, trainer = torch.get_rng_state(), OATTrainer(classifier, attack=ATTACK, ema=0.9)
    with pytest.raises(OSError, match="no space"):
        trainer.fit(X, Y, nb_epochs=3, callbacks=[CSVLogger(tmp_path / "log.csv"), fail], verbose=False)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2
    assert len(trainer.history) == 1
    assert not classifier.model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert np.isfinite(classifier.predict(X, lam=np.linspace(0, 1, 20))).all()
