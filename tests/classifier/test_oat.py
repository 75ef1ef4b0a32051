import copy
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    FastGradientMethod,
    ProjectedGradientDescent,
)
from art.config import ART_DATA_PATH
from art.data_generators import PyTorchDataGenerator
from art.defences.preprocessor import SpatialSmoothing
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import PyTorchClassifier

from art_oat import PGD, OATClassifier, OATTrainer, OperatingPoint, fold, to_conditional
from art_oat.classifier import DefaultPointWarning
from benchmarks.art_attacks import changed, state
from tests.conftest import make_classifier
from tests.networks import WIDTHS, MobileSqueezeExcite, Residual, images, labels, shaken
from tests.pairs import parametrize_in_pairs

X = images(12, torch.float32).numpy()
Y = labels(12).numpy()
LAMS = np.linspace(0, 1, 12)


def plain(classifier: OATClassifier, lam: float, width: float = 1.0, **options: object) -> PyTorchClassifier:
    """The same network at one point, as a classifier of ART's own that knows nothing of lam or width."""
    network = fold(classifier.model, OperatingPoint(lam, width))
    arguments = {"clip_values": (0, 1), **options}
    return PyTorchClassifier(network, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, **arguments)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.55, 1.0])
@pytest.mark.parametrize("batch_size", [5, 128])
def test_predicting_at_a_point_equals_a_plain_classifier(classifier, lam, batch_size):
    expected = plain(classifier, lam).predict(X)
    np.testing.assert_allclose(classifier.predict(X, batch_size, lam=lam), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(classifier.at(lam).predict(X, batch_size), expected, rtol=1e-4, atol=1e-5)


@parametrize_in_pairs(heads=["shared", "per-width"], width=WIDTHS, batch_size=[5, 128])
def test_predicting_at_a_width_equals_a_plain_classifier_of_that_width(heads, width, batch_size):
    classifier = make_classifier(widths=WIDTHS, heads=heads)
    expected = plain(classifier, 0.3, width).predict(X)
    for answer in (
        classifier.predict(X, batch_size, lam=0.3, width=width),
        classifier.predict(X, batch_size, lam=np.full(12, 0.3), width=width),
        classifier.at(0.3, width).predict(X, batch_size),
    ):
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [5, 128])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_one_lam_per_sample_equals_the_points_one_by_one(batch_size, width):
    classifier = make_classifier(widths=(width, 1.0) if width < 1 else (1.0,))
    expected = np.vstack([classifier.predict(X[i : i + 1], lam=float(LAMS[i]), width=width) for i in range(12)])
    answer = classifier.predict(X, batch_size, lam=LAMS, width=width)
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_the_width_of_a_call_wins_over_the_default_and_leaves_it_alone():
    classifier = make_classifier(widths=WIDTHS)
    classifier.width = 0.75
    np.testing.assert_array_equal(classifier.predict(X, lam=0.3), classifier.predict(X, lam=0.3, width=0.75))
    np.testing.assert_allclose(
        classifier.predict(X, lam=LAMS), classifier.predict(X, lam=LAMS, width=0.75), rtol=1e-4, atol=1e-5
    )
    assert classifier.at(0.3).point == OperatingPoint(0.3, 0.75)
    assert classifier.at(width=0.5).point == OperatingPoint(0.0, 0.5)
    assert not np.allclose(classifier.predict(X, lam=0.3, width=0.5), classifier.predict(X, lam=0.3))
    assert classifier.width == classifier.get_params()["width"] == 0.75
    classifier.set_params(width=0.5)
    assert classifier.model.default_point == OperatingPoint(0.0, 0.5)


@pytest.mark.parametrize("width", [0.6, 2, 0, -0.5, np.nan])
def test_a_width_that_was_not_trained_is_refused(width):
    classifier = make_classifier(widths=WIDTHS)
    for call in (
        lambda: classifier.predict(X, lam=0.3, width=width),
        lambda: classifier.predict(X, lam=LAMS, width=width),
        lambda: classifier.at(0.3, width),
        lambda: classifier.set_params(width=width),
    ):
        with pytest.raises(ValueError, match="width must"):
            call()
    assert classifier.width == 1.0


def test_predicting_in_training_mode_moves_the_statistics_of_the_width_alone():
    classifier = make_classifier(widths=WIDTHS)
    before = copy.deepcopy(classifier.model.state_dict())
    for lam in (0.3, np.full(12, 0.3)):
        classifier.predict(X, training_mode=True, lam=lam, width=0.75)
    after = classifier.model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    assert all(".by_width.1.adversarial." in name for name in moved)


