import dataclasses

import pytest
import torch
from torch import nn

from art_oat.attacks import PGD
from art_oat.training import hybrid_loss
from benchmarks.neighbors.regional import PathPGD, Places, RegionalLoss, regional
from tests.benchmarks.neighbors.trainers import RECIPE, few_digits, trainer
from tests.networks import images

Y = torch.tensor([0, 1, 2, 0, 1, 2])
LAM = torch.tensor([0.0, 0.2, 0.2, 1.0, 1.0, 1.0], dtype=torch.float64)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def attacked(attack, network, **options):
    return attack(network, images(6), Y, generator=torch.Generator().manual_seed(1), clip_values=(0, 1), **options)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_the_end_of_the_path_is_what_pgd_finds(norm, factor, network):
    pgd, places = PGD(0.2, 0.05, 5, norm), Places(0.0, torch.ones(3))
    found, expected = (attacked(it.scaled(factor), network) for it in (PathPGD(pgd, places), pgd))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert not torch.equal(expected, images(6))


def test_a_place_between_two_iterates_is_on_the_line_between_them(network):
    start, *iterates = (
        attacked(PGD(0.2, 0.05, nb_steps), network) if nb_steps else attacked(PGD(0.2, 1e-12, 1), network)
        for nb_steps in range(5)
    )
    found = attacked(PathPGD(PGD(0.2, 0.05, 4), Places(0.0, torch.tensor([0.0, 0.25, 0.625]))), network)
    expected = [start, iterates[0], (iterates[1] + iterates[2]) / 2]
    for label in range(3):
        torch.testing.assert_close(found[label == Y], expected[label][label == Y], rtol=0, atol=1e-9)


def test_places_are_drawn_anew_each_step_within_their_range_and_inputs_are_augmented_as_before():
    generator = torch.Generator().manual_seed(0)
    places = Places(0.5, torch.ones(1000), lambda x, _: x + 1)
    assert places(torch.zeros(2), generator).tolist() == [1, 1]
    first = places.by_class
    places(torch.zeros(2), generator)
    assert 0.5 <= first.min() < 0.51
    assert 0.99 < first.max() <= 1
    assert not torch.equal(first, places.by_class)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5])])
@pytest.mark.parametrize("is_soft", [False, True])
def test_the_labels_of_attacked_samples_are_smoothed_by_alpha_times_their_place(weight, is_soft):
    torch.manual_seed(0)
    logits, logits_adv = torch.randn(6, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    y = nn.functional.one_hot(Y).double() if is_soft else Y
    own = nn.CrossEntropyLoss(None if weight is None else weight.double(), label_smoothing=0.1)
    loss = RegionalLoss(0.4, Places(0.0, torch.full((3,), 0.5)))
    # 0.1 of the criterion, and 0.4 * 0.5 of what that leaves
    more = nn.CrossEntropyLoss(own.weight, label_smoothing=1 - 0.9 * 0.8)
    at_one = logits[1:], logits_adv, y[1:], torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(loss(*at_one, own), hybrid_loss(*at_one, more))
    assert dataclasses.replace(loss, alpha=0.0)(logits, logits_adv, y, LAM, own) == pytest.approx(
        float(hybrid_loss(logits, logits_adv, y, LAM, own))
    )


def test_a_step_with_perturbed_weights_trains_by_points_on_the_path():
    data = few_digits()
    own = trainer(data, weight_perturbation=0.01)
    own.fit(*regional(0.5, 0.2)(own, data, RECIPE).train, batch_size=30, nb_epochs=1, verbose=False)
    places = own.method.augmentation
    assert places is own.method.attack.places is own.method.loss.places
    assert len(set(places.by_class.tolist())) == 10


def test_another_loss_or_attack_is_refused():
    for changes in ({"loss": "trades"}, {"attack": "n-fgsm", "eps_step": None}):
        with pytest.raises(ValueError, match="needs PGD and the hybrid loss"):
            regional(0.5, 0.2)(trainer(few_digits(), **changes), few_digits(), RECIPE)
