"""What works on images in uint8 takes memory for a batch of them, however many there are."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from art_oat import PGD, OATClassifier, OATTrainer, TradeoffCurve, evaluate, to_conditional
from art_oat.evaluation import EvaluationOptions

SHAPE = (3, 64, 64)
QUIET = EvaluationOptions(verbose=False)
Work = Callable[[OATClassifier, np.ndarray, np.ndarray], object]


def train(classifier: OATClassifier, x: np.ndarray, y: np.ndarray) -> None:
    trainer = OATTrainer(classifier, PGD(0.01, nb_steps=1))
    trainer.fit(x, y, validation_data=(x, y), batch_size=64, nb_epochs=1, verbose=False)


WORK: dict[str, Work] = {
    "fit": train,
    "predict": lambda classifier, x, _: classifier.predict(x, lam=0.5),
    "evaluate": lambda *data: evaluate(*data, eps=0.01, attack="pgd-1", lam=1, options=QUIET),
    "measure": lambda *data: TradeoffCurve.measure(*data, eps=0.01, attack="pgd-1", options=QUIET),
}


def memory_for(work: Work, nb_samples: int) -> int:
    """Return the most kilobytes that this process has held by the end of a work, beside the images themselves."""
    network = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 2))
    model = to_conditional(network, lambdas=(0, 1), input_shape=SHAPE)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), SHAPE, 2, optimizer, clip_values=(0, 1))
    x = np.random.default_rng(0).integers(256, size=(nb_samples, *SHAPE), dtype=np.uint8)
    work(classifier, x, np.arange(nb_samples) % 2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - x.nbytes // 1024


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_ten_times_the_images_take_no_more_than_a_tenth_more_memory(name):
    """At the larger number, they would take 250 MB as floats. A process of its own has held nothing before."""
    code = f"from {__name__} import WORK, memory_for; print(*(memory_for(WORK[{name!r}], it) for it in (512, 5120)))"
    # else the C library keeps what was given back, and how much that is differs from run to run
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | settings)
    few, many = map(int, answer.stdout.split())
    assert many < 1.1 * few, f"{few} and {many} kB"
