import numpy as np
import torch

from art_oat.data.dataset import Split
from benchmarks.neighbors.turns import Turns, loader


def test_every_image_comes_once_before_any_comes_again_however_long_an_epoch_is():
    for nb_per_epoch in (4, 25):
        turns = Turns(10, nb_per_epoch, 3, seed=0)
        assert len(turns) == len(list(turns)) == -(-nb_per_epoch // 3)
        others = torch.cat([turns.epoch() for _ in range(10)])[-nb_per_epoch % 10 :]  # without what the first one left
        for turn in others[:30].split(10):
            assert sorted(turn.tolist()) == list(range(10))


def test_a_loader_gives_the_images_of_each_batch_and_leaves_the_global_generator_alone():
    x = np.arange(12, dtype=np.float32).reshape(4, 1, 1, 3)
    before = torch.get_rng_state()
    batches = list(loader(Split(x, np.arange(4)), Turns(4, 4, 3, seed=1)))
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(y) for _, y in batches] == [3, 1]
    for images, labels in batches:
        assert torch.equal(images, torch.from_numpy(x)[labels])
