import pytest
import torch
from torch import nn

from art_oat import OperatingPoint, to_conditional
from art_oat.layers import DualBatchNorm, conversion
from art_oat.surgery import UnsupportedModuleError, register_conversion
from tests.networks import WIDTHS, conv, images, kept, shaken


class Overriding(nn.BatchNorm2d):
    def forward(self, x):
        return x + super().forward(x)


class DualOverriding(DualBatchNorm):
    def normalization(self, condition):
        scale, shift = super().normalization(condition)
        return scale + 1, shift


class Wrapped(nn.Module):
    """A norm that is none of torch's, but holds one."""

    def __init__(self, nb_channels: int) -> None:
        super().__init__()
        self.inner = nn.BatchNorm2d(nb_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.fixture
def register(monkeypatch):
    """Return ``register_conversion``, undone after the test."""
    monkeypatch.setattr(conversion, "_CONVERSIONS", dict(conversion._CONVERSIONS))
    return register_conversion


def convert_overriding(norm, build):
    return DualOverriding(norm, build.film(norm.num_features))


def test_a_registered_conversion_serves_its_type_and_its_subclasses(register):
    class Further(Overriding):
        pass

    register(Overriding)(convert_overriding)
    assert isinstance(to_conditional(nn.Sequential(Further(2))).network[0].adversarial, Further)


def test_a_registered_conversion_whose_plain_form_answers_otherwise_is_refused(register):
    register(Overriding)(lambda norm, build: build.batch_norm(norm))
    with pytest.raises(UnsupportedModuleError, match="after training, its plain form answers otherwise"):
        to_conditional(nn.Sequential(conv(1, 6), Overriding(6)))


def test_a_registered_conversion_serves_every_width(register):
    register(Overriding)(convert_overriding)
    network = nn.Sequential(conv(1, 6), Overriding(6), nn.ReLU(), conv(6, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = shaken(network, widths=WIDTHS)
    for width in WIDTHS:
        norm = model.network[1].at(width)
        assert isinstance(norm.adversarial, Overriding)
        assert norm.nb_channels == kept(width, 6)
        assert model(images(), 0.3, width).shape == (8, 5)


def test_a_registered_conversion_of_what_cannot_be_cut_is_refused_at_smaller_widths_by_path(register):
    register(Wrapped)(lambda norm, build: build.batch_norm(norm.inner))
    body = nn.Sequential(conv(1, 6), Wrapped(6), nn.ReLU(), conv(6, 6), nn.BatchNorm2d(6), nn.ReLU())
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    to_conditional(network)
    with pytest.raises(UnsupportedModuleError, match=r"0\.1 \(Wrapped\): what it holds is cut at smaller widths"):
        to_conditional(network, widths=WIDTHS)
    model = shaken(network, widths=WIDTHS, full_width=["0.0"])
    for width in WIDTHS:
        torch.testing.assert_close(model.pinned(OperatingPoint(0.3, width))(images()), model(images(), 0.3, width))