def test_predicting_leaves_weights_statistics_mode_and_generator_alone(classifier):
    classifier.model.train()
    state, random_state = copy.deepcopy(classifier.model.state_dict()), torch.get_rng_state()
    classifier.predict(X, lam=0.3)
    classifier.predict(X, lam=LAMS)
    classifier.loss_gradient(X, Y)
    classifier.class_gradient(X)
    classifier.compute_loss(X, Y)
    torch.testing.assert_close(classifier.model.state_dict(), state, rtol=0, atol=0)
    assert classifier.model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in classifier.model.parameters())
    assert classifier.loss.reduction == "mean"


def test_predicting_through_a_view_draws_nothing(classifier):
    random_state = torch.get_rng_state()
    classifier.at(0.3).predict(X)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_predicting_in_training_mode_moves_statistics_as_in_art(classifier):
    before = copy.deepcopy(classifier.model.state_dict())
    classifier.predict(X, training_mode=True, lam=0.3)
    after = classifier.model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    assert all(".adversarial." in name for name in moved)


def test_no_samples_give_no_scores(classifier):
    assert classifier.predict(X[:0], lam=0.3).shape == (0, 5)


def test_float64_and_integer_inputs_are_cast(classifier):
    expected = classifier.predict(X, lam=0.3)
    np.testing.assert_allclose(classifier.predict(X.astype(np.float64), lam=0.3), expected, rtol=1e-5)
    assert np.isfinite(classifier.predict(np.ones((2, 1, 6, 6), dtype=np.uint8), lam=0.3)).all()


def test_the_default_point_is_read_and_written_as_an_art_parameter(classifier):
    assert (classifier.lam, classifier.width) == (0.0, 1.0)
    classifier.set_params(lam=0.3)
    assert classifier.get_params()["lam"] == classifier.lam == classifier.model.default_point.lam == 0.3
    np.testing.assert_array_equal(classifier.predict(X), classifier.predict(X, lam=0.3))
    with pytest.raises(ValueError, match="width must be one of"):
        classifier.set_params(width=0.5)


def norm_of(difference: torch.Tensor, p: int) -> torch.Tensor:
    return torch.linalg.vector_norm(difference, p)


ONE_HOT = np.eye(5, dtype=np.float32)[Y]
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
    classifier.fit(X, Y, nb_epochs=1)  # so that there are gradients to lose, and a training mode
    expected = METHODS[name](plain(classifier, 0.3, width))
    if kind == "classifier":
        classifier.set_params(lam=0.3, width=width)
    else:
        classifier.lam = 1.0
    before, random_state = state(classifier), torch.get_rng_state()
    actual = METHODS[name](classifier if kind == "classifier" else classifier.at(0.3, width))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)
    assert changed(classifier, before) == []
    assert torch.equal(torch.get_rng_state(), random_state)


