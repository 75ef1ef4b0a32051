import pytest
import torch
from torch import nn

from art_oat.models import ResNet, resnet18, resnet34
from art_oat.models.resnet import BasicBlock
from tests.models.published import nb_convolution_macs, nb_parameters, norms_of, rebuilt


def in_shortcut(path):
    return "shortcut" in path.split(".")


def test_resnet_34_has_the_published_size_and_multiplications_on_small_images():
    with torch.device("meta"):
        network = rebuilt("resnet34", in_channels=3, nb_classes=10)
        assert nb_convolution_macs(network, torch.empty(1, 3, 32, 32)) / 1e9 == pytest.approx(1.159, abs=5e-4)
    assert nb_parameters(network) / 1e6 == pytest.approx(21.28, abs=0.005)


@pytest.mark.parametrize(("build", "nb_convolutions"), [(resnet18, 17), (resnet34, 33)])
def test_the_number_in_the_name_counts_the_layers_outside_shortcuts(build, nb_convolutions):
    with torch.device("meta"):
        network = build()
    paths = [path for path, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert len([path for path in paths if not in_shortcut(path)]) == nb_convolutions
    assert len([path for path in norms_of(network) if not in_shortcut(path)]) == nb_convolutions
    assert len([path for path in norms_of(network) if in_shortcut(path)]) == 3


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 4, 96, 96), (3, 3, 17, 5)])
def test_it_scores_images_of_any_size_and_number_of_channels(shape):
    network = rebuilt("ResNet", blocks=[1, 2, 1], in_channels=shape[1], nb_classes=7, channels=4)
    assert network(torch.rand(shape)).shape == (shape[0], 7)


def test_every_stage_but_the_first_halves_the_resolution_and_doubles_the_channels():
    network = ResNet((1, 1, 1, 1), channels=2)
    x = network.stem(torch.zeros(1, 3, 16, 16))
    shapes = [x.shape]
    for stage in network.stages:
        x = stage(x)
        shapes.append(x.shape)
    assert [tuple(shape[1:]) for shape in shapes] == [(2, 16, 16), (2, 16, 16), (4, 8, 8), (8, 4, 4), (16, 2, 2)]


@pytest.mark.parametrize(("after", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_a_block_is_its_formula(after, stride):
    block = BasicBlock(4, after, stride).double().eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    conv1, norm1, _, conv2, norm2 = block.body
    shortcut = x if (after, stride) == (4, 1) else block.shortcut(x)
    torch.testing.assert_close(block(x), torch.relu(norm2(conv2(torch.relu(norm1(conv1(x))))) + shortcut))


def test_no_stages_and_empty_stages_are_refused():
    with pytest.raises(ValueError, match="blocks must hold whole numbers, each at least 1"):
        ResNet(())
    with pytest.raises(ValueError, match=r"at least 1, got [\[(]2, 0[\])]"):
        ResNet((2, 0))
