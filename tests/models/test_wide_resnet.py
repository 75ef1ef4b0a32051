import pytest
import torch
from torch import nn

from art_oat.models import WideResNet
from art_oat.models.wide_resnet import PreActivationBlock
from tests.models.published import nb_parameters, norms_of, rebuilt


@pytest.mark.parametrize(("name", "expected"), [("wrn_16_8", 10.96), ("wrn_40_2", 2.24)])
def test_the_wide_networks_have_the_published_sizes(name, expected):
    with torch.device("meta"):
        network = rebuilt(name, in_channels=3, nb_classes=10, dropout=0.3)
    assert nb_parameters(network) / 1e6 == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("depth", [10, 16, 40])
def test_the_depth_counts_all_convolutions_among_them_three_of_shortcuts(depth):
    network = WideResNet(depth, 2)
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == depth
    assert len(norms_of(network)) == depth - 3
    assert list(norms_of(network))[-1] == "norm"


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 4, 96, 96), (3, 3, 17, 5)])
def test_it_scores_images_of_any_size_and_number_of_channels(shape):
    network = rebuilt("WideResNet", depth=10, widen_factor=1, in_channels=shape[1], nb_classes=7)
    assert network(torch.rand(shape)).shape == (shape[0], 7)


def test_only_the_first_stage_keeps_the_resolution():
    network = WideResNet(10, 1)
    x = network.stem(torch.zeros(1, 3, 16, 16))
    shapes = [tuple((x := stage(x)).shape[1:]) for stage in network.stages]
    assert shapes == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]


@pytest.mark.parametrize(("after", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_a_block_whose_body_is_silent_passes_its_shortcut(after, stride):
    block = PreActivationBlock(4, after, stride).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    expected = x if (after, stride) == (4, 1) else block.shortcut(torch.relu(block.norm1(x)))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)


def test_dropout_acts_between_the_convolutions_of_a_block_and_in_training_alone():
    block = PreActivationBlock(8, 8, dropout=0.25)
    nn.init.constant_(block.norm2.bias, 10)  # nothing else than dropout makes zeros here
    seen = []
    block.conv2.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0] == 0).double().mean().item()))
    x = torch.randn(4, 8, 32, 32)
    block(x)
    block.eval()(x)
    share, share_in_use = seen
    assert share == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / x.numel()) ** 0.5)  # five standard errors
    assert share_in_use == 0


def test_all_that_no_network_can_be_built_from_is_refused_at_once():
    with pytest.raises(
        ValueError, match=r"widen_factor .* got 0.* dropout .* got 1.* depth must be 6 n \+ 4 .* got 18"
    ):
        WideResNet(18, 0, dropout=1)