def test_every_method_of_arts_classifier_is_looked_at():
    looked_at = {name.split()[0] for name in METHODS}
    elsewhere = {"clone_for_refitting", "fit", "fit_generator", "get_params", "reset", "save", "set_params"}
    elsewhere |= {"set_batchnorm", "set_dropout", "set_multihead_attention", "layer_names", "model", "optimizer"}
    handed_on = {"channels_first", "device", "device_type", "loss", "loss_scale", "opt_level", "use_amp"}
    not_in_art = {"compute_loss_from_predictions", "estimator_params"}
    public = {name for name in dir(PyTorchClassifier) if not name.startswith("_")}
    assert public == looked_at | elsewhere | handed_on | not_in_art


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64])
@pytest.mark.parametrize(
    "name", ["predict", "loss_gradient", "class_gradient", "compute_loss", "get_activations", "custom_loss_gradient"]
)
def test_inputs_of_any_real_kind_are_cast(classifier, name, dtype):
    x = (X * 10).astype(np.uint8)  # whole numbers, which every kind holds
    arguments = {"loss_gradient": (Y,), "compute_loss": (Y,), "get_activations": (0,)}.get(name, ())
    for estimator in (classifier, classifier.at(0.3)):
        if name == "custom_loss_gradient":
            expected = estimator.custom_loss_gradient(norm_of, x.astype(np.float32), X, 0)
            actual = estimator.custom_loss_gradient(norm_of, x.astype(dtype), X.astype(np.float64), 0)
        else:
            expected = getattr(estimator, name)(x.astype(np.float32), *arguments)
            actual = getattr(estimator, name)(x.astype(dtype), *arguments)
        tolerance = 1e-2 if dtype is np.float16 else 1e-4  # gradients come in the precision of the inputs
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", [{}, {"preprocessing_defences": SpatialSmoothing(3)}], ids=["plain", "arrays"])
@pytest.mark.parametrize("labels", [Y, ONE_HOT, Y[:, None]], ids=["indices", "one-hot", "a column"])
def test_tensors_are_answered_with_tensors(options, labels):
    classifier = make_classifier(**options)
    x, y = torch.from_numpy(X), torch.from_numpy(labels)
    for estimator in (classifier, classifier.at(0.3)):
        pairs = [
            (estimator.loss_gradient(x, y), estimator.loss_gradient(X, labels)),
            (estimator.class_gradient(x, torch.from_numpy(Y)), estimator.class_gradient(X, Y)),
        ]
        if not options:  # ART has no way through a preprocessor of arrays here
            custom = estimator.custom_loss_gradient
            pairs.append((custom(norm_of, x, x.flip(0), 0), custom(norm_of, X, X[::-1], 0)))
            pairs.append((estimator.compute_loss(x, y).detach(), estimator.compute_loss(X, labels)))
        for actual, expected in pairs:
            torch.testing.assert_close(actual, torch.from_numpy(expected))


def test_gradients_take_indices_and_one_hot_labels_alike(classifier):
    one_hot = np.eye(5, dtype=np.float32)[Y]
    np.testing.assert_array_equal(classifier.loss_gradient(X, Y), classifier.loss_gradient(X, one_hot))
    np.testing.assert_array_equal(classifier.loss_gradient(X, Y[:, None]), classifier.loss_gradient(X, one_hot))
    np.testing.assert_array_equal(classifier.compute_loss(X, Y), classifier.compute_loss(X, one_hot))


def test_activations_are_found_by_the_index_they_have_in_a_plain_classifier(classifier):
    classifier.lam = 0.3
    expected = plain(classifier, 0.3).get_activations(X, 0)
    for _ in range(3):
        np.testing.assert_allclose(classifier.get_activations(X, 0), expected, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in classifier.model.pinned().modules())


def test_layers_have_the_names_they_have_in_a_plain_classifier(classifier):
    assert classifier.layer_names == classifier.at(0.3).layer_names == plain(classifier, 0.3).layer_names
    with pytest.raises(ValueError, match="layer must be one of body, shortcut, norm, head, or an index, got 'neck'"):
        classifier.get_activations(X, "neck")


@pytest.mark.parametrize("keyword", ["logits", "verbose", "raw", "standardise_output"])
def test_keywords_that_art_passes_are_ignored(classifier, keyword):
    np.testing.assert_array_equal(classifier.predict(X, lam=0.3, **{keyword: True}), classifier.predict(X, lam=0.3))


def test_an_unknown_keyword_is_refused(classifier):
    with pytest.raises(TypeError, match="predict takes lam and width as keywords, got lambda_"):
        classifier.predict(X, lambda_=0.3)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((2, 1, 6, 6), np.nan), "x must be finite"),
        (np.zeros((2, 3, 6, 6)), r"x must have shape \(N, 1, 6, 6\), got \(2, 3, 6, 6\)"),
        (np.zeros((2, 1, 6, 6), dtype=complex), "x must hold real numbers, got dtype complex128"),
    ],
)
def test_faulty_inputs_are_refused(classifier, x, message):
    with pytest.raises(ValueError, match=message):
        classifier.predict(x, lam=0.3)
    with pytest.raises(ValueError, match=message):
        classifier.fit(x, np.zeros(2))


@pytest.mark.parametrize("lam", [2.5, np.full(12, 2.5), np.full(12, np.nan)])
def test_a_lam_outside_its_range_is_refused(classifier, lam):
    with pytest.raises(ValueError, match="lam must lie in"):
        classifier.predict(X, lam=lam)


def test_a_single_sample_may_have_its_lam_in_a_list_or_an_array():
    model = to_conditional(Residual(), (0.0, 0.3))
    classifier = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5)
    expected = classifier.predict(X[:1], lam=0.3)
    for lam in ([0.3], np.array(0.3), np.float32(0.3), torch.tensor(0.3)):
        np.testing.assert_array_equal(classifier.predict(X[:1], lam=lam), expected)


