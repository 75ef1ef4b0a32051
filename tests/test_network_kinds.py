import pytest
import torch
from torch import nn

from art_oat.network_kinds import advice_for, check_model
from tests.networks import Residual
from tests.test_messages import WRAPPED


@pytest.mark.parametrize("wrap", WRAPPED, ids=lambda wrap: wrap.__name__)
def test_what_holds_a_network_is_told_apart_from_a_network(wrap):
    assert advice_for(Residual()) is None
    with pytest.raises(TypeError, match=f"network must be an OATModel, got .*: give .*{WRAPPED[wrap]}"):
        check_model(wrap(Residual()), "network")


@pytest.mark.parametrize(
    ("value", "advice"), [(Residual(), "convert it"), (nn.ReLU(), "convert it"), (torch.ones(1), "see to_conditional")]
)
def test_what_is_no_model_is_refused_with_the_way_to_one(value, advice):
    with pytest.raises(TypeError, match=f"model must be an OATModel, got {type(value).__name__}: {advice}"):
        check_model(value)
