import math

import onnx
import pytest
import torch
from torch import nn

from art_oat.export import FORMATS
from tests.export.subjects import folded, shipment
from tests.networks import images

ONNX, X = FORMATS["onnx"], images(64, torch.float32)


def quantized(network, path):
    subject = shipment(network)
    ONNX.write(subject, "float32", path)
    ONNX.quantize(subject, path, X)
    return subject


def is_int8(path):
    """By shape of the weight, whether it is int8."""
    weights = onnx.load(path).graph.initializer
    return {tuple(it.dims): it.data_type == onnx.TensorProto.INT8 for it in weights if len(it.dims) > 1}


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("name", ["small", "resnet", "vit", "convnext"])
def test_most_weights_are_int8_and_the_scores_stay_near_those_of_the_network(name, tmp_path):
    network = folded(name).requires_grad_(False)
    subject = quantized(network, tmp_path / "net.onnx")
    found = is_int8(tmp_path / "net.onnx")
    assert sum(math.prod(shape) * is_8 for shape, is_8 in found.items()) > sum(map(math.prod, found)) / 2
    answer, expected = ONNX.run(tmp_path / "net.onnx", subject)(X), network(X)
    assert float((answer - expected).norm() / expected.norm()) < 0.1  # 256 levels in each layer
    about = {it.key: it.value for it in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert (about["precision"], about["lam"]) == ("int8", "0.3")


@pytest.mark.slow(seconds=1)
def test_convolutions_in_groups_stay_in_float32_and_the_others_do_not(tmp_path):
    body = nn.Conv2d(1, 8, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1)
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    quantized(network.eval(), tmp_path / "net.onnx")
    found = is_int8(tmp_path / "net.onnx")
    assert not found[8, 1, 3, 3]
    assert found[6, 8, 1, 1]


@pytest.mark.slow(seconds=1)
def test_a_network_without_convolutions_needs_no_ranges(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 5)).eval().requires_grad_(False)
    subject = quantized(network, tmp_path / "net.onnx")
    answer, expected = ONNX.run(tmp_path / "net.onnx", subject)(X), network(X)
    assert float((answer - expected).norm() / expected.norm()) < 0.05


class TwoHeads(nn.Module):
    """Two heads with one weight matrix."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(36, 5), nn.Linear(36, 5)
        self.second.weight = self.first.weight

    def forward(self, x):
        x = x.flatten(1)
        return self.first(x) + self.second(x.relu())


@pytest.mark.slow(seconds=1)
def test_layers_that_share_their_weights_are_quantized_like_others(tmp_path):
    network = TwoHeads().eval().requires_grad_(False)
    subject = quantized(network, tmp_path / "net.onnx")
    answer, expected = ONNX.run(tmp_path / "net.onnx", subject)(X), network(X)
    assert float((answer - expected).norm() / expected.norm()) < 0.05