@pytest.mark.parametrize("lam", ["a", ["a"] * 12, [None] * 12, np.ones(12, dtype=bool), True])
def test_a_lam_that_is_no_number_is_refused(classifier, lam):
    with pytest.raises(TypeError, match="lam must be one number"):
        classifier.predict(X, lam=lam)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_size_that_is_no_count_is_refused(classifier, batch_size):
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        classifier.predict(X, batch_size)


def test_flipped_and_foreign_arrays_are_read(classifier):
    flipped = X[:, :, :, ::-1]
    np.testing.assert_array_equal(classifier.predict(flipped), classifier.predict(flipped.copy()))
    np.testing.assert_array_equal(classifier.predict(X.astype(">f4")), classifier.predict(X))


def test_a_bfloat16_model_predicts():
    model = to_conditional(Residual().to(torch.bfloat16))
    classifier = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5)
    assert classifier.predict(X, lam=0.3).dtype == np.float32


def test_lams_that_are_not_one_per_sample_are_refused(classifier):
    with pytest.raises(ValueError, match="lam must be one number, or hold 12"):
        classifier.predict(X, lam=LAMS[:3])


def test_labels_out_of_range_are_refused_before_anything_is_trained(classifier):
    state = copy.deepcopy(classifier.model.state_dict())
    with pytest.raises(ValueError, match=r"y must hold class indices in \[0, 5\), got 9"):
        classifier.fit(X, np.full(12, 9), nb_epochs=1)
    torch.testing.assert_close(classifier.model.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_class_probabilities_are_trained_on(classifier, dtype):
    twin = copy.deepcopy(classifier)
    soft = (0.9 * ONE_HOT + 0.02).astype(dtype)
    for own, y in ((classifier, soft), (twin, ONE_HOT)):
        own.fit(X, y, batch_size=12, nb_epochs=1)
    hard_head, head = (own.model.network.head.weight for own in (twin, classifier))
    assert torch.isfinite(head).all()
    assert not torch.equal(head, hard_head)


def test_faulty_class_probabilities_are_refused(classifier):
    with pytest.raises(ValueError, match="y must hold probabilities of sum 1 per row, got 12 of 12"):
        classifier.fit(X, 0.5 * ONE_HOT)
    with pytest.raises(ValueError, match="y must hold one label per sample, 12, got 3"):
        classifier.fit(X, 0.9 * ONE_HOT[:3] + 0.02)


def test_fit_trains_at_the_default_point_and_ignores_what_art_ignores(classifier):
    classifier.lam = 0.3
    before = classifier.compute_loss(X, Y, reduction="mean")
    clean_side = copy.deepcopy(classifier.model.network.norm.clean.state_dict())
    classifier.fit(X, Y, batch_size=12, nb_epochs=20, unknown_to_art=True)
    assert classifier.compute_loss(X, Y, reduction="mean") < before
    torch.testing.assert_close(classifier.model.network.norm.clean.state_dict(), clean_side, rtol=0, atol=0)


def test_a_view_is_not_trained(classifier):
    with pytest.raises(RuntimeError, match="Train the OATClassifier it is from"):
        classifier.at(0.3).fit(X, Y)
    state = copy.deepcopy(classifier.model.state_dict())
    view = classifier.at(0.3)
    for call in (lambda: view.fit_generator(None), view.reset, view.clone_for_refitting):
        with pytest.raises(RuntimeError, match="Train the OATClassifier it is from"):
            call()
    torch.testing.assert_close(classifier.model.state_dict(), state, rtol=0, atol=0)


def test_fit_at_a_default_width_trains_that_width_and_leaves_the_norms_of_others_alone():
    classifier = make_classifier(widths=WIDTHS)
    classifier.set_params(lam=0.3, width=0.5)
    before, loss = copy.deepcopy(classifier.model.state_dict()), classifier.compute_loss(X, Y, reduction="mean")
    classifier.fit(X, Y, batch_size=12, nb_epochs=20)
    assert classifier.compute_loss(X, Y, reduction="mean") < loss
    after = classifier.model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert any(".by_width.0.adversarial." in name for name in moved)
    for other in (".by_width.1.", ".by_width.2.", ".clean."):
        assert not any(other in name and ".film." not in name for name in moved)


@pytest.mark.parametrize("name", ["set_dropout", "set_batchnorm", "set_multihead_attention"])
def test_no_layer_of_a_view_is_put_into_training_mode(name):
    model = to_conditional(MobileSqueezeExcite())
    view = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5).at(0.3)
    getattr(view, name)(train=False)
    with pytest.raises(RuntimeError, match="stays in evaluation mode"):
        getattr(view, name)(train=True)
    assert not any(module.training for module in view.model.modules())


