"""What is no network with weights of its own is refused wherever one is asked for."""

import pytest
import torch
from torch import nn

from art_oat import to_conditional
from art_oat.transfer import adapt, find_head, freeze_below, replace_head
from tests.networks import (
    Residual,
)


def test_what_is_no_network_with_weights_of_its_own_is_refused(classifier):
    for make in (lambda it: replace_head(it, 7), lambda it: adapt(it, 7), lambda it: freeze_below(it, "head")):
        with pytest.raises(TypeError, match=r"got OATClassifier. A classifier's is classifier.model"):
            make(classifier)
        with pytest.raises(TypeError, match=r"PinnedNetwork: use fold\(model, point\)"):
            make(classifier.model.pinned())


def test_a_network_around_a_conditional_one_and_a_compiled_one_are_refused():
    with pytest.raises(TypeError, match="must not hold an OATModel, got one in a Sequential: transfer that"):
        adapt(nn.Sequential(nn.Identity(), to_conditional(Residual())), 7, lam=0.3)
    with pytest.raises(TypeError, match=r"must be an eager torch\.nn\.Module, got a OptimizedModule"):
        find_head(torch.compile(Residual()))
