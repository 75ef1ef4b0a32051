import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat import fold
from art_oat.condition import Condition, conditioned
from benchmarks.neighbors.weight_noise import Noise
from benchmarks.weight_dial import Learned, LowRank, WeightDial, dial_weights
from tests.networks import images, shaken, small_cnn

CONV = nn.Conv2d(3, 4, 3, stride=2, padding=1)
DIRECTIONS = {"learned": Learned(CONV), "of rank 2": LowRank(CONV, 2), "drawn": Noise(CONV, 0)}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_dialed_convolution_has_its_weight_moved_by_lam_for_each_sample_pinned_and_folded(name):
    dial, x = WeightDial(copy.deepcopy(CONV), copy.deepcopy(DIRECTIONS[name])), torch.randn(2, 3, 8, 8)
    for parameter in dial.parameters():
        nn.init.normal_(parameter)
    step, lams = dial.direction.weight(), torch.tensor([0.3, 0.8])
    assert step.shape == dial.conv.weight.shape
    expected = [F.conv2d(x, dial.conv.weight + lam * step, dial.conv.bias, stride=2, padding=1) for lam in lams]
    with conditioned(Condition(lams, torch.zeros(2, 1))):
        torch.testing.assert_close(dial(x), torch.stack([expected[0][0], expected[1][1]]), rtol=1e-4, atol=1e-4)
    condition = Condition(lams[:1], torch.zeros(1, 1))
    with conditioned(condition):
        answers = [dial(x), dial.fold(condition)(x)]
    twin = dial.pin()
    dial.update(twin, condition, torch.tensor([0]))
    for actual in (*answers, twin(x)):
        torch.testing.assert_close(actual, expected[0], rtol=1e-4, atol=1e-4)


def test_a_network_whose_weights_are_dialed_answers_alike_pinned_and_folded_and_as_before_at_lam_0():
    model, x = shaken(small_cnn()), images(3)
    before = model(x, lam=0.0)
    new = dial_weights(model, lambda conv: Noise(conv, 1))
    assert len(new) == sum(isinstance(part, WeightDial) for part in model.network.modules()) > 0
    torch.testing.assert_close(model(x, lam=0.0), before)
    expected = model(x, lam=0.4)
    assert not torch.allclose(expected, model(x, lam=0.0))
    torch.testing.assert_close(fold(model, 0.4)(x), expected)
    torch.testing.assert_close(model.pinned(0.4)(x), expected)
