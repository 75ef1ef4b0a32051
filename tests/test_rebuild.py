import pytest
import torch
from torch import nn

from art_oat.rebuild import (
    clone_tensor,
    has_channels_last,
    laid_out,
    rebuild,
    shallow_copy,
    with_own_children,
    without_hooks,
)
from tests.networks import SharedNorm


def to_identity(module: nn.Module) -> nn.Module | None:
    return nn.Identity() if isinstance(module, nn.BatchNorm2d) else None


def test_a_replacement_reaches_every_reference():
    network = SharedNorm()
    rebuilt = rebuild(network, to_identity, clone_tensor)
    assert isinstance(rebuilt.norm, nn.Identity)
    assert rebuilt.in_list[0] is rebuilt.norm
    assert isinstance(network.norm, nn.BatchNorm2d)


def test_the_root_can_be_replaced():
    assert isinstance(rebuild(nn.BatchNorm2d(2), to_identity, clone_tensor), nn.Identity)


def test_tied_weights_stay_tied_and_leave_the_original_alone():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    rebuilt = rebuild(nn.Sequential(first, second), to_identity, clone_tensor)
    assert rebuilt[0].weight is rebuilt[1].weight
    assert rebuilt[0].weight.data_ptr() != first.weight.data_ptr()


def test_a_tensor_that_carries_a_graph_is_carried_too():
    network = nn.Linear(2, 2)
    network.scaled = network.weight * 2  # copy.deepcopy alone refuses such a tensor
    torch.testing.assert_close(rebuild(network, to_identity, clone_tensor).scaled, network.scaled.detach())


def test_frozen_parameters_stay_frozen():
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(requires_grad=False)
    rebuilt = rebuild(network, to_identity, clone_tensor)
    assert [parameter.requires_grad for parameter in rebuilt.parameters()] == [True, False]


def test_a_shallow_copy_holds_the_same_in_registers_of_its_own():
    layer = nn.Linear(2, 2)
    layer.child = nn.ReLU()
    twin = shallow_copy(layer)
    assert type(twin) is nn.Linear
    assert twin.weight is layer.weight
    assert twin.child is layer.child
    twin.register_forward_hook(lambda *_: None)
    twin.register_buffer("other", torch.zeros(1))
    twin.added, twin.bias = nn.ReLU(), None
    assert not layer._forward_hooks
    assert layer.bias is not None
    assert [name for name, _ in layer.named_buffers()] == []
    assert [name for name, _ in layer.named_children()] == ["child"]


def test_children_of_its_own_are_rebuilt_and_those_of_the_original_left_alone():
    layer = nn.Sequential(nn.BatchNorm2d(2), nn.Linear(2, 2))
    layer.register_module("absent", None)
    twin = with_own_children(shallow_copy(layer), to_identity, clone_tensor)
    assert isinstance(twin[0], nn.Identity)
    assert torch.equal(twin[1].weight, layer[1].weight)
    assert twin[1].weight is not layer[1].weight
    assert twin.absent is None
    assert isinstance(layer[0], nn.BatchNorm2d)


def test_without_hooks_a_layer_answers_as_if_it_had_none_and_the_original_keeps_them():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda _, __, output: output + 1)
    x = torch.rand(3, 2)
    torch.testing.assert_close(without_hooks(layer)(x), layer(x) - 1)


@pytest.mark.parametrize("shape", [(2, 1, 6, 6), (2, 3, 1, 1), (2, 3, 6, 6), (2, 5), ()])
def test_a_tensor_is_laid_out_by_its_strides_also_where_it_lies_both_ways(shape):
    tensor = torch.randn(shape)
    behind = tensor.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else tensor
    assert laid_out(behind).stride() == tensor.stride()
    assert torch.equal(laid_out(behind), tensor)
    assert laid_out(tensor).data_ptr() == tensor.data_ptr()
    assert laid_out(tensor, channels_last=True).is_contiguous(memory_format=torch.channels_last) or len(shape) < 4
    assert has_channels_last(behind) == (shape == (2, 3, 6, 6))
