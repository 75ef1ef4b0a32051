import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from art_oat import OperatingPoint, UnsupportedModuleError, register_conversion, to_conditional
from art_oat.layers import DualBatchNorm
from art_oat.surgery import convert
from tests.networks import (
    LAMBDAS,
    NETWORKS,
    TRAINED_AND_UNSEEN,
    WIDTHS,
    RenamedNorm,
    Residual,
    SharedNorm,
    conv,
    images,
    kept,
    sequential,
    shaken,
)


def trained(network: nn.Module) -> nn.Module:
    network.double().train()
    for seed in range(3):
        network(images(seed=seed) * 3)
    return network.eval()


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("lam", TRAINED_AND_UNSEEN)
def test_a_converted_network_answers_as_the_plain_one(make, lam):
    network = trained(make())
    assert torch.equal(to_conditional(network, LAMBDAS)(images(), lam=lam, width=1), network(images()))


@pytest.mark.parametrize("make", NETWORKS)
def test_conversion_leaves_the_plain_network_alone(make):
    network = trained(make())
    types, state = [type(part) for part in network.modules()], copy.deepcopy(network.state_dict())
    model = to_conditional(network)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert [type(part) for part in network.modules()] == types
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)


def test_a_shared_norm_stays_shared():
    network = to_conditional(SharedNorm()).network
    assert isinstance(network.norm, DualBatchNorm)
    assert network.in_list[0] is network.norm


def test_a_subclass_keeps_its_class_on_both_sides():
    norm = to_conditional(sequential()).network[1]
    assert isinstance(norm.clean, RenamedNorm)
    assert isinstance(norm.adversarial, RenamedNorm)


def test_dtype_and_training_flags_carry_over():
    network = Residual().to(torch.bfloat16)
    network.body.eval()
    model = to_conditional(network)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}
    assert model.encoding.table.dtype == torch.bfloat16
    assert model.training
    assert not any(part.training for part in model.network.body.modules())
    assert all(part.training for part in model.network.norm.modules())


def test_the_device_carries_over():
    model = to_conditional(Residual().to("meta"))
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


def test_frozen_parameters_stay_frozen():
    network = Residual()
    network.requires_grad_(requires_grad=False)
    network.head.requires_grad_()
    model = to_conditional(network)
    trainable = {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}
    assert {name for name in trainable if ".film." not in name} == {"head.weight", "head.bias"}


