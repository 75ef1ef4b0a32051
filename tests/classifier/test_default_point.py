import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoProjectedGradientDescent, FastGradientMethod, ProjectedGradientDescent
from art.data_generators import PyTorchDataGenerator
from art.defences.trainer import AdversarialTrainer

from art_oat import OATClassifier, OATTrainer, OperatingPoint, to_conditional
from art_oat.classifier import DefaultPointWarning
from tests.classifier.subjects import COPIES, ONE_HOT, X, Y, norm_of
from tests.conftest import make_classifier
from tests.networks import WIDTHS, Residual


def test_the_default_point_is_read_and_written_as_an_art_parameter():
    classifier = make_classifier(widths=WIDTHS)
    assert (classifier.lam, classifier.width) == (0.0, 1.0)
    classifier.set_params(lam=0.3, width=0.5)
    assert classifier.model.default_point == OperatingPoint(0.3, 0.5)
    assert (classifier.get_params()["lam"], classifier.get_params()["width"]) == (classifier.lam, classifier.width)
    np.testing.assert_array_equal(classifier.predict(X), classifier.predict(X, lam=0.3, width=0.5))


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


def test_an_attack_that_takes_the_network_finds_that_of_the_classifier(classifier):
    attack = AutoProjectedGradientDescent(classifier, eps=0.1, loss_type="cross_entropy", verbose=False)
    assert attack.estimator.model is classifier.model


# -- Who has not named a lam is told where an attack or a training takes the least robust one. ------------------------

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
    assert {Path(warning.filename).name for warning in found} <= {"test_default_point.py"}
    return [str(warning.message) for warning in found]


@pytest.mark.parametrize("call", UNNAMED.values(), ids=UNNAMED.keys())
def test_an_attack_warns_once_unless_the_lam_is_named_or_the_only_one(call):
    unnamed, named, through_model = (make_classifier(lam=None) for _ in range(3))
    named.lam = 0.0
    through_model.model.default_point = OperatingPoint(0.0)
    model = to_conditional(Residual(), (0.0,))
    only = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))
    (message,) = told(call, unnamed)
    assert "attacked at lam 0, the least robust of" in message
    assert "Attack classifier.at(lam)" in message
    for classifier in (unnamed, named, through_model, only):
        assert told(call, classifier) == []


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
    assert len(told(lambda: trainer.fit(X, ONE_HOT, batch_size=6, nb_epochs=1))) == 2


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


def written_back(classifier: OATClassifier) -> OATClassifier:
    classifier.set_params(**classifier.get_params())
    return classifier


@pytest.mark.parametrize("lam", [None, 0.0, 0.3])
@pytest.mark.parametrize(
    "make", [*COPIES.values(), OATClassifier.clone_for_refitting, taken_over, written_back], ids=lambda it: it.__name__
)
def test_whether_the_lam_is_named_travels_with_copies_and_with_parameters_that_are_taken_over_whole(make, lam):
    twin = make(make_classifier(lam=lam))
    assert twin.lam == (lam or 0.0)
    if not (make is taken_over and lam == 0.0):  # to write the lam that is there says nothing
        assert twin.model.is_lam_named == (lam is not None)


def test_to_set_the_lam_names_it_and_to_set_the_width_does_not():
    classifier = make_classifier(widths=WIDTHS, lam=None)
    classifier.width = 0.5
    assert classifier.model.default_point == OperatingPoint(0.0, 0.5)
    assert not classifier.model.is_lam_named
    classifier.set_params(lam=0.0)
    assert classifier.model.is_lam_named
