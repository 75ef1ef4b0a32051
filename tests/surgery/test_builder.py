import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from art_oat import OperatingPoint, to_conditional
from art_oat.layers import FILMS, DualBatchNorm, LinearFiLM, register_film
from art_oat.surgery import Conditioning, UnsupportedModuleError, builder, register_conversion
from tests.edge_case_networks import Head
from tests.networks import WIDTHS, RenamedNorm, conv, images, kept, sequential, shaken


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
    monkeypatch.setattr(builder, "_CONVERSIONS", dict(builder._CONVERSIONS))
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


def test_a_subclass_keeps_its_class_on_both_sides():
    norm = to_conditional(sequential()).network[1]
    assert type(norm.clean) is type(norm.adversarial) is RenamedNorm


def test_a_form_of_film_is_asked_for_by_the_name_under_which_it_is_registered(monkeypatch):
    monkeypatch.setitem(FILMS, "own", None)  # and none of that name after the test

    @register_film("own")
    class Own(LinearFiLM):
        pass

    model = to_conditional(sequential(), film="own", widths=WIDTHS)
    assert isinstance(model.network[1].at(1.0).film, Own)
    assert model.conversion["film"] == "own"


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


def replaced() -> nn.Module:
    norm = nn.BatchNorm2d(6)
    norm.forward = lambda x: x
    return norm


def derived() -> nn.Module:
    norm = nn.BatchNorm2d(6)
    weight = norm.weight.detach().clone()
    del norm.weight
    norm.weight = weight  # a plain tensor, as the old-style reparametrizations leave it
    return norm


def nested() -> nn.Module:
    norm = RenamedNorm(6)
    norm.inner = nn.BatchNorm2d(6)
    return norm


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (replaced, "forward was replaced on the instance"),
        (derived, "its weights are computed from others"),
        (nested, "it holds another norm"),
    ],
)
def test_a_norm_that_does_more_than_its_class_says_is_refused(make, message):
    network = Head()
    network.norm1 = make()
    with pytest.raises(UnsupportedModuleError, match=message):
        to_conditional(network)


@pytest.mark.parametrize("fault", [{"film": "cubic"}, {"statistics": "none"}])
def test_a_conditioning_is_checked_where_it_is_made(fault):
    name, value = next(iter(fault.items()))
    with pytest.raises(ValueError, match=rf"{name} must be one of \(.*\), got '{value}'"):
        Conditioning(**fault)
