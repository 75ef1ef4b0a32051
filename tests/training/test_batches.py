import numpy as np
import torch

from art_oat import PGD, OATTrainer
from art_oat.levels import Levels
from art_oat.training.batches import ArrayBatches
from tests.conftest import make_classifier
from tests.networks import labels

Y = labels(20).numpy()


def test_images_are_kept_in_a_quarter_of_the_memory_and_yielded_as_they_were():
    x = torch.from_numpy(np.random.default_rng(0).integers(256, size=(2500, 2, 3, 3)).astype(np.float32) / 255)
    source = ArrayBatches(x, torch.arange(2500), 400, torch.Generator().manual_seed(0))
    assert source.x.nbytes * 4 == x.nbytes
    seen = 0
    for batch, index in source:
        assert torch.equal(batch, x[index])
        seen += len(index)
    assert seen == 2500


def test_one_value_between_the_levels_keeps_all_as_they_are():
    x = torch.zeros(2500, 1, 2, 2)
    x[-1, 0, 1, 1] = 0.5
    assert ArrayBatches(x, torch.arange(2500), 400, torch.Generator()).x is x


def test_a_training_on_bytes_is_that_on_floats_bit_for_bit(monkeypatch):
    x = np.random.default_rng(0).integers(256, size=(20, 1, 6, 6)).astype(np.float32) / 255
    states = []
    for is_packed in (True, False):
        if not is_packed:
            monkeypatch.setattr(Levels, "packed", lambda *_: None)
        classifier = make_classifier()
        trainer = OATTrainer(classifier, attack=PGD(eps=0.1, nb_steps=2), ema=0.9)
        trainer.fit(x, Y, batch_size=8, nb_epochs=2, verbose=False)
        states.append(classifier.model.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)
