"""The formulas of docs/method.md, written down anew, are what networks compute."""

import pytest
import torch
from torch import nn

from art_oat import OATModel, fold, to_conditional
from art_oat.layers import DualBatchNorm


@pytest.fixture
def model() -> OATModel:
    torch.manual_seed(0)
    model = to_conditional(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), lambdas=(0, 0.2, 0.6, 1)).double()
    with torch.no_grad():
        for tensor in [*model.network.parameters(), *model.network.buffers()]:
            tensor.copy_(torch.rand_like(tensor) + 0.5 if tensor.is_floating_point() else tensor)
    return model.eval()


def affine(model: OATModel, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``A`` and ``B`` of ``A h + B``, from the ordinary norm that folding leaves."""
    norm = fold(model, lam=lam)[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


@pytest.mark.parametrize(
    ("lam", "code"),
    [(0, [1, 0, 0, 0]), (0.2, [0, 1, 0, 0]), (0.3, [0, 0.75, 0.25, 0]), (1, [0, 0, 0, 1]), (1.3, [0, 0, -0.75, 1.75])],
)
def test_norm_and_film_are_one_affine_map_with_the_code_interpolated_and_continued(model, lam, code):
    layer = model.network[1]
    assert isinstance(layer, DualBatchNorm)
    side = layer.adversarial if lam > 0 else layer.clean
    s, t = (layer.film.output.weight @ torch.tensor(code, dtype=torch.float64)).chunk(2)
    slope = side.weight / (side.running_var + side.eps).sqrt()
    expected = (1 + s) * slope, (1 + s) * (side.bias - side.running_mean * slope) + t
    torch.testing.assert_close(affine(model, lam), expected)


def test_below_the_smallest_lam_above_0_the_affine_maps_themselves_are_interpolated(model):
    at_0, at_02 = affine(model, 0), affine(model, 0.2)
    expected = tuple(0.75 * low + 0.25 * high for low, high in zip(at_0, at_02, strict=True))
    torch.testing.assert_close(affine(model, 0.05), expected)


def test_a_folded_network_is_a_start_for_other_lams(model):
    network = fold(model, lam=0.6)
    again = to_conditional(network, lambdas=(0, 0.5, 1)).eval()
    x = torch.rand(2, 1, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(again.pinned(lam=0.5)(x), network(x))