def test_the_same_seed_gives_the_same_model_and_spares_the_global_generator():
    network, state = Residual(), torch.get_rng_state()
    first, second, other = (
        to_conditional(network, encoding="random-orthogonal", film="two-layer", seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.encoding.table, other.encoding.table)
    assert not torch.equal(first.network.norm.film.hidden.weight, other.network.norm.film.hidden.weight)


@pytest.mark.parametrize("encoding", ["scalar", "one-hot", "dct", "random-orthogonal"])
def test_the_code_length_is_the_input_of_every_film(encoding):
    model = to_conditional(Residual(), encoding=encoding, code_dim=16)
    assert model.network.norm.film.output.in_features == (1 if encoding == "scalar" else 16)


def test_the_published_film_starts_far_from_the_identity():
    network = trained(Residual())
    assert not torch.allclose(to_conditional(network, film="published").eval()(images()), network(images()))


class Overriding(nn.BatchNorm2d):
    def forward(self, x):
        return x + super().forward(x)


class DualOverriding(DualBatchNorm):
    def normalization(self, condition):
        scale, shift = super().normalization(condition)
        return scale + 1, shift


def test_every_fault_is_named_by_dotted_path_in_one_error():
    network = nn.ModuleDict(
        {
            "good": nn.BatchNorm2d(2),
            "group": nn.Sequential(nn.ReLU(), nn.GroupNorm(1, 2)),
            "layer": nn.LayerNorm(2),
            "fickle": nn.BatchNorm2d(2, track_running_stats=False),
            "lazy": nn.LazyBatchNorm2d(),
            "odd": Overriding(2),
            "derived": parametrizations.weight_norm(nn.BatchNorm2d(2), dim=None),
        }
    )
    with pytest.raises(UnsupportedModuleError) as caught:
        to_conditional(network)
    message = str(caught.value)
    assert message.startswith("cannot convert 6 layer(s).")
    paths = ["group.1 (GroupNorm)", "layer (LayerNorm)", "fickle (", "lazy (", "odd (Overriding)", "derived ("]
    assert all(path in message for path in paths)
    assert "good" not in message


@pytest.mark.parametrize("lambdas", [0.5, None, "no", [[0.1]]])
def test_lambdas_that_are_no_numbers_are_refused(lambdas):
    with pytest.raises(ValueError, match="lambdas must hold distinct numbers"):
        to_conditional(Residual(), lambdas)


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(UnsupportedModuleError, match="Sequential holds no batch norm"):
        to_conditional(nn.Sequential(nn.Conv2d(1, 2, 3)))


@pytest.mark.parametrize("network", ["resnet", to_conditional(Residual()), nn.Sequential(to_conditional(Residual()))])
def test_what_is_no_plain_network_is_refused(network):
    with pytest.raises(TypeError, match=r"network must be a torch\.nn\.Module that is not conditional yet"):
        to_conditional(network)


def test_a_registered_conversion_serves_its_type_and_its_subclasses(monkeypatch):
    monkeypatch.setattr(convert, "_CONVERSIONS", dict(convert._CONVERSIONS))

    @register_conversion(Overriding)
    def convert_overriding(norm, build):
        return DualOverriding(norm, build.film(norm.num_features))

    class Further(Overriding):
        pass

    assert isinstance(to_conditional(nn.Sequential(Further(2))).network[0].adversarial, Further)


def test_a_registered_conversion_whose_plain_form_answers_otherwise_is_refused(monkeypatch):
    monkeypatch.setattr(convert, "_CONVERSIONS", dict(convert._CONVERSIONS))
    register_conversion(Overriding)(lambda norm, build: build.batch_norm(norm))
    with pytest.raises(UnsupportedModuleError, match="after training, its plain form answers otherwise"):
        to_conditional(nn.Sequential(conv(1, 6), Overriding(6)))


def test_a_registered_conversion_serves_every_width(monkeypatch):
    monkeypatch.setattr(convert, "_CONVERSIONS", dict(convert._CONVERSIONS))

    @register_conversion(Overriding)
    def convert_overriding(norm, build):
        return DualOverriding(norm, build.film(norm.num_features))

    network = nn.Sequential(conv(1, 6), Overriding(6), nn.ReLU(), conv(6, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = shaken(network, widths=WIDTHS)
    for width in WIDTHS:
        norm = model.network[1].at(width)
        assert isinstance(norm.adversarial, Overriding)
        assert norm.nb_channels == kept(width, 6)
        assert model(images(), 0.3, width).shape == (8, 5)


class Wrapped(nn.Module):
    """A norm that is none of torch's, but holds one."""

    def __init__(self, nb_channels: int) -> None:
        super().__init__()
        self.inner = nn.BatchNorm2d(nb_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_a_registered_conversion_of_what_cannot_be_cut_is_refused_at_smaller_widths_by_path(monkeypatch):
    monkeypatch.setattr(convert, "_CONVERSIONS", dict(convert._CONVERSIONS))
    register_conversion(Wrapped)(lambda norm, build: build.batch_norm(norm.inner))
    body = nn.Sequential(conv(1, 6), Wrapped(6), nn.ReLU(), conv(6, 6), nn.BatchNorm2d(6), nn.ReLU())
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    to_conditional(network)
    with pytest.raises(UnsupportedModuleError, match=r"0\.1 \(Wrapped\): what it holds is cut at smaller widths"):
        to_conditional(network, widths=WIDTHS)
    model = shaken(network, widths=WIDTHS, full_width=["0.0"])
    for width in WIDTHS:
        torch.testing.assert_close(model.pinned(OperatingPoint(0.3, width))(images()), model(images(), 0.3, width))
