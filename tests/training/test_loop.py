import csv
import itertools

import numpy as np
import pytest
import torch

from art_oat import PGD, Frontier, OATClassifier, OATTrainer
from art_oat.training import CSVLogger, Validation, hybrid_loss
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS, images, labels

X, Y = images(20, torch.float32).numpy(), labels(20).numpy()
ATTACK = PGD(eps=0.1, nb_steps=2)
LAM_EACH = np.linspace(0, 1, 20)


def fit(classifier: OATClassifier, seed: int = 0, **options) -> OATTrainer:
    trainer = OATTrainer(classifier, attack=ATTACK, seed=seed)
    trainer.fit(X, Y, **{"batch_size": 10, "nb_epochs": 2, "verbose": False, **options})
    return trainer


def test_every_sample_is_seen_once_an_epoch(classifier):
    seen = []

    def note(logits, logits_adv, y, lam, criterion=None):
        seen.append(y)
        return hybrid_loss(logits, logits_adv, y, lam, criterion)

    OATTrainer(classifier, attack=ATTACK, loss=note).fit(X, Y, batch_size=8, nb_epochs=1, verbose=False)
    assert [len(y) for y in seen] == [8, 8, 4]
    assert torch.cat(seen).sort().values.tolist() == sorted(Y.tolist())


def test_the_log_holds_a_row_per_epoch_with_validation_per_lam(classifier, tmp_path):
    trainer = fit(
        classifier, validation_data=(X[:10], Y[:10]), callbacks=[CSVLogger(tmp_path / "log" / "training.csv")]
    )
    with (tmp_path / "log" / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    for lam, point in zip(LAMBDAS, trainer.history[-1].validation, strict=True):
        assert float(rows[-1][f"val_clean@{lam:g}"]) == point.clean
        assert float(rows[-1][f"val_robust@{lam:g}"]) == point.robust <= point.clean
        assert point.clean == np.mean(classifier.predict(X[:10], lam=lam).argmax(axis=1) == Y[:10])
    areas = [Frontier(record.validation).area((1 / 5, 0)) for record in trainer.history]
    assert [float(row["area"]) for row in rows] == areas
    assert [int(row["is_best"]) for row in rows] == [1, int(areas[1] > areas[0])]


def test_a_log_over_several_widths_has_columns_for_each_and_their_mean_area(tmp_path):
    classifier = make_classifier(widths=WIDTHS)
    trainer = fit(
        classifier, validation_data=(X[:10], Y[:10]), nb_epochs=1, callbacks=[CSVLogger(tmp_path / "log.csv")]
    )
    (record,) = trainer.history
    assert [(point.lam, point.width) for point in record.validation] == list(itertools.product(LAMBDAS, WIDTHS))
    with (tmp_path / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    for point in record.validation:
        where = f"{point.lam:g}" if point.width == 1 else f"{point.lam:g}x{point.width:g}"
        assert float(row[f"val_clean@{where}"]) == point.clean
        assert float(row[f"val_robust@{where}"]) == point.robust <= point.clean
        network, y = classifier.at(point.lam, point.width).as_module(), torch.from_numpy(Y[:10])
        x, generator = torch.from_numpy(X[:10]), torch.Generator().manual_seed(trainer.seed)
        x_adv = ATTACK(network, x, y, clip_values=(0, 1), generator=generator)
        is_right, is_right_under_attack = (network(images).argmax(dim=1) == y for images in (x, x_adv))
        assert point.clean == is_right.double().mean()
        assert point.robust == (is_right & is_right_under_attack).double().mean()
    areas = [Frontier(tuple(p for p in record.validation if p.width == width)).area((1 / 5, 0)) for width in WIDTHS]
    assert record.area == pytest.approx(np.mean(areas))


def test_validation_comes_at_its_interval_and_at_the_end(classifier):
    trainer = fit(classifier, validation_data=Validation(X, Y, interval=2), nb_epochs=5)
    assert [bool(record.validation) for record in trainer.history] == [False, True, False, True, True]


@pytest.mark.parametrize(("answer", "nb_epochs"), [(True, 2), (1, 4), ("yes", 4), (None, 4)])
def test_training_ends_after_the_epoch_for_which_the_callback_says_true(classifier, answer, nb_epochs):
    told = []

    def callback(record):
        told.append(record)
        return answer if record.epoch == 2 else False

    trainer = fit(classifier, nb_epochs=4, callbacks=[callback])
    assert told == trainer.history
    assert len(told) == nb_epochs


def test_a_callback_that_fails_leaves_a_usable_network_and_the_log(classifier, tmp_path):
    def fail(record):
        raise OSError("no space")

    classifier.model.eval()
    random_state = torch.get_rng_state()
    trainer = OATTrainer(classifier, attack=ATTACK, ema=0.9)
    with pytest.raises(OSError, match="no space"):
        trainer.fit(X, Y, nb_epochs=3, callbacks=[CSVLogger(tmp_path / "log.csv"), fail], verbose=False)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2
    assert len(trainer.history) == 1
    assert not classifier.model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert np.isfinite(classifier.predict(X, lam=LAM_EACH)).all()
