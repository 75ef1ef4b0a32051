import itertools

import pytest
import torch
from torch import nn

from art_oat.models import ConvNeXt, network_named
from art_oat.models.convnext import ConvNeXtBlock
from tests.models.published import nb_parameters


@pytest.mark.parametrize(("depths", "channels", "patch_size"), [((2, 2, 2), (32, 64, 128), 2), ((1, 3), (4, 6), 4)])
def test_its_size_is_that_of_its_layers(depths, channels, patch_size):
    stem = 3 * channels[0] * patch_size**2 + channels[0] + 2 * channels[0]
    blocks = sum(
        depth * ((49 + 1) * c + 2 * c + (8 * c * c + 5 * c)) for depth, c in zip(depths, channels, strict=True)
    )
    downs = sum(2 * a + 4 * a * b + b for a, b in itertools.pairwise(channels))
    head = 2 * channels[-1] + channels[-1] * 10 + 10
    network = ConvNeXt(depths, channels, patch_size=patch_size)
    assert nb_parameters(network) == stem + blocks + downs + head


def test_a_block_is_its_formula():
    block = ConvNeXtBlock(4).double()
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    mean_free = block.depthwise(x) - block.depthwise(x).mean(dim=1, keepdim=True)
    normalized = mean_free / (mean_free.square().mean(dim=1, keepdim=True) + block.norm.eps).sqrt()
    first, second = (nn.Conv2d(*linear.weight.T.shape, 1).double() for linear in (block.mix[0], block.mix[2]))
    for convolution, linear in ((first, block.mix[0]), (second, block.mix[2])):
        convolution.load_state_dict({"weight": linear.weight[..., None, None], "bias": linear.bias})
    torch.testing.assert_close(block(x), x + second(nn.functional.gelu(first(normalized))))


def test_on_a_torus_scores_do_not_change_where_an_image_is_moved_by_whole_strides():
    network = ConvNeXt((1, 1, 1), (4, 6, 8)).double().eval()
    for module in network.modules():
        if isinstance(module, ConvNeXtBlock):
            module.depthwise.padding_mode = "circular"
            module.depthwise._reversed_padding_repeated_twice = [3] * 4
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(network(x.roll((8, -16), dims=(2, 3))), network(x))
    assert not torch.allclose(network(x.roll(4, dims=2)), network(x))


def test_every_stage_but_the_first_halves_the_resolution():
    network = ConvNeXt((1, 1, 1), (2, 4, 8), patch_size=2)
    x = network.stem(torch.zeros(1, 3, 32, 32))
    assert [tuple((x := stage(x)).shape[1:]) for stage in network.stages] == [(2, 16, 16), (4, 8, 8), (8, 4, 4)]


@pytest.mark.parametrize(("size", "side"), [((8, 8), 8), ((28, 28), 14), ((32, 32), 16), ((96, 96), 16)])
def test_a_network_by_name_sees_about_16_places_a_side_in_its_first_stage(size, side):
    network = network_named("convnext-4-6", in_channels=1, nb_classes=5, image_size=size)
    assert network.stem(torch.zeros(1, 1, *size)).shape[-2:] == (side, side)
    assert network(torch.zeros(2, 1, *size)).shape == (2, 5)


def test_gray_images_of_unlike_brightness_get_unlike_scores():
    network = ConvNeXt((1,), (8,), in_channels=1, patch_size=1)  # layer norm follows the only channel of a pixel
    dark, bright = (network(torch.full((1, 1, 8, 8), value)) for value in (0.2, 0.8))
    assert (dark - bright).abs().max() > 1e-3


def test_samples_do_not_meet_and_second_derivatives_are_right():
    network = ConvNeXt((1, 1), (4, 6), drop_path=0.5, dropout=0.5).double().eval()
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]))
    weight = torch.randn(1, 3, 8, 8, dtype=torch.float64) * 1e-1
    assert torch.autograd.gradgradcheck(
        lambda scale: network(x[:1] + scale * weight), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    )


def test_faulty_arguments_are_refused_at_once_and_images_too_small_by_their_size():
    with pytest.raises(
        ValueError, match=r"patch_size .* got 0.* dropout .* got 1.* depths and channels .* \[1\] and \[\]"
    ):
        ConvNeXt((1,), (), patch_size=0, dropout=1)
    with pytest.raises(ValueError, match="at least 8x8 pixels, got 9x7"):
        ConvNeXt()(torch.zeros(1, 3, 9, 7))
