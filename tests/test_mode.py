"""Networks evaluate within the block, and every part has its own mode again after it."""

import contextlib

from torch import nn

from art_oat.mode import evaluating


def test_every_part_has_its_own_mode_again_also_after_an_error():
    networks = [nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)), nn.Sequential(nn.Dropout())]
    networks[0][1].eval()
    before = [module.training for network in networks for module in network.modules()]
    with contextlib.suppress(KeyError), evaluating(*networks):
        assert not any(module.training for network in networks for module in network.modules())
        raise KeyError
    assert [module.training for network in networks for module in network.modules()] == before
