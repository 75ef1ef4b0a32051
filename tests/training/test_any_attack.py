"""Attacks from outside train a network as our own do."""

import random

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import AutoProjectedGradientDescent, FastGradientMethod, ProjectedGradientDescent
from torch import nn, optim

from art_oat import PGD, OATClassifier, OATTrainer
from tests.networks import Residual, images, labels, shaken

EPS, EPS_STEP, NB_STEPS = 0.2, 0.08, 3
X, Y = images(20), labels(20)


def exact_classifier() -> OATClassifier:
    torch.manual_seed(0)
    model = shaken(Residual())  # float64: what differs by rounding alone is equal
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))


def own(classifier):
    return PGD(EPS, EPS_STEP, NB_STEPS, has_random_start=False)


def from_torchattacks(classifier):
    module = classifier.at(0.1).as_module()
    return torchattacks.PGD(module, eps=EPS, alpha=EPS_STEP, steps=NB_STEPS, random_start=False)


def from_art(classifier):
    return ProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS_STEP, max_iter=NB_STEPS)


def a_callable(classifier):
    return lambda network, x, y: own(classifier)(network, x, y, clip_values=(0, 1))


def one_step(make) -> dict[str, torch.Tensor]:
    classifier = exact_classifier()
    OATTrainer(classifier, attack=make(classifier), seed=0).fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
    return classifier.model.state_dict()


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [(from_torchattacks, 1e-9), (a_callable, 1e-9), (from_art, 1e-4)],  # ART's attacks compute in float32
)
def test_a_step_with_pgd_from_outside_leads_to_the_weights_that_our_own_leads_to(make, tolerance):
    torch.testing.assert_close(one_step(make), one_step(own), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "make",
    [
        lambda c: AutoProjectedGradientDescent(c, eps=EPS, eps_step=0.1, max_iter=2, nb_random_init=1, verbose=False),
        lambda c: FastGradientMethod(c.at(0.3), eps=EPS, num_random_init=1),
        lambda c: torchattacks.APGD(c.at(1.0).as_module(), eps=EPS, steps=2),
        lambda c: torchattacks.MIFGSM(c.at(1.0).as_module(), eps=EPS, steps=2),
        lambda c: lambda network, x, y: x * torch.rand_like(x),
    ],
)
def test_training_with_any_attack_is_repeatable_and_leaves_generators_and_the_mode_alone(make):
    states = []
    for _ in range(2):
        classifier = exact_classifier()
        trainer = OATTrainer(classifier, attack=make(classifier), seed=3)
        before = global_generators()
        trainer.fit(X, Y, (X, Y), batch_size=10, nb_epochs=2, verbose=False)
        assert global_generators() == before
        assert not classifier.model.training
        states.append(classifier.model.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def global_generators() -> tuple[object, ...]:
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002 - ART's attacks draw from it
    return torch.get_rng_state().tolist(), numpy_state, random.getstate()


def test_validation_is_by_the_attack_from_outside():
    classifier = exact_classifier()
    trainer = OATTrainer(classifier, attack=lambda network, x, y: x, seed=0)  # an attack that does nothing
    trainer.fit(X, Y, (X, Y), batch_size=10, nb_epochs=1, verbose=False)
    assert all(point.clean == point.robust for point in trainer.history[0].validation)


def test_what_is_changed_on_an_attack_counts_from_the_next_fit_on():
    classifier = exact_classifier()
    attack = from_art(classifier)
    trainer = OATTrainer(classifier, attack=attack, seed=0)
    attack.set_params(eps=1e-9, eps_step=1e-9)  # as good as none
    trainer.fit(X, Y, (X, Y), batch_size=10, nb_epochs=1, verbose=False)
    assert all(point.clean == point.robust for point in trainer.history[0].validation)
