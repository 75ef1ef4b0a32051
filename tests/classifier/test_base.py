import numpy as np
import pytest
import torch
from art.defences.preprocessor import SpatialSmoothing
from art.estimators.classification import PyTorchClassifier

from tests.classifier.subjects import ONE_HOT, X, Y, norm_of, plain, snapshot
from tests.conftest import make_classifier
from tests.pairs import parametrize_in_pairs

METHODS = {
    "class_gradient": lambda c: c.class_gradient(X),
    "class_gradient of a class": lambda c: c.class_gradient(X, 2),
    "class_gradient of one class per sample": lambda c: c.class_gradient(X, Y),
    "class_gradient of a list": lambda c: c.class_gradient(X, Y.tolist()),
    "clip_values": lambda c: c.clip_values,
    "compute_loss": lambda c: c.compute_loss(X, ONE_HOT),
    "compute_loss of indices": lambda c: c.compute_loss(X, Y),
    "compute_loss in all": lambda c: c.compute_loss(X, ONE_HOT, reduction="sum"),
    "compute_losses": lambda c: c.compute_losses(X, ONE_HOT)["total"],
    "custom_loss_gradient": lambda c: c.custom_loss_gradient(norm_of, X, X[::-1].copy(), 0),
    "custom_loss_gradient by name": lambda c: c.custom_loss_gradient(norm_of, X, X[::-1].copy(), "body"),
    "get_activations": lambda c: c.get_activations(X, 0, batch_size=5),
    "get_activations by name": lambda c: c.get_activations(X, "norm", batch_size=5),
    "get_activations as a tensor": lambda c: c.get_activations(X, 1, framework=True).detach(),
    "get_activations of the last layer": lambda c: c.get_activations(X, -1),
    "get_activations again and again": lambda c: [c.get_activations(X, 0) for _ in range(3)],
    "input_shape": lambda c: c.input_shape,
    "loss_gradient": lambda c: c.loss_gradient(X, ONE_HOT),
    "loss_gradient of a tensor": lambda c: c.loss_gradient(torch.from_numpy(X), torch.from_numpy(ONE_HOT)),
    "nb_classes": lambda c: c.nb_classes,
    "predict": lambda c: c.predict(X),
    "predict of a tensor": lambda c: c.predict(torch.from_numpy(X)),
    "predict with a graph": lambda c: c._predict_framework(torch.from_numpy(X))[0].detach(),
    "reduce_labels": lambda c: c.reduce_labels(ONE_HOT),
}


@parametrize_in_pairs(name=METHODS, width=[1.0, 0.5], kind=["view", "classifier"])
def test_a_method_answers_as_in_a_plain_classifier_and_touches_nothing(kind, width, name):
    classifier = make_classifier(widths=(width, 1.0) if width < 1 else (1.0,))
    classifier.fit(X, Y, nb_epochs=1)  # so that there are gradients to lose
    classifier.model.train()
    expected = METHODS[name](plain(classifier, 0.3, width))
    if kind == "classifier":
        classifier.set_params(lam=0.3, width=width)
    else:
        classifier.lam = 1.0
    before = snapshot(classifier)
    actual = METHODS[name](classifier if kind == "classifier" else classifier.at(0.3, width))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)
    after = snapshot(classifier)
    assert [part for part in before if before[part] != after[part]] == []


def test_every_method_of_arts_classifier_is_looked_at():
    looked_at = {name.split()[0] for name in METHODS}
    elsewhere = {"clone_for_refitting", "fit", "fit_generator", "get_params", "reset", "save", "set_params"}
    elsewhere |= {"set_batchnorm", "set_dropout", "set_multihead_attention", "layer_names", "model", "optimizer"}
    handed_on = {"channels_first", "device", "device_type", "loss", "loss_scale", "opt_level", "use_amp"}
    not_in_art = {"compute_loss_from_predictions", "estimator_params"}
    public = {name for name in dir(PyTorchClassifier) if not name.startswith("_")}
    assert public == looked_at | elsewhere | handed_on | not_in_art


CALLS = {
    "predict": lambda c, x: c.predict(x),
    "loss_gradient": lambda c, x: c.loss_gradient(x, Y),
    "class_gradient": lambda c, x: c.class_gradient(x),
    "compute_loss": lambda c, x: c.compute_loss(x, Y),
    "get_activations": lambda c, x: c.get_activations(x, 0),
    "custom_loss_gradient": lambda c, x: c.custom_loss_gradient(norm_of, x, X.astype(np.float64), 0),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_inputs_of_any_real_kind_are_cast(classifier, call, dtype):
    x = (X * 10).astype(np.uint8)  # whole numbers, which every kind holds
    tolerance = 1e-2 if dtype is np.float16 else 1e-4  # gradients come in the precision of the inputs
    for estimator in (classifier, classifier.at(0.3)):
        actual, expected = call(estimator, x.astype(dtype)), call(estimator, x.astype(np.float32))
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", [{}, {"preprocessing_defences": SpatialSmoothing(3)}], ids=["plain", "arrays"])
@pytest.mark.parametrize("labels", [Y, ONE_HOT, Y[:, None]], ids=["indices", "one-hot", "a column"])
def test_tensors_are_answered_with_tensors_and_labels_may_be_written_in_any_way(options, labels):
    classifier = make_classifier(**options)
    x, y = torch.from_numpy(X), torch.from_numpy(labels)
    for estimator in (classifier, classifier.at(0.3)):
        pairs = [
            (estimator.loss_gradient(x, y), estimator.loss_gradient(X, ONE_HOT)),
            (estimator.class_gradient(x, torch.from_numpy(Y)), estimator.class_gradient(X, Y)),
        ]
        if not options:  # ART has no way through a preprocessor of arrays here
            custom = estimator.custom_loss_gradient
            pairs.append((custom(norm_of, x, x.flip(0), 0), custom(norm_of, X, X[::-1], 0)))
            pairs.append((estimator.compute_loss(x, y).detach(), estimator.compute_loss(X, ONE_HOT)))
        for actual, expected in pairs:
            torch.testing.assert_close(actual, torch.from_numpy(expected))


def test_layers_have_the_names_they_have_in_a_plain_classifier(classifier):
    assert classifier.layer_names == classifier.at(0.3).layer_names == plain(classifier, 0.3).layer_names
    with pytest.raises(ValueError, match="layer must be one of body, shortcut, norm, head, or an index, got 'neck'"):
        classifier.get_activations(X, "neck")


@pytest.mark.parametrize("name", ["loss_gradient", "class_gradient", "compute_loss"])
def test_a_point_is_not_ignored_where_it_cannot_be_chosen(classifier, name):
    arguments = (X,) if name == "class_gradient" else (X, Y)
    for call in (getattr(classifier, name), lambda *_, lam: classifier.at(0.3).predict(X, lam=lam)):
        with pytest.raises(TypeError, match=r"takes no lam. Use at\(lam, width\)"):
            call(*arguments, lam=1.0)
