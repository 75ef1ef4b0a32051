import warnings

import numpy as np
import pytest
import torch
from art.attacks.evasion import SquareAttack
from art.defences.preprocessor import SpatialSmoothing
from art.estimators.classification import PyTorchClassifier

from art_oat.classifier import NonFiniteWarning
from tests.classifier.subjects import LAMS, ONE_HOT, X, Y, norm_of, plain, snapshot
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


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int16, np.int64])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_inputs_of_any_real_kind_are_cast(classifier, call, dtype):
    x = (X * 10).astype(np.int16)  # whole numbers, which every kind holds
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


ANSWERS = {
    "classifier": lambda c, x: c.predict(x, 5, lam=0.3),
    "one lam per sample": lambda c, x: c.predict(x, 5, lam=LAMS),
    "view": lambda c, x: c.at(0.3).predict(x, 5),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_sample_that_is_not_finite_has_nan_scores_is_named_and_changes_no_other(answer, value):
    classifier = make_classifier(preprocessing=(0.3, 0.7))
    expected, before = answer(classifier, X), snapshot(classifier)
    x = X.astype(np.float64) if value == 1e300 else X.copy()
    x[2, 0, 1, 1] = x[7, 0] = value
    with pytest.warns(NonFiniteWarning, match=r"NaN or infinity in 2 of 12 samples \(2, 7\), whose scores are NaN"):
        scores = answer(classifier, x)
    assert np.flatnonzero(np.isnan(scores).any(axis=1)).tolist() == [2, 7]
    assert np.isnan(scores[[2, 7]]).all()
    others = np.delete(np.arange(12), [2, 7])
    np.testing.assert_allclose(scores[others], expected[others], rtol=1e-5, atol=1e-6)  # float64 is scaled as such
    if value != 1e300:
        np.testing.assert_array_equal(scores[others], expected[others])
    assert snapshot(classifier) == before


def test_square_of_art_in_l2_which_divides_by_zero_attacks_a_view_to_the_end(classifier):
    x = X.copy()
    x[:4] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = SquareAttack(classifier.at(1.0), norm=2, eps=1.0, max_iter=20, nb_restarts=1, verbose=False)
        assert attack.generate(x, Y).shape == x.shape


KINDS = {
    "float16": lambda x: x.astype(np.float16),
    "longdouble": lambda x: x.astype(np.longdouble),
    "bfloat16": lambda x: torch.from_numpy(x).bfloat16(),
    "a tensor with gradient": lambda x: torch.from_numpy(x).requires_grad_(),
    "an array without mask": np.ma.array,
    "columns first": np.asfortranarray,
    "a list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_every_kind_have_the_scores_and_gradients_of_their_numbers(classifier, kind):
    x = np.round(X * 8) / 8  # which all of these hold exactly
    given, view = KINDS[kind](x), classifier.at(0.3)
    for answer in (classifier.predict, view.predict):
        np.testing.assert_allclose(answer(given), answer(x), rtol=1e-3, atol=1e-3)  # float16 is scaled as such
    gradient = torch.as_tensor(view.loss_gradient(given, Y)).float().numpy()
    np.testing.assert_allclose(gradient, view.loss_gradient(x, Y), rtol=0.02, atol=1e-3)  # that of bfloat16 is bfloat16


LABELS = {
    "int32": lambda y: y.astype(np.int32),
    "uint64": lambda y: y.astype(np.uint64),
    "float64": lambda y: y.astype(np.float64),
    "bfloat16": lambda y: torch.from_numpy(y).bfloat16(),
    "a list": lambda y: y.tolist(),
    "truth values": lambda y: ONE_HOT > 0,
    "a column": lambda y: y[:, None],
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_kind_are_those_that_they_name(classifier, kind):
    given, view = LABELS[kind](Y), classifier.at(0.3)
    np.testing.assert_array_equal(view.loss_gradient(X, given), view.loss_gradient(X, Y))
    np.testing.assert_array_equal(view.compute_loss(X, given), view.compute_loss(X, Y))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.loss_gradient(X[:, :, :3], Y), "x must have shape"),
        (lambda c: c.loss_gradient(X, Y[:3]), "y must hold one label per sample, 12, got 3"),
        (lambda c: c.loss_gradient(X, Y + 9), r"y must hold class indices in \[0, 5\)"),
        (lambda c: c.compute_loss(X, Y.astype(str)), "y must hold whole numbers"),
        (lambda c: c.compute_loss(torch.from_numpy(X).to("meta"), Y), "x must hold real numbers, got a tensor"),
        (lambda c: c.class_gradient(X, -1), "label must be a whole number, at least 0, got -1"),
        (lambda c: c.class_gradient(X, "2"), "label must be None, a class or one per sample, got '2'"),
        (lambda c: c.class_gradient(X, [7] * 12), r"label must hold class indices in \[0, 5\), got 7"),
        (lambda c: c.class_gradient(X > 0.5), "x must hold real numbers, got dtype bool"),
        (lambda c: c.get_activations(X, 0, batch_size=0), "batch_size must be a whole number"),
        *((lambda c, it=it: c.get_activations(X, it), "layer must be one of ") for it in (7, -9, 1.5, True, None, [0])),
    ],
)
def test_what_art_would_fail_on_is_refused_by_name(classifier, call, message):
    for asked in (classifier, classifier.at(0.3)):
        before = snapshot(classifier)
        with pytest.raises((TypeError, ValueError), match=message):
            call(asked)
        assert snapshot(classifier) == before
