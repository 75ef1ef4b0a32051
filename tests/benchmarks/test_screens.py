import math

import pytest
import torch

from art_oat import StratifiedSampling
from art_oat.training import hybrid_loss
from benchmarks.screens import is_robust, level_loss, margins
from tests.networks import LAMBDAS


def test_a_margin_is_the_lead_of_the_best_wrong_score():
    logits, y = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]]), torch.tensor([1, 0])
    assert margins(logits, y).tolist() == [-2.0, 3.0]


def test_what_stands_on_a_linear_network_is_what_lies_farther_from_the_plane_than_the_attack_reaches():
    weight, eps = torch.tensor([1.0, -2.0, 0.5]), 0.03
    x = 0.5 + 0.3 * torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) - 0.15  # no clip value is met

    def network(x):
        score = (x - 0.5) @ weight
        return torch.stack([-score, score], dim=1)

    score = (x - 0.5) @ weight
    y = (score > 0).long()
    expected = score.abs() > eps * weight.abs().sum()
    assert 0.2 < expected.float().mean() < 0.8
    assert torch.equal(is_robust(network, x, y, eps), expected)


def test_level_losses_weigh_clean_and_attacked_terms_alike():
    lam, y = StratifiedSampling().draw(LAMBDAS, 60).float(), torch.zeros(60, dtype=torch.long)
    right, wrong = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    nb_attacked = int((lam > 0).sum())
    low, high = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    mixed = level_loss(right.expand(60, 2), wrong.expand(nb_attacked, 2), y, lam)
    assert float(mixed) == pytest.approx((low + high) / 2, rel=1e-5)
    assert float(hybrid_loss(right.expand(60, 2), wrong.expand(nb_attacked, 2), y, lam)) != pytest.approx(float(mixed))
