import torch
from torch import nn

from benchmarks.neighbors.weight_noise import Noise


def test_noise_has_the_spread_of_the_weight_times_a_quarter_and_is_the_same_for_a_seed():
    conv = nn.Conv2d(64, 64, 3)
    weight = Noise(conv, 3).weight()
    torch.testing.assert_close(weight.std(), conv.weight.std() / 4, rtol=0.02, atol=0)
    assert torch.equal(weight, Noise(conv, 3).weight())
    assert not torch.equal(weight, Noise(conv, 4).weight())


def test_the_draw_is_kept_with_the_weights_and_the_factor_alone_is_learned():
    noise = Noise(nn.Conv2d(2, 3, 3), 0)
    assert sorted(noise.state_dict()) == ["alpha", "eta"]
    assert [name for name, _ in noise.named_parameters()] == ["alpha"]
