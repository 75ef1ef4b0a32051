import copy

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from torch.utils.data import DataLoader, TensorDataset

from tests.classifier.subjects import ONE_HOT, X, Y, snapshot
from tests.conftest import make_classifier


def generator_of(x, y, batch_size=4):
    return PyTorchDataGenerator(DataLoader(TensorDataset(x, y), batch_size), len(x), batch_size)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        *(({name: value}, ValueError) for name in ("batch_size", "nb_epochs") for value in (0, -1)),
        *(({name: value}, TypeError) for name in ("batch_size", "nb_epochs") for value in (2.5, True, "3", None)),
    ],
    ids=str,
)
def test_counts_that_are_none_are_refused_before_anything_is_trained(classifier, options, error):
    generator, (name,) = generator_of(torch.from_numpy(X), torch.from_numpy(ONE_HOT)), options
    before = snapshot(classifier)
    with pytest.raises(error, match=f"{name} must be a whole number, at least 1"):
        classifier.fit(X, Y, **options)
    if name == "nb_epochs":
        with pytest.raises(error, match=f"{name} must be a whole number, at least 1"):
            classifier.fit_generator(generator, **options)
    assert snapshot(classifier) == before


@pytest.mark.parametrize("y", [Y.tolist(), Y.astype(float), Y.astype(np.uint64), ONE_HOT > 0, torch.from_numpy(Y)])
def test_counts_and_labels_of_every_kind_train_as_those_they_name(y):
    trained = []
    for given, counts in ((Y, (5, 2)), (y, (np.int64(5), torch.tensor(2)))):
        classifier = make_classifier()
        torch.manual_seed(0)
        classifier.fit(X, given, *counts, unknown="ignored, as in ART")
        trained.append(snapshot(classifier)["weights and statistics"])
    assert trained[0] == trained[1]


def test_no_samples_are_nothing_to_train_on(classifier):
    with pytest.raises(ValueError, match=r"x must hold at least one sample, got none\."):
        classifier.fit(X[:0], Y[:0])


@pytest.mark.parametrize("labels", [torch.from_numpy(ONE_HOT), torch.from_numpy(Y)], ids=["one-hot", "indices"])
def test_a_torch_generator_trains_as_its_batches_do_one_by_one(labels):
    first = make_classifier()
    second = copy.deepcopy(first)
    first.fit_generator(generator_of(torch.from_numpy(X), labels), nb_epochs=np.int64(2))
    for _ in range(2):
        for index in np.split(np.arange(12), 3):
            batch = torch.from_numpy(X[index]), torch.from_numpy(ONE_HOT[index])
            second.fit_generator(generator_of(*batch), nb_epochs=1)
    assert snapshot(first) == snapshot(second)


@pytest.mark.parametrize("make", ["torch", "numpy"])
def test_a_faulty_batch_of_a_generator_is_refused(classifier, make):
    x = X.copy()
    x[1, 0, 0, 0] = np.nan
    given = generator_of(torch.from_numpy(x), torch.from_numpy(ONE_HOT))
    given = given if make == "torch" else NumpyDataGenerator(x, ONE_HOT, 12, 12, shuffle=False)
    before = snapshot(classifier)["weights and statistics"]
    with pytest.raises(ValueError, match="x must be finite, got NaN or infinity in 1 of"):
        classifier.fit_generator(given, 1)
    assert snapshot(classifier)["weights and statistics"] == before


def test_what_is_no_generator_of_art_is_refused(classifier):
    with pytest.raises(TypeError, match="generator must be a DataGenerator of ART, got list"):
        classifier.fit_generator([(X, Y)])
