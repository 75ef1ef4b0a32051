import torch
from torch import nn

from tests.remembered import remembered


def make(network: nn.Module, factor: float) -> nn.Module:
    network = nn.Linear(3, 3) if factor == 0 else network
    return nn.Sequential(network, nn.Linear(2, 2))


def made(seed: int, network: nn.Module, factor: float = 1.0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    return remembered(make, network, factor), torch.rand(3)


def is_same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


def test_what_is_remembered_is_what_would_be_made_and_so_are_the_draws_after_it():
    network = nn.Linear(2, 2)
    (first, draws), (second, draws_again) = (made(0, network) for _ in "12")
    assert is_same(first, second)
    assert torch.equal(draws, draws_again)


def test_a_test_that_changes_what_it_got_changes_nothing_of_another():
    network = nn.Linear(2, 2)
    first, _ = made(0, network)
    expected = [parameter.clone() for parameter in first.parameters()]
    for _ in range(2):
        for parameter in made(0, network)[0].parameters():
            parameter.data.zero_()
    assert all(torch.equal(*pair) for pair in zip(made(0, network)[0].parameters(), expected, strict=True))


def test_other_seeds_weights_flags_and_arguments_are_made_anew():
    network = nn.Linear(2, 2)
    first, _ = made(0, network)
    assert not is_same(made(1, network)[0], first)
    with torch.no_grad():
        network.weight.add_(1)
    assert not is_same(made(0, network)[0], first)
    network.requires_grad_(requires_grad=False)
    assert not made(0, network)[0][0].weight.requires_grad
    assert made(0, network, 0.0)[0][0].weight.shape == (3, 3)