@pytest.mark.parametrize("name", ["loss_gradient", "class_gradient", "compute_loss"])
def test_a_point_is_not_ignored_where_it_cannot_be_chosen(classifier, name):
    arguments = (X,) if name == "class_gradient" else (X, Y)
    with pytest.raises(TypeError, match=r"takes no lam. Use at\(lam, width\)"):
        getattr(classifier, name)(*arguments, lam=1.0)
    with pytest.raises(TypeError, match=r"takes no lam. Use at\(lam, width\)"):
        classifier.at(0.3).predict(X, lam=1.0)


def test_what_art_does_to_the_loss_of_a_view_does_not_reach_its_classifier(classifier):
    classifier.at(0.3).loss.reduction = "none"
    assert classifier.loss.reduction == "mean"


def test_a_view_made_before_training_follows_it(classifier):
    view = classifier.at(0.3)
    classifier.lam = 0.3
    classifier.fit(X, Y, nb_epochs=2)
    np.testing.assert_array_equal(view.predict(X), classifier.predict(X, lam=0.3))


@pytest.mark.parametrize("attack", [FastGradientMethod, ProjectedGradientDescent])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_arts_attacks_do_to_a_view_what_they_do_to_a_plain_classifier(attack, width):
    classifier = make_classifier(widths=(width, 1.0) if width < 1 else (1.0,))
    state = copy.deepcopy(classifier.model.state_dict())
    options = {"eps": 0.1, "num_random_init": 0} | ({"verbose": False} if attack is ProjectedGradientDescent else {})
    expected = attack(plain(classifier, 0.3, width), **options).generate(X, Y)
    np.testing.assert_allclose(attack(classifier.at(0.3, width), **options).generate(X, Y), expected, atol=1e-5)
    torch.testing.assert_close(classifier.model.state_dict(), state, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in classifier.model.parameters())


def test_the_model_is_one_and_the_same_for_whoever_asks(classifier):
    attack = AutoProjectedGradientDescent(classifier, eps=0.1, loss_type="cross_entropy", verbose=False)
    assert attack.estimator.model is classifier.model  # it takes the network, and forgets the classifier


def test_an_attack_that_takes_the_network_finds_the_default_point_and_leaves_weights_and_statistics(classifier):
    classifier.lam = 0.3
    before = copy.deepcopy(classifier.model.state_dict())
    attacked = [
        AutoProjectedGradientDescent(
            it, eps=0.1, max_iter=5, nb_random_init=1, loss_type="cross_entropy", verbose=False
        )
        for it in (classifier, classifier.at(0.3))
    ]
    examples = []
    for attack in attacked:
        np.random.seed(0)  # noqa: NPY002 - what ART draws from
        examples.append(attack.generate(X, Y))
    np.testing.assert_allclose(*examples, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.model.state_dict().items())


class Square(PreprocessorPyTorch):
    """A defense in torch that bends the gradient."""

    def __init__(self) -> None:
        super().__init__(device_type="cpu", is_fitted=True)

    def forward(self, x, y=None):
        return x.square(), y


PREPROCESSING = {
    "standardization": {"preprocessing": (0.4, 0.25)},
    "torch defense": {"preprocessing_defences": Square(), "preprocessing": (0.4, 0.25)},
    "array defense": {"preprocessing_defences": SpatialSmoothing(3)},
    "array defense, standardized": {
        "preprocessing_defences": SpatialSmoothing(3),
        "preprocessing": (0.4, 0.25),
    },
}


@pytest.mark.parametrize("options", PREPROCESSING.values(), ids=PREPROCESSING.keys())
def test_preprocessing_is_part_of_predictions_views_and_modules(options):
    classifier = make_classifier(**options)
    expected = plain(classifier, 0.3, **options).predict(X)
    np.testing.assert_allclose(classifier.predict(X, lam=0.3), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(classifier.at(0.3).predict(X), expected, rtol=1e-4, atol=1e-5)
    scores = classifier.at(0.3).as_module()(torch.from_numpy(X))
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", PREPROCESSING.values(), ids=PREPROCESSING.keys())
def test_gradients_pass_through_the_preprocessing_as_in_art(options):
    classifier = make_classifier(**options)
    expected = plain(classifier, 0.3, **options).loss_gradient(X, np.eye(5, dtype=np.float32)[Y])
    x = torch.from_numpy(X).requires_grad_()
    scores = classifier.at(0.3).as_module()(x)
    torch.nn.functional.cross_entropy(scores, torch.from_numpy(Y)).backward()
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-3, atol=1e-5)


