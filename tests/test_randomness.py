import torch

from art_oat.randomness import borrowed_generators


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
