import re

import pytest
import torch
from torch import nn

from art_oat.models import SmallCNN, WideResNet, network_named, resnet18
from art_oat.models.registry import (
    ImageTask,
    check_network_name,
    network_kind,
    network_kinds,
    register_network,
    spelled,
)

OURS = {
    "small": lambda: SmallCNN(3, 7),
    "small-16-32": lambda: SmallCNN(3, 7, (16, 32)),
    "wrn-10-2": lambda: WideResNet(10, 2, in_channels=3, nb_classes=7),
    "resnet18": lambda: resnet18(3, 7),
}


@pytest.mark.parametrize("name", OURS)
def test_a_name_draws_the_weights_that_its_constructor_draws(name):
    torch.manual_seed(0)
    expected = OURS[name]().state_dict()
    torch.manual_seed(0)
    network = network_named(name, nb_classes=7)
    torch.testing.assert_close(network.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("size", [(8, 8), (32, 32)])
def test_every_spelling_of_our_own_is_a_name_that_scores_gray_and_colored_images(size):
    for kind in network_kinds():
        for spelling in kind.spellings if kind.is_own else ():
            name = spelling.partition(" ")[0]
            assert network_kind(name) is kind
            for in_channels in (1, 3):
                with torch.device("meta"):
                    network = network_named(name, in_channels=in_channels, nb_classes=7, image_size=size)
                    assert network(torch.empty(2, in_channels, *size)).shape == (2, 7)


def test_no_name_is_of_two_kinds():
    for spelling in spelled().split(", "):
        name = spelling.partition(" ")[0]
        assert sum(re.fullmatch(kind.pattern, name) is not None for kind in network_kinds()) <= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg", "network must be one of .*small-16-32-64 .channels.*, got 'vgg'"),
        ("resnet-18", "Did you mean resnet18"),
        ("wrn-11-1", r"depth must be 6 n \+ 4"),
        ("small-0", "network must be one of"),
        ("vit-40-2", "multiple of 32"),
    ],
)
def test_a_name_that_means_no_network_is_refused_with_what_is_near(name, message):
    with pytest.raises(ValueError, match=message):
        check_network_name(name)


def test_a_network_of_ones_own_gets_its_task_and_the_groups_of_its_name(monkeypatch):
    monkeypatch.setattr("art_oat.models.registry._KINDS", {})
    seen = []

    @register_network(r"line-(\d+)", "line-64 (neurons)")
    def line(task, nb_neurons):
        seen.append((task, nb_neurons))
        return nn.Linear(2, int(nb_neurons))

    assert network_named("line-5", in_channels=2, nb_classes=4, image_size=[6, 7]).out_features == 5
    assert seen == [(ImageTask(2, 4, (6, 7)), "5")]
    assert spelled() == "line-64 (neurons)"
