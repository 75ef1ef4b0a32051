import pytest
from torch import nn
from torch.nn.utils import parametrizations

from art_oat import to_conditional
from art_oat.layers import FILMS, LinearFiLM, register_film
from art_oat.surgery import Conditioning, UnsupportedModuleError
from tests.edge_case_networks import Head
from tests.networks import WIDTHS, RenamedNorm, sequential


class Overriding(nn.BatchNorm2d):
    def forward(self, x):
        return x + super().forward(x)


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
            "group": nn.Sequential(nn.ReLU(), Overriding(2)),
            "layer": parametrizations.weight_norm(nn.LayerNorm(2), dim=None),
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
    paths = [
        "group.1 (Overriding)",
        "layer (ParametrizedLayerNorm)",
        "fickle (",
        "lazy (",
        "odd (Overriding)",
        "derived (",
    ]
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
