import pytest
import torch
from torch import nn

from art_oat import to_conditional
from art_oat.layers import AffineLayer, DualBatchNorm, FiLM, LinearFiLM
from art_oat.layers.conversion import _CONVERSIONS
from art_oat.training.param_groups import ALL_KINDS, parameter_groups
from tests.networks import NETWORKS, Residual, shaken


class Tied(nn.Module):
    """A weight that serves two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)


def decays(model: nn.Module, **options) -> dict[nn.Parameter, float]:
    """The weight decay of each grouped parameter; each is in one group only."""
    groups = parameter_groups(model, 0.1, **options)
    pairs = [(parameter, group["weight_decay"]) for group in groups for parameter in group["params"]]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("make", [*NETWORKS, Tied])
@pytest.mark.parametrize("exempt", [(), ("norm",), ("film", "bias"), ("norm", "film", "bias")])
def test_every_trainable_parameter_is_in_exactly_one_group(make, exempt):
    model = to_conditional(make())
    first = next(model.parameters()).requires_grad_(False)
    assert set(decays(model, exempt=exempt)) == set(model.parameters()) - {first}


@pytest.mark.parametrize("exempt", [(), ("norm",), ("film",), ("bias",), ("norm", "film", "bias")])
def test_only_what_is_exempt_does_not_decay(exempt):
    model = to_conditional(Residual())
    norms = [part for part in model.modules() if isinstance(part, DualBatchNorm)]
    expected = dict.fromkeys(model.parameters(), "weight")
    expected[model.network.head.bias] = "bias"
    for norm in norms:
        expected |= dict.fromkeys(norm.parameters(), "norm") | dict.fromkeys(norm.film.parameters(), "film")
    assert decays(model, exempt=exempt) == {
        parameter: 0.0 if kind in exempt else 0.1 for parameter, kind in expected.items()
    }


def test_a_step_of_sgd_with_gradient_0_shrinks_exactly_what_decays():
    model = shaken(Residual())
    film = {parameter for part in model.modules() if isinstance(part, FiLM) for parameter in part.parameters()}
    before = {parameter: parameter.detach().clone() for parameter in model.parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.SGD(parameter_groups(model, 0.1, exempt=("film",)), lr=0.5).step()
    for parameter, old in before.items():
        # p - lr (gradient + decay p) = (1 - 0.5 * 0.1) p
        torch.testing.assert_close(parameter, old if parameter in film else 0.95 * old)


class Scale(AffineLayer):
    """A conditional layer of one's own: a norm whatever it is made of, but for its FiLM."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.film = nn.Linear(4, 4), LinearFiLM(8, 4)

    def affine(self, condition):
        raise NotImplementedError

    def fold(self, condition):
        raise NotImplementedError


def test_all_of_a_conditional_layer_but_its_film_counts_as_norm():
    layer = Scale()
    spared = {parameter for parameter, decay in decays(layer, exempt=("norm",)).items() if not decay}
    assert spared == set(layer.inner.parameters())


class ScaleNorm(nn.Module):
    """A norm of a class that nobody registered."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.norm(dim=-1, keepdim=True) * self.weight


class RootMeanSquare(nn.Module):
    """A norm of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 4))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.InstanceNorm1d(4, affine=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm((4, 2, 2)),
        nn.RMSNorm((4, 4)),
        ScaleNorm(),
        RootMeanSquare(),
    ],
)
def test_norms_of_any_class_are_norms_and_others_by_a_conversion_of_their_own(norm, monkeypatch):
    monkeypatch.setitem(_CONVERSIONS, RootMeanSquare, lambda norm, build: norm)
    network = nn.Sequential(nn.Linear(4, 4), norm)
    spared = {parameter for parameter, decay in decays(network, exempt=("norm",)).items() if not decay}
    assert spared == set(norm.parameters())


class Vision(nn.Module):
    """Parameters as networks of timm, torchvision and transformers call them."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.class_token = (nn.Parameter(torch.ones(1, 1, 4)) for _ in range(2))
        self.pos_embed, self.pos_embedding = (nn.Parameter(torch.ones(1, 9, 4)) for _ in range(2))
        self.relative_position_bias_table = nn.Parameter(torch.ones(9, 2))
        self.position_embeddings, self.words = nn.Embedding(9, 4), nn.Embedding(9, 4)
        self.pos_embed_by = nn.Conv2d(4, 4, 3, bias=False)
        self.attention = nn.MultiheadAttention(4, 2)
        self.layer_scale, self.slopes = nn.Parameter(torch.ones(4, 1, 1)), nn.PReLU(4)
        self.one, self.asked = nn.Conv2d(4, 1, 1, bias=False), nn.Linear(4, 4, bias=False)

    def no_weight_decay(self) -> set[str]:
        return {"asked.weight"}


EMBEDDINGS = {
    "cls_token", "class_token", "pos_embed", "pos_embedding", "relative_position_bias_table",
    "position_embeddings.weight", "asked.weight",
}  # fmt: skip
VECTORS = {"attention.in_proj_bias", "attention.out_proj.bias", "layer_scale", "slopes.weight"}


@pytest.mark.parametrize(
    ("exempt", "expected"), [(("embedding",), EMBEDDINGS), (("bias",), VECTORS), (ALL_KINDS, EMBEDDINGS | VECTORS)]
)
def test_tokens_positions_and_vectors_are_spared_wherever_the_network_stands(exempt, expected):
    network = Vision()
    spared = {parameter for parameter, decay in decays(nn.Sequential(network), exempt=exempt).items() if not decay}
    assert {name for name, parameter in network.named_parameters() if parameter in spared} == expected


def test_a_tied_parameter_does_not_decay_if_one_of_its_places_is_exempt():
    network = Tied()
    network.second.bias = network.norm.weight
    assert decays(network, exempt=("norm",))[network.second.bias] == 0
    assert decays(network, exempt=("bias",))[network.norm.weight] == 0
    assert decays(network)[network.first.weight] == 0.1


def test_an_empty_group_is_left_out():
    model = to_conditional(Residual())
    assert [group["weight_decay"] for group in parameter_groups(model, 0.1, exempt=())] == [0.1]


def test_faults_are_named_together():
    frozen = Residual().requires_grad_(False)
    with pytest.raises(ValueError, match="weight_decay must be") as caught:
        parameter_groups(frozen, -1, exempt=("norms",))
    assert "exempt must be" in str(caught.value)
    assert "all are frozen" in str(caught.value)
    with pytest.raises(ValueError, match="exempt must be a collection"):
        parameter_groups(Residual(), 0.1, exempt="norm")
