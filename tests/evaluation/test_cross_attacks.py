import numpy as np
import torch
from torch import nn

from art_oat import PGD, TransferMatrix
from art_oat.evaluation import EvaluationOptions
from art_oat.evaluation.cross_attacks import Mixture, right_after


class Score(nn.Module):
    """Of two classes, the second where ``weights x + bias`` is positive."""

    def __init__(self, weights: list[float], bias: float) -> None:
        super().__init__()
        self.weights, self.bias = torch.tensor(weights, dtype=torch.float32), bias

    def forward(self, x):
        score = x.flatten(1) @ self.weights + self.bias
        return torch.stack([-score, score], dim=1)


def matrix_of(first: nn.Module, second: nn.Module, x: torch.Tensor, eps: float) -> TransferMatrix:
    """Attack two given networks, each and both at once, as ``measure`` does with those of a classifier."""
    networks, y = [first, second], torch.ones(len(x), dtype=torch.long)
    attack = PGD(eps, eps / 4, 8, has_random_start=False)
    targets = [*networks, Mixture(networks)]
    right = right_after([(it, attack) for it in targets], networks, x, y, None, EvaluationOptions(2))
    return TransferMatrix((0.0, 1.0), right, eps)


def test_a_random_dial_that_survives_attacks_on_single_lams_falls_to_one_on_all_at_once():
    x = torch.full((5, 2), 0.1)  # each network reads one coordinate, so an attack on one leaves the other alone
    matrix = matrix_of(Score([1, 0], 0), Score([0, 1], 0), x, eps=0.2)
    np.testing.assert_array_equal(matrix.robust, [[0, 1], [1, 0]])
    np.testing.assert_array_equal(matrix.shares[1:3, -1], [0.5, 0.5])  # as if drawing kept half
    np.testing.assert_array_equal(matrix.at_once, [0, 0])
    assert matrix.random_dial == matrix.random_dial_gain == 0


def test_a_random_dial_between_lams_that_contradict_gains_against_one_query_and_nothing_against_several():
    x = torch.zeros(5, 1)  # one falls below -0.1, the other above 0.1: no input fools both
    matrix = matrix_of(Score([1], 0.1), Score([-1], 0.1), x, eps=0.2)
    np.testing.assert_array_equal(matrix.worst_case, [0, 0])
    assert matrix.random_dial_gain == 0.5
    assert matrix.random_dial_asked_again == 0


def test_the_mixture_gives_the_logarithm_of_the_mean_probability():
    torch.manual_seed(0)
    networks = [nn.Linear(4, 3).double() for _ in range(5)]
    x = torch.randn(7, 4, dtype=torch.double)
    expected = torch.stack([network(x).softmax(dim=1) for network in networks]).mean(dim=0).log()
    torch.testing.assert_close(Mixture(networks)(x), expected)


def test_a_mixture_of_certain_networks_is_finite():
    networks = [Score([1000.0], 0), Score([-1000.0], 0)]
    torch.testing.assert_close(Mixture(networks)(torch.ones(1, 1)), torch.full((1, 2), 0.5).log())
