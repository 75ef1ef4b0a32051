import pytest
import torch
from torch import nn

from art_oat.surgery.tracing import cuttable_layers, perturbed_copy, structure
from tests.networks import Residual, conv, images


def structure_of(network: nn.Module):
    layers = cuttable_layers(network)
    return structure(network.double().eval().requires_grad_(requires_grad=False), layers, images())


def test_the_head_is_what_gives_the_answer_and_not_what_feeds_it():
    found = structure_of(Residual())
    assert found.heads == found.last == {"head"}


def test_a_convolution_behind_which_a_norm_comes_is_a_head_but_not_the_last_layer():
    found = structure_of(nn.Sequential(conv(1, 6), nn.BatchNorm2d(6)))
    assert (found.heads, found.last) == ({"0"}, set())


def test_layers_whose_outputs_are_added_share_the_unit_of_the_grouped_layer_that_one_of_them_feeds():
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = conv(1, 24), conv(1, 24), conv(1, 24)
            self.grouped, self.head = conv(24, 24, groups=3), nn.Linear(48, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = self.first(x), self.second(x)
            maps = self.grouped(first) + self.third(x), first + second
            return self.head(torch.cat([part.mean(dim=(2, 3)) for part in maps], dim=1))

    units = structure_of(Adds()).units
    assert units["first"] == units["second"] == 8


def test_a_network_that_casts_is_tried_in_single_precision():
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(1, 5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.float() / 255)

    subject, x = perturbed_copy(Casts(), (1, 6, 6))
    assert x.dtype == subject.head.weight.dtype == torch.float32


def test_the_perturbed_copy_has_no_weight_that_hides_anything():
    network = Residual()
    subject, x = perturbed_copy(network, None)
    assert x.shape[1] == 1
    for norm in subject.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert not (norm.bias == 0).any()
            assert not (norm.weight == 1).any()
            assert (norm.running_var > 0).all()
    assert (network.norm.weight == 1).all()


def test_what_does_not_run_is_said_with_the_shape_that_was_tried():
    with pytest.raises(ValueError, match=r"got \(2, 6, 6\). With \(2, 6, 6\) of torch.float64 it says: .*2 channels"):
        perturbed_copy(Residual(), (2, 6, 6))
