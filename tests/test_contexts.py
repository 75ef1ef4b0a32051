import contextlib
import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from art_oat.contexts import borrowed_generators, evaluating, recomputed, traceless


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


@pytest.mark.slow(seconds=1)
def test_what_is_recomputed_is_not_kept_and_its_gradient_is_the_same():
    x, weight = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    middle = x.exp().sin()
    expected = torch.autograd.grad((middle * weight).sum(), (x, weight))
    middle = x.exp().sin()
    kept = weakref.ref(middle)
    with recomputed(middle, lambda: x.detach().exp().sin()):
        result = (middle.view(12) * weight.view(12)).sum()
    del middle
    gc.collect()
    assert kept() is None
    for actual, wanted in zip(torch.autograd.grad(result, (x, weight)), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_passes_without_trace_leave_statistics_and_what_is_drawn_next_as_they_were():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    before, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    with traceless(network):
        network(torch.randn(8, 3))
        assert not torch.equal(network[0].running_mean, before["0.running_mean"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
