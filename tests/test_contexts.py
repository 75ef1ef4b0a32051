import contextlib

import torch
from torch import nn

from art_oat.contexts import borrowed_generators, evaluating


def test_every_part_has_its_own_mode_again_also_after_an_error():
    networks = [nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)), nn.Sequential(nn.Dropout())]
    networks[0][1].eval()
    before = [module.training for network in networks for module in network.modules()]
    with contextlib.suppress(KeyError), evaluating(*networks):
        assert not any(module.training for network in networks for module in network.modules())
        raise KeyError
    assert [module.training for network in networks for module in network.modules()] == before


def test_the_generator_comes_back_and_the_seed_decides_within():
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        with borrowed_generators(seed=seed):
            draws.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_without_a_seed_the_block_goes_on_where_the_generator_stood():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with borrowed_generators():
        assert torch.equal(torch.rand(3), expected)


def test_other_devices_are_not_seeded(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    with borrowed_generators(seed=1):
        pass
    assert seeded == []
