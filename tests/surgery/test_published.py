import pytest
import torch
from torch import nn

from art_oat.layers import DualBatchNorm
from art_oat.models import ResNet, SmallCNN, resnet34, wrn_16_8, wrn_40_2
from art_oat.surgery import to_published


@pytest.mark.parametrize(("make", "expected"), [(resnet34, 33_355_466), (wrn_16_8, 16_228_922), (wrn_40_2, 3_886_394)])
def test_the_published_networks_have_exactly_as_many_parameters(make, expected):
    model = to_published(make())
    assert sum(parameter.numel() for parameter in model.network.parameters()) == expected


def test_all_norms_are_dual_and_those_of_shortcuts_have_no_film():
    model = to_published(ResNet([1, 1, 1, 1], channels=4))
    norms = {path: part for path, part in model.network.named_modules() if isinstance(part, DualBatchNorm)}
    assert not any(
        isinstance(part, nn.BatchNorm2d) and "clean" not in path and "adversarial" not in path
        for path, part in model.network.named_modules()
    )
    assert {path for path, norm in norms.items() if norm.film is None} == {p for p in norms if "shortcut" in p}
    assert any("shortcut" in path for path in norms)


def test_codes_are_orthonormal_and_128_long():
    table = to_published(ResNet([1, 1, 1, 1], channels=4)).encoding.table
    assert table.shape == (6, 128)
    torch.testing.assert_close(table @ table.T, torch.eye(6), rtol=0, atol=1e-6)


def test_other_networks_are_refused():
    with pytest.raises(TypeError, match=r"must be a ResNet or a WideResNet of art_oat\.models, got SmallCNN"):
        to_published(SmallCNN())
