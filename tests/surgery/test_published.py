import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat import OperatingPoint, fold
from art_oat.layers import DualBatchNorm
from art_oat.models import ResNet, SmallCNN, resnet34, wrn_16_8, wrn_40_2
from art_oat.surgery import UnsupportedModuleError, to_published
from tests.models.published import nb_convolution_macs, nb_parameters, norms_of
from tests.networks import WIDTHS


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(("make", "expected"), [(resnet34, 33_355_466), (wrn_16_8, 16_228_922), (wrn_40_2, 3_886_394)])
def test_the_published_networks_have_exactly_as_many_parameters(make, expected):
    model = to_published(make())
    assert sum(parameter.numel() for parameter in model.network.parameters()) == expected


@pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
def test_all_norms_of_every_width_are_dual_and_those_of_shortcuts_have_no_film(widths):
    parts = dict(to_published(ResNet([1, 1], channels=4), widths=widths).network.named_modules())
    norms = {path: part for path, part in parts.items() if isinstance(part, DualBatchNorm)}
    # the stem, two in each block, one shortcut; each has two sides
    assert len(norms) == 6 * len(widths)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in parts.values()) == 2 * len(norms)
    assert all((norm.film is None) == ("shortcut" in path) for path, norm in norms.items())


def test_codes_are_orthonormal_and_128_long():
    table = to_published(ResNet([1, 1, 1, 1], channels=4)).encoding.table
    assert table.shape == (6, 128)
    torch.testing.assert_close(table @ table.T, torch.eye(6), rtol=0, atol=1e-6)


def test_other_networks_are_refused():
    with pytest.raises(TypeError, match=r"must be a ResNet or a WideResNet of art_oat\.models, got SmallCNN"):
        to_published(SmallCNN())


@pytest.fixture(scope="module")
def published_oats():
    return to_published(resnet34(), widths=WIDTHS)


@pytest.mark.slow
def test_the_published_oats_network_has_exactly_as_many_parameters(published_oats):
    assert nb_parameters(published_oats.network) == 33_398_026
    # beyond OAT: two pairs of weight and bias for each narrow norm
    narrow = sum(4 * (nb_channels // 2 + 3 * nb_channels // 4) for nb_channels in norms_of(resnet34()).values())
    assert narrow == 33_398_026 - 33_355_466


@pytest.mark.slow
@pytest.mark.parametrize(("width", "expected"), [(0.5, 0.290), (0.75, 0.652), (1.0, 1.159)])
def test_the_published_oats_network_multiplies_exactly_as_often_at_every_width(published_oats, width, expected):
    folded = fold(published_oats, OperatingPoint(0.0, width))
    macs = nb_convolution_macs(folded, torch.zeros(1, 3, 32, 32))
    assert round(macs / 1e9, 3) == expected
    assert macs == nb_convolution_macs(ResNet((3, 4, 6, 3), channels=int(64 * width)), torch.zeros(1, 3, 32, 32))


def test_a_published_network_that_cannot_be_slimmed_to_a_width_is_refused():
    with pytest.raises(UnsupportedModuleError, match=r"no layer of it gives fewer channels"):
        to_published(ResNet([1], channels=1), widths=(0.5, 1.0))


@pytest.mark.parametrize("width", WIDTHS)
def test_at_every_width_film_is_the_published_one_whose_layers_are_cut_before_its_answer_is_halved(width):
    """SlimmableFiLM: ``Linear[:2c, :]``, leaky ReLU, ``Linear[:2c, :2c]``, split at ``c``, leaky ReLU."""
    model = to_published(ResNet([1], channels=8), widths=WIDTHS)
    condition = model.condition(torch.tensor([0.3]), width)
    nb_channels = int(8 * width)
    for path in ("stem.1", "stages.0.0.body.4"):
        switch = model.network.get_submodule(path)
        whole = switch.at(1.0).film
        size = 2 * nb_channels
        hidden = F.leaky_relu(F.linear(condition.code, whole.hidden.weight[:size], whole.hidden.bias[:size]), 0.01)
        output = F.linear(hidden, whole.output.weight[:size, :size], whole.output.bias[:size])
        expected = (F.leaky_relu(part, 0.01) for part in output.split(nb_channels, dim=1))
        for actual, part in zip(switch.at(width).film.coefficients(condition.code), expected, strict=True):
            torch.testing.assert_close(actual, part)
