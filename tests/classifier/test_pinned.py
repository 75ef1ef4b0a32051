import copy

import numpy as np
import pytest
import torch

from art_oat import OATClassifier, to_conditional
from tests.classifier.subjects import X, Y, snapshot
from tests.networks import MobileSqueezeExcite


@pytest.mark.parametrize(
    "train",
    [
        lambda view: view.fit(X, Y),
        lambda view: view.fit_generator(None),
        lambda view: view.reset(),
        lambda view: view.clone_for_refitting(),
    ],
)
def test_a_view_is_not_trained(classifier, train):
    before = snapshot(classifier)
    with pytest.raises(RuntimeError, match="Train the OATClassifier it is from"):
        train(classifier.at(0.3))
    assert snapshot(classifier) == before


@pytest.mark.parametrize("name", ["set_dropout", "set_batchnorm", "set_multihead_attention"])
def test_no_layer_of_a_view_is_put_into_training_mode(name):
    model = to_conditional(MobileSqueezeExcite())
    view = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5).at(0.3)
    getattr(view, name)(train=False)
    with pytest.raises(RuntimeError, match="stays in evaluation mode"):
        getattr(view, name)(train=True)
    assert not any(module.training for module in view.model.modules())


def test_what_art_does_to_the_loss_of_a_view_does_not_reach_its_classifier(classifier):
    classifier.at(0.3).loss.reduction = "none"
    assert classifier.loss.reduction == "mean"


def test_a_view_made_before_training_follows_it_also_where_both_are_copied_together(classifier):
    classifier.lam = 0.3
    for own, view in ((classifier, classifier.at(0.0)), copy.deepcopy([classifier, classifier.at(0.0)])):
        own.fit(X, Y, nb_epochs=2)
        np.testing.assert_array_equal(view.predict(X), own.predict(X, lam=0.0))
