import torch
from torch import nn

from art_oat.layers.slim_rules import is_cuttable
from art_oat.surgery.diagnosis import diagnose
from tests.networks import Dense, conv, images


def reasons_of(network: nn.Module, **outputs: int) -> dict[str, str]:
    layers = {path: part for path, part in network.named_modules() if is_cuttable(part)}
    return diagnose(
        network.double().eval(), layers, {path.replace("_", "."): nb for path, nb in outputs.items()}, images()
    )


def test_the_channels_that_arrive_are_named_where_they_are_not_the_first():
    found = reasons_of(Dense(), stem=2, grow=3, head=5)
    assert list(found) == ["final_norm"]
    assert "it gets channels 0-1, 4-6 of 8, which are not the first 5" in found["final_norm"]


def test_what_mixes_channels_is_told_from_what_reorders_them():
    shuffled = reasons_of(nn.Sequential(conv(1, 4), nn.ChannelShuffle(2), conv(4, 4)), **{"0": 2, "2": 4})
    mixed = reasons_of(nn.Sequential(conv(1, 4), nn.Softmax(dim=1), conv(4, 4)), **{"0": 2, "2": 4})
    assert "it gets channels 0, 2 of 4" in shuffled["2"]
    assert "each channel it gets depends on dropped ones" in mixed["2"]


def test_a_layer_that_cannot_be_cut_is_named_itself_and_nothing_behind_it():
    network = nn.Sequential(conv(1, 4), nn.LayerNorm([4, 6, 6]), conv(4, 4))
    assert list(reasons_of(network, **{"0": 2, "2": 4})) == ["1"]


def test_channels_that_are_no_whole_groups_are_counted():
    found = reasons_of(nn.Sequential(conv(1, 6), conv(6, 6, groups=3)), **{"0": 3})
    assert found["1"] == "it gets 3 channels, which are no whole groups of 2"


def test_a_network_whose_last_channels_are_dropped_throughout_has_no_fault():
    network = nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), nn.Sigmoid(), conv(4, 5), nn.Flatten(), nn.Linear(180, 3))
    assert reasons_of(network, **{"0": 2, "3": 2, "5": 3}) == {}
    assert torch.isfinite(network(images())).all()
