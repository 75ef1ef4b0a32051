"""What is no network with weights of its own is refused wherever one is asked for."""

from functools import partial

import pytest
import torch
from torch import nn

from art_oat import to_conditional
from art_oat.transfer import LinearProbe, adapt, find_head, freeze_below, replace_head
from tests.networks import Residual

TAKES = [
    find_head,
    partial(replace_head, nb_classes=7),
    partial(adapt, nb_classes=7),
    partial(freeze_below, path="head"),
]


@pytest.mark.parametrize("take", [*TAKES, LinearProbe])
def test_what_is_no_network_with_weights_of_its_own_is_refused(classifier, take):
    around = nn.Sequential(nn.Identity(), to_conditional(Residual()))
    for network, message in [
        (classifier, r"got OATClassifier. A classifier's is classifier.model"),
        (classifier.model.pinned(), r"PinnedNetwork: use fold\(model, lam=..., width=...\)"),
        (around, "must not hold an OATModel, got one in a Sequential: transfer that"),
        (torch.compile(Residual()), r"must be an eager torch\.nn\.Module, got a OptimizedModule"),
    ]:
        with pytest.raises(TypeError, match=message):
            take(network)
