import copy

import pytest
import torch
from torch import nn

from art_oat import to_conditional
from art_oat.layers import DualBatchNorm
from art_oat.surgery import Conditioning, UnsupportedModuleError
from tests.edge_case_networks import Head, NormActivation
from tests.networks import LAMBDAS, NETWORKS, TRAINED_AND_UNSEEN, Residual, SharedNorm, images


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


def test_dtype_and_training_flags_carry_over():
    network = Residual().to(torch.bfloat16)
    network.body.eval()
    model = to_conditional(network)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}
    assert model.encoding.table.dtype == torch.bfloat16
    assert model.training
    assert not any(part.training for part in model.network.body.modules())
    assert all(part.training for part in model.network.norm.modules())


WITHOUT_WEIGHTS = {
    "layer": nn.LayerNorm([4, 6, 6], elementwise_affine=False),
    "group": nn.GroupNorm(2, 4, affine=False),
    "instance": nn.InstanceNorm2d(4),
}


@pytest.mark.parametrize("kind", WITHOUT_WEIGHTS)
@pytest.mark.parametrize("place", [torch.float64, torch.bfloat16, "meta"])
def test_a_norm_without_weights_computes_where_its_network_does(kind, place):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), WITHOUT_WEIGHTS[kind], nn.Flatten(), nn.Linear(144, 2)).to(place)
    model = to_conditional(network, input_shape=(3, 8, 8))
    tensors = [*model.parameters(), model.encoding.table]
    assert {(tensor.dtype, tensor.device) for tensor in tensors} == {
        (network[0].weight.dtype, network[0].weight.device)
    }


def test_the_device_carries_over():
    model = to_conditional(Residual().to("meta"))
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


class OwnLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return nn.functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


@pytest.mark.parametrize("norm", [NormActivation(4), OwnLayerNorm((6, 6))], ids=["batch", "layer"])
def test_norms_of_a_class_of_their_own_and_layers_with_film_convert_where_tensors_have_no_values(norm):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(144, 2)).to("meta")
    model = to_conditional(network, film_on=["0", "1"])
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


def test_frozen_parameters_stay_frozen():
    network = Residual().requires_grad_(requires_grad=False)
    network.head.requires_grad_()
    model = to_conditional(network)
    trainable = {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}
    assert {name for name in trainable if ".film." not in name} == {"head.weight", "head.bias"}


def test_the_same_seed_gives_the_same_model_and_spares_the_global_generator():
    network, state = Residual(), torch.get_rng_state()
    conditioning = Conditioning(encoding="random-orthogonal", film="two-layer")
    first, second, other = (to_conditional(network, conditioning=conditioning, seed=seed) for seed in (1, 1, 2))
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


@pytest.mark.parametrize(
    ("film_on", "keep", "expected"),
    [
        (None, (), {"norm1", "norm2"}),
        (["norm2"], (), {"norm2"}),
        ([], (), set()),
        (lambda path, norm: path.endswith("1"), (), {"norm1"}),
        (lambda path, norm: path == "norm2", lambda path, norm: path == "norm1", {"norm2"}),
    ],
)
def test_film_is_on_the_chosen_norms_only_and_the_choice_is_kept_as_paths_which_make_the_same_model(
    film_on, keep, expected
):
    model = to_conditional(Head(), film_on=film_on, keep=keep)
    norms = {name: getattr(model.network, name) for name in ("norm1", "norm2")}
    dual = {name: norm for name, norm in norms.items() if isinstance(norm, DualBatchNorm)}
    assert {name for name, norm in dual.items() if norm.film is not None} == expected
    assert all(norm.clean.weight is not norm.adversarial.weight for norm in dual.values())
    assert model.conversion["film_on"] == (None if film_on is None else sorted(expected))
    assert model.conversion["keep"] == sorted(norms.keys() - dual.keys()) == (["norm1"] if keep else [])
    again = to_conditional(Head(), **model.conversion)
    assert again.state_dict().keys() == model.state_dict().keys()


def test_parts_by_name_replace_those_of_a_conditioning():
    model = to_conditional(Head(), conditioning=Conditioning(code_dim=9, statistics="shared"), code_dim=8)
    assert model.conversion["code_dim"] == 8
    assert model.conversion["statistics"] == "shared"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        *(({"lambdas": it}, ValueError, "lambdas must hold distinct numbers") for it in (0.5, None, "no", [[0.1]])),
        ({"heads": "two"}, ValueError, "heads must be one of"),
        ({"input_shape": (0, 6, 6)}, ValueError, "input_shape must hold whole numbers above 0"),
        ({"films": "linear"}, TypeError, "unexpected keyword argument 'films'"),
    ],
)
def test_arguments_that_are_not_as_documented_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        to_conditional(Residual(), **arguments)


def test_a_network_without_norms_is_refused_where_no_layer_is_named():
    with pytest.raises(UnsupportedModuleError, match="Sequential holds no norm to convert"):
        to_conditional(nn.Sequential(nn.Conv2d(1, 2, 3)))


@pytest.mark.parametrize("network", ["resnet", to_conditional(Residual()), nn.Sequential(to_conditional(Residual()))])
def test_what_is_no_plain_network_is_refused(network):
    with pytest.raises(TypeError, match=r"network must be a torch\.nn\.Module that is not conditional yet"):
        to_conditional(network)