def same_answers(first: OATClassifier, second: OATClassifier) -> None:
    for lam in (0.0, 0.3):
        np.testing.assert_array_equal(first.predict(X, lam=lam), second.predict(X, lam=lam))


COPIES = {"pickle": lambda it: pickle.loads(pickle.dumps(it)), "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES.keys())
def test_a_copy_answers_alike_trains_alone_and_writes_no_file(classifier, make_copy):
    before = set(Path(ART_DATA_PATH).glob("*"))
    classifier.fit(X, Y, nb_epochs=1)
    twin = make_copy(classifier)
    same_answers(classifier, twin)
    expected = classifier.predict(X, lam=0.0)
    twin.fit(X, Y, nb_epochs=1)
    assert not np.allclose(twin.predict(X, lam=0.0), expected)
    np.testing.assert_array_equal(classifier.predict(X, lam=0.0), expected)
    assert twin.device == classifier.device
    assert set(Path(ART_DATA_PATH).glob("*")) == before


@pytest.mark.parametrize("heads", ["shared", "per-width"])
@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES.keys())
def test_a_copy_of_a_slimmable_classifier_answers_alike_at_every_width_and_trains_alone(make_copy, heads):
    classifier = make_classifier(widths=WIDTHS, heads=heads)
    classifier.set_params(lam=0.3, width=0.75)
    twin = make_copy(classifier)
    assert (twin.lam, twin.width, twin.model.widths) == (0.3, 0.75, WIDTHS)
    before = [classifier.predict(X, lam=0.3, width=width) for width in WIDTHS]
    for width, expected in zip(WIDTHS, before, strict=True):
        np.testing.assert_array_equal(twin.predict(X, lam=0.3, width=width), expected)
        np.testing.assert_array_equal(make_copy(classifier.at(0.3, width)).predict(X), expected)
    OATTrainer(twin, attack=PGD(0.1, nb_steps=1)).fit(X, Y, nb_epochs=1, verbose=False)
    for width, expected in zip(WIDTHS, before, strict=True):
        np.testing.assert_array_equal(classifier.predict(X, lam=0.3, width=width), expected)
        assert not np.allclose(twin.predict(X, lam=0.3, width=width), expected)


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES.keys())
def test_a_copy_of_a_view_answers_alike(classifier, make_copy):
    view = classifier.at(0.3)
    np.testing.assert_array_equal(make_copy(view).predict(X), view.predict(X))


def test_a_view_copied_with_its_classifier_follows_the_copy(classifier):
    twin, view = copy.deepcopy([classifier, classifier.at(0.0)])
    twin.fit(X, Y, nb_epochs=1)
    np.testing.assert_array_equal(view.predict(X), twin.predict(X, lam=0.0))


def test_saved_weights_load_into_a_model_of_the_same_kind(classifier, tmp_path):
    classifier.save("weights", str(tmp_path))
    other = make_classifier()
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.zero_()
    other.model.load_state_dict(torch.load(tmp_path / "weights.model", weights_only=True))
    same_answers(classifier, other)


def test_a_clone_for_refitting_is_fresh_and_keeps_the_parameters(classifier):
    classifier.lam = 0.3
    clone = classifier.clone_for_refitting()
    assert isinstance(clone, OATClassifier)
    assert clone.lam == 0.3
    assert torch.equal(clone.model.encoding.table, classifier.model.encoding.table)
    assert not np.allclose(clone.predict(X), classifier.predict(X))
    before = classifier.predict(X)
    clone.fit(X, Y, nb_epochs=1)
    np.testing.assert_array_equal(classifier.predict(X), before)


