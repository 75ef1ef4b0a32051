import pytest
import torch
from torch import Tensor, nn

from art_oat import to_conditional
from art_oat.surgery import UnsupportedModuleError
from tests.compat.zoo import Own, examine
from tests.edge_case_networks import Head, TiedNorms
from tests.surgery.test_any_network import ROUNDING, Activated


def test_norms_with_weights_in_common_keep_them_in_common_on_either_side():
    network = to_conditional(TiedNorms()).network
    for side in ("clean", "adversarial"):
        assert getattr(network.norm1, side).weight is getattr(network.norm2, side).weight
    assert network.norm1.clean.weight is not network.norm1.adversarial.weight
    assert network.norm1.clean.running_mean is not network.norm2.clean.running_mean
    assert network.norm1.film is network.norm2.film


class Chained(Head):
    """The weight of the first norm is the second's, and the bias of the second the third's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3, self.norm3 = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.norm2.bias = self.norm3.bias
        self.norm2.weight = self.norm1.weight

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm3(self.conv3(super().features(x))))


def test_norms_that_are_tied_through_others_share_one_film():
    assert examine(Own(Chained)).worst < ROUNDING
    converted = to_conditional(Chained()).network
    assert converted.norm1.film is converted.norm2.film is converted.norm3.film


def with_a_foreign_owner() -> nn.Module:
    network = Head()
    network.scaled = nn.Linear(6, 6)
    network.head.bias = nn.Parameter(torch.zeros(6))
    network.norm2.bias = network.scaled.bias = network.norm1.bias
    return network


def with_one_activation() -> nn.Module:
    """Two norms that hold one activation with a weight."""
    network, activation = Head(), nn.PReLU()
    network.norm1, network.norm2 = Activated(activation), Activated(activation)
    return network


def with_a_layer_norm_tied_to_a_batch_norm() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.LayerNorm(6))
    network[3].weight = network[1].weight
    return network


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (with_a_layer_norm_tied_to_a_batch_norm, {}, r"got 1\.weight and 3\.weight"),
        (with_a_foreign_owner, {}, r"got norm1\.bias and norm2\.bias and scaled\.bias"),
        (with_one_activation, {}, r"norm1\.activation\.weight and norm2\.activation\.weight"),
        (TiedNorms, {"film_on": ["norm1"]}, r"all of them or none with a FiLM, got norm1\.weight and norm2"),
        (TiedNorms, {"film_on": ["norm2"]}, r"all of them or none with a FiLM, got norm1\.weight and norm2"),
    ],
)
def test_a_norm_that_shares_a_weight_with_what_cannot_be_tied_to_it_is_refused_by_path(make, options, message):
    with pytest.raises(UnsupportedModuleError, match=message):
        to_conditional(make(), **options)
