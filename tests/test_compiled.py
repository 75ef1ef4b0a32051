import pytest
import torch
from torch import nn

from art_oat import compiled, to_conditional
from art_oat.compiled import compiler_faults
from tests.networks import LAMBDAS, WIDTHS, Residual, images, labels


def gradient(network, x, y) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(nn.functional.cross_entropy(network(x), y), x)[0]


@pytest.mark.slow(seconds=1)
def test_networks_of_one_class_and_other_widths_are_each_compiled_once_and_once_more_for_all_other_batches(counter):
    torch.manual_seed(0)
    networks = [
        nn.Sequential(nn.Conv2d(1, nb_channels, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * nb_channels, 5))
        for nb_channels in range(2, 8)
    ]
    calls = [compiled.compiled(network) for network in networks]
    for nb_samples in (8, 8, 5, 3, 8):
        x, y = images(nb_samples, torch.float32), labels(nb_samples)
        for network, call in zip(networks, calls, strict=True):
            torch.testing.assert_close(gradient(call, x, y), gradient(network, x, y))
    assert counter.frame_count == 2 * len(networks)


@pytest.mark.slow(seconds=1)
def test_a_compiled_live_network_follows_training_without_being_compiled_again(counter):
    torch.manual_seed(0)
    model = to_conditional(Residual(), LAMBDAS, widths=WIDTHS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lives = [[model.live_network(width, compiles=compiles) for compiles in (False, True)] for width in WIDTHS]
    seen = []
    for nb_samples in (12, 12, 7, 12, 5):  # the last batch of an epoch is smaller
        x, y = images(nb_samples, torch.float32), labels(nb_samples)
        lam = torch.tensor(LAMBDAS)[torch.randint(len(LAMBDAS), (nb_samples,))]
        for plain, fast in lives:
            plain.set_lam(lam)
            fast.set_lam(lam)
            expected = gradient(plain, x, y)
            torch.testing.assert_close(gradient(fast, x, y), expected)
            seen.append(expected)
        optimizer.zero_grad()
        model.train()
        sum(nn.functional.cross_entropy(model(x, lam, width), y) for width in WIDTHS).backward()
        optimizer.step()
    assert all(gradient.abs().sum() > 0 for gradient in seen)
    assert counter.frame_count == 2 * len(WIDTHS)


@pytest.mark.slow(seconds=1)
def test_a_network_that_is_linked_anew_is_compiled_anew(counter):
    model = to_conditional(Residual(), LAMBDAS)
    plain, fast = (model.live_network(compiles=compiles) for compiles in (False, True))
    x = images(4, torch.float32)
    before = fast(x)
    model.network.register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(fast(x), 2 * before)
    torch.testing.assert_close(fast(x), plain(x))


def test_without_a_compiler_it_is_said_what_is_missing(monkeypatch):
    from torch._inductor import cpp_builder

    def fail() -> str:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", fail)
    [fault] = compiler_faults(torch.device("cpu"))
    assert fault.startswith("torch.compile needs a C++ compiler, such as g++ in PATH")
