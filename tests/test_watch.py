"""What changes in a network beside its tensors reaches every form of it."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from art_oat import OATModel, fold, to_conditional
from art_oat.watch import Watch
from tests.networks import conv, images


class Adjustable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(1, 4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.scale = 1.0
        self.scales = {"all": [1.0, 1.0]}
        self.setting = SimpleNamespace(scale=1.0)
        self.offset = torch.zeros(5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale * self.scales["all"][0] * self.setting.scale
        return self.head(self.norm(self.conv(x)).relu().mean(dim=(2, 3)) * scale) + self.offset


def exchange_head(network: nn.Module) -> None:
    network.head = nn.Linear(4, 5)


def add_hook(network: nn.Module) -> None:
    network.conv.register_forward_hook(lambda _, __, output: 2 * output)


def widen_eps(network: nn.Module) -> None:
    network.norm.clean.eps = network.norm.adversarial.eps = 0.5


CHANGES = {
    "an attribute": lambda network: setattr(network, "scale", 2.0),
    "a value in a container": lambda network: network.scales["all"].__setitem__(0, 2.0),
    "an attribute of an object": lambda network: setattr(network.setting, "scale", 2.0),
    "a plain tensor": lambda network: setattr(network, "offset", torch.ones(5)),
    "a plain tensor in place": lambda network: network.offset.add_(1),
    "a layer": exchange_head,
    "a layer without weights": lambda network: setattr(network, "conv", nn.Sequential(network.conv, nn.Tanh())),
    "a hook": add_hook,
    "eps of a norm": widen_eps,
}


@pytest.fixture
def model() -> OATModel:
    model = to_conditional(Adjustable()).train()
    model(images(8, torch.float32), 0.0)
    model(images(8, torch.float32), 0.3)
    return model.eval()


@pytest.mark.parametrize("change", CHANGES)
def test_every_form_follows_a_change_of(change, model):
    x = images(4, torch.float32)
    pinned = model.pinned(0.3)
    before = pinned(x)
    CHANGES[change](model.network)
    after = model(x, 0.3)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(pinned(x), after)
    torch.testing.assert_close(fold(model, 0.3)(x), after)
    live = model.live_network()
    live.set_lam(torch.full((4,), 0.3))
    torch.testing.assert_close(live(x), after)


def test_a_hook_that_is_taken_away_again_is_followed(model):
    x, pinned = images(4, torch.float32), model.pinned(0.3)
    handle = model.network.conv.register_forward_hook(lambda _, __, output: 2 * output)
    pinned(x)
    handle.remove()
    torch.testing.assert_close(pinned(x), model(x, 0.3))


def test_modes_and_equal_values_are_no_change():
    network = Adjustable()
    watch = Watch(network)
    network.eval()
    network.scale, network.scales["all"] = float("1.0"), [1.0, 1.0]
    assert not watch.has_changed()
    network.scales["all"][1] = 2.0  # of the list that is there now
    assert watch.has_changed()


def test_what_a_pass_leaves_behind_is_no_change_and_what_is_set_is():
    network = nn.Linear(2, 2)
    network.scaled = network.weight * 2
    watch = Watch(network)
    network.scaled = network.weight * 3
    assert not watch.has_changed()
    network.scaled = torch.ones(2, 2)
    assert watch.has_changed()
