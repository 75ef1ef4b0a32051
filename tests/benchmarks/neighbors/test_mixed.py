import numpy as np
import pytest
import torch
from scipy.special import erf, softmax
from torch import nn

from benchmarks.neighbors.mixed import Amplified, Mixed, mixed

GENERATOR = torch.Generator().manual_seed(0)
ACCURATE, ROBUST = (3 * torch.randn(5, 10, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
TRANSFORM = Amplified(scale=2.0, power=3.0, shift=-0.4)


def by_hand(scores: np.ndarray, transform: Amplified) -> np.ndarray:
    normed = (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True) + transform.shift
    clamped = normed * (1 + erf(normed / np.sqrt(2))) / 2
    return transform.scale * np.sign(clamped) * np.abs(clamped) ** transform.power


def test_the_transformation_is_that_of_the_formula():
    expected = by_hand(ROBUST.numpy(), TRANSFORM)
    torch.testing.assert_close(TRANSFORM(ROBUST).numpy(), expected, rtol=1e-4, atol=1e-4)  # layer norm adds 1e-5


@pytest.mark.parametrize("transform", [None, TRANSFORM])
def test_a_mixture_is_the_logarithm_of_mixed_probabilities(transform):
    robust = ROBUST if transform is None else transform(ROBUST)
    shares = [softmax(scores.numpy(), axis=1) for scores in (ACCURATE, robust)]
    expected = np.log(0.3 * shares[0] + 0.7 * shares[1])
    np.testing.assert_allclose(mixed(ACCURATE, ROBUST, 0.7, transform).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("second", "answer"), [(0.05, 0), (0.10, 1)])
def test_a_margin_beyond_the_odds_decides_whatever_the_accurate_one_says(second, answer):
    robust = torch.tensor([[0.40, second, *[(0.60 - second) / 8] * 8]]).log()  # the odds (1 - alpha) / alpha are 1 / 3
    fooled = torch.full((1, 10), -30.0).index_fill(1, torch.tensor([1]), 0.0)
    assert int(mixed(fooled, robust, 0.75).argmax()) == answer


def test_gradients_reach_the_inputs_through_both_networks_where_probabilities_round_to_zero():
    accurate, robust = (nn.Linear(4, 10).double() for _ in range(2))
    x = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
    for network in (accurate, robust):
        nn.init.normal_(network.weight, std=1000.0, generator=torch.Generator().manual_seed(1))
    scores = Mixed(accurate, robust, 0.6, Amplified(scale=1000.0))(x)
    margin = scores.topk(2).values
    (gradient,) = torch.autograd.grad(margin[0, 0] - margin[0, 1], x)
    assert scores.exp().min() == 0
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