def test_a_clone_of_a_slimmable_classifier_for_refitting_has_every_width_and_fresh_weights():
    classifier = make_classifier(widths=WIDTHS, heads="per-width")
    classifier.width = 0.75
    clone = classifier.clone_for_refitting()
    assert (clone.width, clone.model.widths) == (0.75, WIDTHS)
    for width in WIDTHS:
        assert not np.allclose(clone.predict(X, lam=0.3, width=width), classifier.predict(X, lam=0.3, width=width))
        clean, adversarial = (clone.predict(X, lam=lam, width=width) for lam in (0.0, 1.0))
        np.testing.assert_array_equal(clean, adversarial)  # FiLM and statistics are reset


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_clone_for_refitting_has_an_optimizer_of_the_same_kind(classifier, kind):
    classifier.set_params(optimizer=kind(classifier.model.parameters(), lr=0.02, weight_decay=0.1))
    clone = classifier.clone_for_refitting()
    (group,) = clone.optimizer.param_groups
    assert type(clone.optimizer) is kind
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.1)
    assert [id(parameter) for parameter in group["params"]] == [id(p) for p in clone.model.parameters()]


def test_nothing_is_cloned_without_an_optimizer():
    classifier = OATClassifier(shaken(Residual(), torch.float32), torch.nn.CrossEntropyLoss(), (1, 6, 6), 5)
    with pytest.raises(ValueError, match="optimizer must be given for a clone to be refitted, got None"):
        classifier.clone_for_refitting()


def test_the_parameters_that_are_read_can_be_written_back(classifier):
    classifier.lam = 0.3
    for estimator in (classifier, classifier.at(0.3)):
        expected = estimator.predict(X)
        estimator.set_params(**estimator.get_params())
        np.testing.assert_array_equal(estimator.predict(X), expected)
        with pytest.raises(ValueError, match="model must stay the one"):
            estimator.set_params(model=Residual())


def test_a_reset_network_is_the_identity_in_lam_again(classifier):
    classifier.reset()
    np.testing.assert_array_equal(classifier.predict(X, lam=0.0), classifier.predict(X, lam=1.0))


def test_a_model_that_is_not_conditional_is_refused():
    with pytest.raises(TypeError, match="convert it: to_conditional"):
        OATClassifier(Residual(), torch.nn.CrossEntropyLoss(), (1, 6, 6), 5)


def test_every_misfit_of_the_parts_is_named_at_once():
    network = Residual()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)  # of the plain network, which is not trained
    with pytest.raises(
        ValueError, match=r"optimizer must hold parameters of the converted model.*nb_classes scores"
    ) as caught:
        OATClassifier(to_conditional(network), torch.nn.CrossEntropyLoss(), (1, 6, 6), 7, optimizer)
    assert "got [1, 5]" in str(caught.value)


def test_an_input_shape_that_does_not_fit_the_network_is_refused():
    with pytest.raises(ValueError, match=r"input_shape \(3, 6, 6\) must fit the network"):
        OATClassifier(shaken(Residual()), torch.nn.CrossEntropyLoss(), (3, 6, 6), 5)


@pytest.mark.parametrize("wrap", [lambda scores: (scores, scores), lambda scores: {"scores": scores}])
def test_a_network_that_gives_more_than_scores_is_refused_with_the_way_out(wrap):
    class Wordy(Residual):
        def forward(self, x):
            return wrap(super().forward(x))

    with pytest.raises(ValueError, match=r"got (tuple|dict)\. Wrap it in a module that returns the scores alone"):
        OATClassifier(to_conditional(Wordy()), torch.nn.CrossEntropyLoss(), (1, 6, 6), 5)


UNNAMED = {
    "loss_gradient": lambda c: c.loss_gradient(X, Y),
    "loss_gradient in training mode": lambda c: c.loss_gradient(X, Y, training_mode=True),
    "class_gradient": lambda c: c.class_gradient(X),
    "class_gradient in training mode": lambda c: c.class_gradient(X, training_mode=True),
    "compute_loss": lambda c: c.compute_loss(X, Y),
    "custom_loss_gradient": lambda c: c.custom_loss_gradient(norm_of, X, X[::-1], 0),
    "_predict_framework": lambda c: c._predict_framework(torch.from_numpy(X)),
    "an attack by gradients": lambda c: FastGradientMethod(c, eps=0.1).generate(X),
}


