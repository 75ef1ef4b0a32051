import torch
from torch import nn

from art_oat.replica import clone_tensor, replicate
from tests.networks import SharedNorm


def to_identity(module: nn.Module) -> nn.Module | None:
    return nn.Identity() if isinstance(module, nn.BatchNorm2d) else None


def test_a_replacement_reaches_every_reference():
    network = SharedNorm()
    replica = replicate(network, to_identity, clone_tensor)
    assert isinstance(replica.norm, nn.Identity)
    assert replica.in_list[0] is replica.norm
    assert isinstance(network.norm, nn.BatchNorm2d)


def test_the_root_can_be_replaced():
    assert isinstance(replicate(nn.BatchNorm2d(2), to_identity, clone_tensor), nn.Identity)


def test_tied_weights_stay_tied_and_leave_the_original_alone():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    replica = replicate(nn.Sequential(first, second), to_identity, clone_tensor)
    assert replica[0].weight is replica[1].weight
    assert replica[0].weight.data_ptr() != first.weight.data_ptr()


def test_a_tensor_that_carries_a_graph_is_carried_too():
    network = nn.Linear(2, 2)
    network.scaled = network.weight * 2  # copy.deepcopy alone refuses such a tensor
    torch.testing.assert_close(replicate(network, to_identity, clone_tensor).scaled, network.scaled.detach())


def test_frozen_parameters_stay_frozen():
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(requires_grad=False)
    replica = replicate(network, to_identity, clone_tensor)
    assert [parameter.requires_grad for parameter in replica.parameters()] == [True, False]
