"""Attacks on the dial as a whole follow what they say, and what they leave is counted image by image."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.between import Attacked, Drawn, MeanLoss, neighbors, with_between


def test_the_cross_entropy_of_the_mean_loss_is_the_mean_of_the_cross_entropies_and_so_is_its_gradient():
    torch.manual_seed(0)
    networks = [nn.Linear(4, 3).double() for _ in range(5)]
    x, y = torch.randn(7, 4, dtype=torch.float64, requires_grad=True), torch.arange(7) % 3
    expected = torch.stack([F.cross_entropy(network(x), y) for network in networks]).mean()
    actual = F.cross_entropy(MeanLoss(networks)(x), y)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (actual, expected)))


def test_a_drawn_network_answers_every_pass_by_one_of_its_networks_and_by_each_in_the_end():
    networks = [nn.Linear(2, 2) for _ in range(3)]
    drawn, x = Drawn(networks), torch.ones(1, 2)
    scores = [network(x) for network in networks]
    answered = [[torch.equal(given, own) for own in scores] for given in (drawn(x) for _ in range(40))]
    assert {row.index(True) for row in answered} == {0, 1, 2}


def test_lams_between_lie_at_equal_distances_and_their_neighbors_are_trained():
    assert with_between([0, 0.1, 1], 1) == [0, 0.05, 0.1, 0.55, 1]
    assert with_between([0, 0.4], 3) == [0, 0.1, 0.2, 0.3, 0.4]
    assert [neighbors(lam, [0, 0.1, 1]) for lam in (0, 0.05, 0.1, 1)] == [[0.1], [0, 0.1], [0, 1], [0.1]]


def test_an_image_is_left_if_it_is_right_as_it_is_and_after_every_attacker():
    def at_all_lams(*images: int) -> np.ndarray:
        return np.array([images] * 3, dtype=bool)

    clean, by_own, by_other = at_all_lams(1, 1, 1, 0), at_all_lams(0, 1, 1, 1), at_all_lams(1, 0, 1, 1)
    found = Attacked([0, 1], [0, 0.5, 1], clean, {0.5: by_own, "other": by_other}, at_all_lams(0, 0, 1, 0))
    assert found.left(0.5, [0.5]).tolist() == [False, True, True, False]
    assert found.left(0.5, [0.5, "other"]).tolist() == [False, False, True, False]