def told(call, *arguments) -> list[str]:
    """What is said of the default point, all of it where the call is written."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*arguments)
    found = [warning for warning in caught if issubclass(warning.category, DefaultPointWarning)]
    assert {Path(warning.filename).name for warning in found} <= {"test_oat.py"}
    return [str(warning.message) for warning in found]


@pytest.mark.parametrize("name", UNNAMED)
def test_an_attack_at_a_default_point_that_nobody_named_warns_once(name):
    classifier = make_classifier(lam=None)
    (message,) = told(UNNAMED[name], classifier)
    assert "attacked at lam 0, the least robust of" in message
    assert "Attack classifier.at(lam)" in message
    assert told(UNNAMED[name], classifier) == []


@pytest.mark.parametrize("name", UNNAMED)
def test_where_the_lam_is_named_or_the_only_one_an_attack_warns_of_nothing(name):
    named, through_model = make_classifier(lam=None), make_classifier(lam=None)
    named.lam = 0.0
    through_model.model.default_point = OperatingPoint(0.0)
    model = to_conditional(Residual(), (0.0,))
    only = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))
    for classifier in (named, through_model, only):
        assert told(UNNAMED[name], classifier) == []


def test_accuracy_has_a_default_and_attacks_that_are_only_made_are_no_attacks():
    classifier = make_classifier(lam=None)
    assert told(classifier.predict, X) == []
    assert told(classifier.model, torch.from_numpy(X)) == []
    assert told(lambda: ProjectedGradientDescent(classifier, verbose=False)) == []
    assert told(lambda: AutoProjectedGradientDescent(classifier, eps=0.1, eps_step=0.05, verbose=False)) == []
    assert told(FastGradientMethod(classifier.at(1.0), eps=0.1).generate, X) == []


def test_training_one_point_that_nobody_named_warns_once_and_says_what_trains_all():
    classifier = make_classifier(lam=None)
    (message,) = told(lambda: classifier.fit(X, Y, nb_epochs=1))
    assert "at lam 0 alone" in message
    assert "OATTrainer" in message
    assert told(lambda: classifier.fit(X, Y, nb_epochs=1)) == []
    loader = torch.utils.data.DataLoader(list(zip(X, ONE_HOT, strict=True)), batch_size=6)
    generator = PyTorchDataGenerator(loader, size=12, batch_size=6)
    classifier = make_classifier(lam=None)
    assert len(told(lambda: classifier.fit_generator(generator, nb_epochs=1))) == 1
    assert told(lambda: make_classifier().fit(X, Y, nb_epochs=1)) == []


def test_arts_own_trainer_is_told_of_both():
    classifier = make_classifier(lam=None)
    trainer = AdversarialTrainer(classifier, FastGradientMethod(classifier, eps=0.1), ratio=0.5)
    messages = told(lambda: trainer.fit(X, ONE_HOT, batch_size=6, nb_epochs=1))
    assert len(messages) == 2


@pytest.mark.parametrize("kind", [ProjectedGradientDescent, AutoProjectedGradientDescent])
def test_training_every_lam_by_an_attack_of_art_warns_of_nothing(kind):
    classifier = make_classifier(lam=None)
    attack = kind(classifier, eps=0.1, eps_step=0.05, max_iter=1, verbose=False)
    assert told(lambda: OATTrainer(classifier, attack=attack).fit(X, Y, nb_epochs=1, verbose=False)) == []


def taken_over(classifier: OATClassifier) -> OATClassifier:
    other = make_classifier(lam=None)
    parameters = classifier.get_params()
    other.set_params(**{name: parameters[name] for name in parameters if name not in ("model", "optimizer")})
    return other


@pytest.mark.parametrize(
    "make_copy", [*COPIES.values(), OATClassifier.clone_for_refitting], ids=[*COPIES.keys(), "clone_for_refitting"]
)
@pytest.mark.parametrize("lam", [None, 0.0, 0.3])
def test_whether_the_lam_is_named_travels_with_copies(make_copy, lam):
    twin = make_copy(make_classifier(lam=lam))
    assert twin.model.is_lam_named == (lam is not None)
    assert twin.lam == (lam or 0.0)


def test_parameters_that_are_taken_over_whole_name_no_lam_and_one_that_is_set_does():
    classifier = make_classifier(lam=None)
    classifier.set_params(**classifier.get_params())
    assert not classifier.model.is_lam_named
    assert not taken_over(classifier).model.is_lam_named
    assert taken_over(make_classifier(lam=0.3)).model.is_lam_named
    classifier.set_params(lam=0.0)
    assert classifier.model.is_lam_named


def test_a_width_names_no_lam():
    classifier = make_classifier(widths=WIDTHS, lam=None)
    classifier.width = 0.5
    assert classifier.model.default_point == OperatingPoint(0.0, 0.5)
    assert not classifier.model.is_lam_named
