import warnings

import numpy as np
import onnxruntime
import pytest
import torch

from art_oat.classifier import DefaultPointWarning
from tests.classifier.subjects import LAMS, X, Y, snapshot
from tests.classifier.test_preprocessing import PREPROCESSING
from tests.conftest import make_classifier


def answers(path, x):
    session = onnxruntime.InferenceSession(path)
    return session.run(["logits"], {"x": x})[0]


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("kind", ["standardization", "torch defense"])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_file_answers_as_predict_does_preprocessing_included(kind, width, tmp_path):
    classifier = make_classifier(widths=(0.5, 1.0), **PREPROCESSING[kind])
    exported = classifier.export(tmp_path / "net.onnx", lam=0.3, width=width)
    expected = classifier.predict(X, lam=0.3, width=width)
    np.testing.assert_allclose(answers(exported.path, X), expected, rtol=1e-4, atol=1e-5)
    assert (exported.lam, exported.width) == (0.3, width)


@pytest.mark.slow(seconds=1)
def test_a_standardization_of_each_channel_is_kept_in_the_file(tmp_path):
    mean, std = np.full((1, 6, 6), 0.4), np.linspace(0.2, 0.3, 36).reshape(1, 6, 6)
    classifier = make_classifier(preprocessing=(mean, std))
    classifier.export(tmp_path / "net.onnx", lam=0.3)
    expected = classifier.predict(X, lam=0.3)
    np.testing.assert_allclose(answers(tmp_path / "net.onnx", X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow(seconds=1)
def test_a_file_without_preprocessing_takes_what_the_network_takes(tmp_path):
    classifier = make_classifier(**PREPROCESSING["standardization"])
    exported = classifier.export(tmp_path / "net.onnx", lam=0.3, preprocessing=False, data=(X, Y))
    expected = classifier.predict(X, lam=0.3)
    np.testing.assert_allclose(answers(exported.path, (X - 0.4) / 0.25), expected, rtol=1e-4, atol=1e-5)
    assert exported.accuracy_before == exported.accuracy_after == np.mean(expected.argmax(1) == Y)


@pytest.mark.parametrize("kind", ["array defense", "array defense, standardized"])
def test_a_defense_that_works_on_arrays_is_refused_by_name_unless_it_is_left_out(kind, tmp_path):
    classifier = make_classifier(**PREPROCESSING[kind])
    with pytest.raises(
        ValueError, match="preprocessing must work on tensors to be exported, but SpatialSmoothing works"
    ):
        classifier.export(tmp_path / "net.pt", lam=0.3)
    assert not list(tmp_path.iterdir())
    classifier.export(tmp_path / "net.pt", lam=0.3, preprocessing=False)


def test_weights_alone_are_refused_where_preprocessing_would_be_lost(tmp_path):
    classifier = make_classifier(**PREPROCESSING["standardization"])
    with pytest.raises(ValueError, match="preprocessing must be False for safetensors, which holds weights alone"):
        classifier.export(tmp_path / "net.safetensors", lam=0.3)
    classifier.export(tmp_path / "net.safetensors", lam=0.3, preprocessing=False)
    make_classifier().export(tmp_path / "other.safetensors", lam=0.3)


def test_accuracy_is_that_of_predict_on_levels_and_floats_indices_and_one_hot_labels(tmp_path):
    classifier = make_classifier()
    levels = np.round(255 * X).astype(np.uint8)
    expected = np.mean(classifier.predict(levels, lam=0.3).argmax(1) == Y)
    for x, y in ((levels, Y), (levels / np.float32(255), np.eye(5)[Y])):
        exported = classifier.export(tmp_path / "net.pt", lam=0.3, data=(x, y))
        assert exported.accuracy_before == exported.accuracy_after == expected


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_written(tmp_path):
    classifier = make_classifier()
    with pytest.raises(ValueError, match=r"lam must lie in .* precision must be one of .* x must have shape"):
        classifier.export(tmp_path / "net.pt", lam=-1, precision="int4", data=(X[:, 0], Y))
    with pytest.raises(
        TypeError, match=r"preprocessing must be True or False, got 'yes'.*data must be inputs and labels"
    ):
        classifier.export(tmp_path / "net.pt", lam=0.3, preprocessing="yes", data=X[0, 0, 0])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow(seconds=1)
def test_exporting_leaves_the_classifier_alone(tmp_path):
    classifier = make_classifier()
    before = snapshot(classifier)
    classifier.export(tmp_path / "net.onnx", lam=0.3, data=(X, Y))
    assert snapshot(classifier) == before


def test_a_lam_that_nobody_has_named_is_told_of_once(tmp_path):
    classifier = make_classifier(lam=None)
    with pytest.warns(DefaultPointWarning, match="what is exported answers at lam 0, the least robust"):
        classifier.export(tmp_path / "net.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.export(tmp_path / "net.pt")
        classifier.export(tmp_path / "net.pt", lam=0.0)
    torch.testing.assert_close(
        torch.jit.load(tmp_path / "net.pt")(torch.from_numpy(X)).numpy(), classifier.predict(X, lam=0.0)
    )


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_dial_answers_as_predict_does_with_one_lam_per_sample_preprocessing_included(width, tmp_path):
    classifier = make_classifier(widths=(0.5, 1.0), **PREPROCESSING["standardization"])
    exported = classifier.export_dial(tmp_path / "net.onnx", width=width)
    session = onnxruntime.InferenceSession(exported.path)
    assert [(it.name, it.type, it.shape) for it in session.get_inputs()] == [
        ("x", "tensor(float)", ["N", 1, 6, 6]),
        ("lam", "tensor(float)", ["N"]),
    ]
    answer = session.run(["logits"], {"x": X, "lam": LAMS.astype(np.float32)})[0]
    np.testing.assert_allclose(answer, classifier.predict(X, lam=LAMS, width=width), rtol=1e-4, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["lam"] == "input"
    assert "every lam, width" in str(exported)


def test_a_dial_is_refused_where_it_cannot_be_and_nothing_is_written(tmp_path):
    classifier = make_classifier()
    with pytest.raises(ValueError, match=r"width must be one of .* with inputs for a dial, got safetensors"):
        classifier.export_dial(tmp_path / "net.safetensors", width=0.3)
    assert not list(tmp_path.iterdir())
