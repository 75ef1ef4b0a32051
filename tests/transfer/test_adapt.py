"""Both protocols, at every lam, with the dial or without."""

import pytest
import torch
from torch import nn

from art_oat import OATModel, fold, load_model, save_model, to_conditional
from art_oat.model_io import Architecture
from art_oat.models import SmallCNN
from art_oat.transfer import adapt, freeze_below, replace_head
from tests.networks import (
    WIDTHS,
    MobileSqueezeExcite,
    Residual,
    Scores,
    changed,
    images,
    shaken,
    state,
    train_by_everything,
)

SHAPE = (1, 6, 6)


@pytest.mark.parametrize("lam", [None, 0.3])
def test_a_transferred_network_loads_into_the_users_own_class(lam):
    network = adapt(shaken(SmallCNN(1, 10, (4, 6))), 7, lam=lam)
    folded = fold(network, 0.3) if lam is None else network
    own = SmallCNN(1, 7, (4, 6)).double().eval()
    own.load_state_dict(folded.state_dict(), strict=True)
    assert torch.equal(own(images()), folded.eval()(images()))


def test_a_transferred_conditional_network_is_saved_and_comes_back(tmp_path):
    model = replace_head(shaken(SmallCNN(1, 10, (4, 6))), 7)
    arguments = {"in_channels": 1, "nb_classes": 7, "channels": [4, 6]}
    save_model(model, tmp_path, Architecture("SmallCNN", arguments))
    assert torch.equal(load_model(tmp_path)(images(), lam=0.3), model(images(), lam=0.3))


def test_whole_numbers_among_the_parameters_are_left_alone():
    network = Scores(nn.Linear(4, 5))
    network.table = nn.Parameter(torch.arange(3), requires_grad=False)
    assert adapt(network, 7, protocol="fixed-feature", input_shape=SHAPE).head.weight.requires_grad
    assert freeze_below(network, "head", input_shape=SHAPE) == ("body",)


def test_the_features_of_the_fixed_feature_protocol_are_fixed_also_in_training():
    network = adapt(MobileSqueezeExcite(), 7, protocol="fixed-feature", input_shape=SHAPE).train()
    assert {name for name, it in network.named_parameters() if it.requires_grad} == {"head.weight", "head.bias"}
    before, x = state(network), images(dtype=torch.float32)
    assert torch.equal(network(x), network(x))  # no dropout, no statistics of batches
    assert not changed(network, before)


def test_a_conditional_network_of_fixed_features_trains_its_head_alone_at_every_lam():
    model = adapt(shaken(Residual(), torch.float32), 5, protocol="fixed-feature")
    before = state(model)
    train_by_everything(model)
    assert changed(model, before) == {"network.head.weight", "network.head.bias"}


def test_all_of_the_full_network_is_trained_whatever_was_frozen():
    source = Residual().requires_grad_(requires_grad=False)
    freeze_below(source, "norm")
    network = adapt(source, 7)
    assert all(it.requires_grad for it in network.parameters())
    before = state(network)
    network.train()(images(dtype=torch.float32))
    assert any("body" in name for name in changed(network, before))


@pytest.mark.parametrize(("lam", "width"), [(0.3, None), (None, 0.5), (1.0, 0.75)])
def test_a_lam_or_a_width_gives_the_features_there_and_the_dial_up(lam, width):
    model = shaken(Residual(), widths=WIDTHS)
    network = adapt(model, 7, lam=lam, width=width, seed=5)
    expected = replace_head(fold(model, model.point(lam, width)), 7, seed=5)
    assert type(network) is Residual
    assert torch.equal(network(images()), expected(images()))
    assert isinstance(adapt(model, 7), OATModel)


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (Residual(), {"lam": 0.3}, "lam and width must be None for a Residual: it has no dials"),
        (
            Residual(),
            {"protocol": "linear"},
            r"protocol must be one of \('fixed-feature', 'full-network'\), got 'linear'",
        ),
        (to_conditional(Residual()), {"lam": 2.5}, r"lam must lie in \[0, 1\], or above 1 and below 2 .*, got 2.5"),
        (to_conditional(Residual()), {"width": 0.5}, "width must be one of"),
    ],
)
def test_a_transfer_that_makes_no_sense_is_refused(source, arguments, message):
    with pytest.raises(ValueError, match=message):
        adapt(source, 7, **arguments)
