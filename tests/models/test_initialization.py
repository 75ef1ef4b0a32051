import pytest
import torch
from torch import nn

from art_oat.models.initialization import initialize


@pytest.mark.parametrize(("before", "after", "kernel", "stride"), [(64, 128, 3, 1), (256, 128, 1, 1), (8, 1024, 5, 2)])
def test_convolutions_have_variance_2_over_fan_out(before, after, kernel, stride):
    convolution = nn.Conv2d(before, after, kernel, stride)
    initialize(convolution)
    expected = 2 / (after * kernel**2)
    weight = convolution.weight.detach().double()
    # of n draws the variance has a relative standard error of sqrt(2 / n), the mean one of sqrt(expected / n)
    assert weight.var().item() == pytest.approx(expected, rel=5 * (2 / weight.numel()) ** 0.5)
    assert weight.mean().item() == pytest.approx(0, abs=5 * (expected / weight.numel()) ** 0.5)


def test_only_convolutions_are_drawn():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialize(network)
    assert [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])] == [
        "0.weight"
    ]
