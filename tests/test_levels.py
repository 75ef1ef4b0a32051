"""uint8 inputs of a classifier in [0, 1] are k / 255, wherever they are taken."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from art.data_generators import PyTorchDataGenerator
from torch.utils.data import DataLoader, TensorDataset

from art_oat import NFGSM, PGD, OATTrainer, TradeoffCurve, TransferMatrix, evaluate
from art_oat.classifier import DarkLevelsWarning
from art_oat.data.augmentation import RandomCropFlip
from art_oat.evaluation import EvaluationOptions
from art_oat.levels import Levels, are_levels, as_floats, levels_like
from tests.conftest import make_classifier
from tests.networks import labels

ALL = np.arange(256, dtype=np.uint8)
K = np.random.default_rng(0).integers(256, size=(20, 1, 6, 6), dtype=np.uint8)
X, Y = K.astype(np.float32) / 255, labels(20).numpy()
QUIET = EvaluationOptions(verbose=False, shard_size=8)
BINARY = K % 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_of_an_image_becomes_its_byte_and_comes_back_bit_for_bit(dtype):
    x = torch.from_numpy(ALL).to(dtype) / 255
    packed = Levels.packed(x)
    assert torch.equal(packed.k, torch.from_numpy(ALL))
    assert torch.equal(packed[:], x)
    assert torch.equal(torch.cat([*packed.split(100)]), x)
    # as loaders write it, by an image in float64 or by 1 / 255, if only it is the same number
    assert Levels.packed(torch.from_numpy(ALL / 255).to(dtype)) is not None


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(17) / 16,  # digits
        torch.tensor([0.0, torch.nextafter(torch.tensor(1 / 255), torch.tensor(1.0))]),
        torch.tensor([0.0, -0.0]),
        torch.tensor([0.0, 255.0, 256 / 255, -1 / 255]),
        torch.tensor([128 / 255, 1e30]),
    ],
)
def test_what_would_not_come_back_exactly_is_no_bytes(x):
    assert Levels.packed(x) is None


def test_an_array_and_a_tensor_of_levels_become_what_numpy_divides_them_to():
    expected = ALL.astype(np.float32) / 255
    for given in (ALL, torch.from_numpy(ALL)):
        assert np.array_equal(np.asarray(as_floats(given, (0, 1))), expected)
    assert torch.equal(levels_like(torch.zeros(1)), torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("dtype", "clip_values", "expected"),
    [
        ("uint8", (0, 1), True),
        ("uint8", (np.zeros((1, 6, 6)), np.ones((1, 6, 6))), True),
        ("uint8", (0, 255), False),
        ("uint8", (-1, 1), False),
        ("uint8", (np.zeros(2), np.array([1, 2])), False),
        ("uint8", None, False),
        ("int64", (0, 1), False),
        ("float32", (0, 1), False),
    ],
)
def test_only_uint8_in_a_range_from_0_to_1_is_scaled(dtype, clip_values, expected):
    x = np.ones(3, dtype=dtype)
    assert are_levels(x, clip_values) is are_levels(torch.from_numpy(x), clip_values) is expected
    assert (as_floats(x, clip_values) is x) is not expected


def trained(x, y=Y, validation=X, classifier=None, **parts):
    """Weights and history of a training on arrays or a loader."""
    classifier = classifier or make_classifier(preprocessing=(0.5, 0.25))
    trainer = OATTrainer(classifier, **{"attack": PGD(0.1, nb_steps=2), **parts})
    trainer.fit(x, y, validation_data=(validation, Y), batch_size=8, nb_epochs=2, verbose=False)
    return classifier.model.state_dict(), [record.validation for record in trainer.history]


@pytest.mark.parametrize(
    "parts", [{}, {"augmentation": RandomCropFlip(1)}, {"attack": NFGSM(0.1), "fallback": PGD(0.1, nb_steps=2)}]
)
def test_a_training_on_uint8_is_that_on_floats_bit_for_bit(parts):
    (expected, points), (weights, own_points) = trained(X, **parts), trained(K, validation=K, **parts)
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)
    assert own_points == points


def test_batches_of_uint8_of_a_loader_are_those_of_floats_bit_for_bit():
    def loader(x):
        return DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(Y)), 8)

    torch.testing.assert_close(trained(loader(K), None)[0], trained(loader(X), None)[0], rtol=0, atol=0)


@pytest.mark.parametrize(("clip_values", "scale"), [((0, 1), 255), ((0, 255), 1), ((-9, 300), 1), (None, 1)])
def test_uint8_is_kept_as_bytes_wherever_it_fits_the_range(clip_values, scale):
    kept, _ = make_classifier(clip_values=clip_values).kept_tensors(K, Y)
    assert kept.nbytes == K.nbytes
    assert torch.equal(kept[:], torch.from_numpy(K / np.float32(scale)))


def test_what_rounding_alone_leaves_in_the_range_is_cut_off():
    high = np.float32(255 - 1e-4)
    kept, _ = make_classifier(clip_values=(0, high)).kept_tensors(np.full_like(K, 255), Y)
    assert (kept == torch.tensor(high)).all()


def test_a_mapped_file_is_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", K)
    x = np.load(tmp_path / "x.npy", mmap_mode="c")
    kept, _ = make_classifier().kept_tensors(x, Y)
    assert np.shares_memory(kept.k.numpy(), x)
    torch.testing.assert_close(trained(x)[0], trained(X)[0], rtol=0, atol=0)


def test_soft_labels_go_with_uint8():
    soft = np.full((20, 5), 0.2, dtype=np.float32)
    torch.testing.assert_close(trained(K, soft)[0], trained(X, soft)[0], rtol=0, atol=0)


@pytest.mark.parametrize("preprocessing", [(0.0, 1.0), (0.5, 0.25)])
def test_answers_and_gradients_on_uint8_are_those_on_floats_bit_for_bit(preprocessing):
    classifier = make_classifier(preprocessing=preprocessing)
    assert np.array_equal(*(classifier.at(1).get_activations(x, 0) for x in (K, X)))
    for asked in (
        classifier.predict,
        lambda x: classifier.predict(x, lam=np.linspace(0, 1, 20), batch_size=7),
        classifier.at(0.5).predict,
        lambda x: classifier.at(1).loss_gradient(x, Y),
        lambda x: classifier.at(1).class_gradient(x),
        lambda x: classifier.at(1).compute_loss(x, Y),
    ):
        assert np.array_equal(asked(K), asked(X))
        assert np.array_equal(asked(torch.from_numpy(K)), asked(torch.from_numpy(X)))


@pytest.mark.slow(seconds=1)
def test_a_measurement_on_uint8_is_that_on_floats():
    classifier = make_classifier()
    options = {"eps": 0.05, "attack": "pgd-3", "options": QUIET}
    reports = [evaluate(classifier, x, Y, lam=1, **options) for x in (K, X)]
    assert reports[0].broken_by.tolist() == reports[1].broken_by.tolist()
    curves = [TradeoffCurve.measure(classifier, x, Y, lambdas=(0, 1), **options) for x in (K, X)]
    accuracies = [[(point.clean, point.robust) for point in curve.points] for curve in curves]
    assert accuracies[0] == accuracies[1]
    matrices = [
        TransferMatrix.measure(classifier, x, Y, lambdas=(0, 1), eps=0.05, options=QUIET).shares for x in (K, X)
    ]
    assert np.array_equal(*matrices)


def test_an_evaluation_of_floats_is_gone_on_with_in_uint8(tmp_path):
    classifier, options = make_classifier(), {"eps": 0.05, "lam": 1, "options": replace(QUIET, state=tmp_path)}
    first = evaluate(classifier, X, Y, attack="pgd-3", **options)
    assert evaluate(classifier, K, Y, attack="pgd-3", **options).seconds == first.seconds
    with pytest.raises(ValueError, match="x was"):
        evaluate(classifier, 255 - K, Y, attack="pgd-3", **options)


def fit(classifier, x):
    classifier.fit(x, Y, nb_epochs=2, batch_size=8)


def fit_generator(classifier, x):
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(Y)), 8)
    classifier.fit_generator(PyTorchDataGenerator(loader, 20, 8), nb_epochs=2)


@pytest.mark.parametrize("train", [fit, fit_generator])
def test_a_training_at_one_point_is_on_what_uint8_stands_for(train):
    states = []
    for x in (K, X):
        classifier = make_classifier()
        torch.manual_seed(0)
        train(classifier, x)
        states.append(classifier.model.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize("clip_values", [(0, 255), None])
def test_where_levels_are_no_fractions_uint8_is_as_it_is(clip_values):
    classifier = make_classifier(clip_values=clip_values)
    assert np.array_equal(classifier.predict(K), classifier.predict(K.astype(np.float32)))
    states = []
    for x in (K, K.astype(np.float32)):
        classifier = make_classifier(clip_values=clip_values)
        states.append(trained(x, validation=x, classifier=classifier, attack=PGD(9, nb_steps=2))[0])
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize(
    "asked",
    [
        lambda classifier, x: trained(x, classifier=classifier),
        lambda classifier, x: trained(X, validation=x, classifier=classifier),
        lambda classifier, x: trained(DataLoader([*zip(x, Y, strict=True)], 8), None, classifier=classifier),
        lambda classifier, x: classifier.fit(x, Y),
        lambda classifier, x: evaluate(classifier, x, Y, eps=0.1, lam=1),
        lambda classifier, x: TradeoffCurve.measure(classifier, x, Y, eps=0.1),
        lambda classifier, x: classifier.at(1).loss_gradient(x, Y),
    ],
)
def test_data_of_0_and_1_in_uint8_are_refused_with_what_to_do(asked):
    with pytest.raises(ValueError, match=r"none above 1: nearly black\. Give images of 0 and 1 as floats"):
        asked(make_classifier(), BINARY)


def test_one_dark_image_is_answered_and_told_of():
    classifier = make_classifier()
    with pytest.warns(DarkLevelsWarning, match="nearly black") as told:
        scores = classifier.predict(BINARY)
    assert told[0].filename == __file__
    assert np.array_equal(scores, classifier.predict(BINARY / np.float32(255)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.predict(np.zeros_like(K))  # black either way
        classifier.predict(BINARY[:0])
