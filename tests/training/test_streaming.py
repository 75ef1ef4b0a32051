"""Data that come batch by batch, without an end that is known beforehand, are not kept."""

import resource
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from art_oat import PGD, OATClassifier, OATTrainer, to_conditional

SHAPE = (3, 64, 64)


class Shards(IterableDataset):
    """Samples as they come from shards, whose number nobody knows."""

    def __init__(self, nb_samples: int) -> None:
        self.nb_samples = nb_samples

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for number in range(self.nb_samples):
            yield torch.rand(SHAPE, generator=generator), number % 2


def largest_memory(nb_samples: int) -> int:
    """Return the most memory that this process has held, after a training on so many samples."""
    network = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 2))
    model = to_conditional(network, input_shape=SHAPE)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), SHAPE, 2, optimizer, clip_values=(0, 1))
    trainer = OATTrainer(classifier, PGD(0.01, nb_steps=1))
    trainer.fit(DataLoader(Shards(nb_samples), 64), nb_epochs=1, verbose=False)
    assert len(trainer.history) == 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.slow(seconds=1)
def test_ten_times_the_data_take_no_more_than_a_tenth_more_memory():
    """At the larger number, the samples alone would take 250 MB. A process of its own has held nothing before."""
    code = f"from {__name__} import largest_memory; print(*map(largest_memory, (512, 5120)))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    few, many = map(int, answer.stdout.split())
    assert many < 1.1 * few
