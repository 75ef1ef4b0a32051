"""Networks that have activations computed again in the backward pass train as they do without."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from art_oat import PGD, OATClassifier, OATTrainer, to_conditional
from tests.networks import conv, images, labels


class Checkpointed(nn.Module):
    """Two blocks with norms of two kinds, the second within one that is checkpointed, too; and a head."""

    def __init__(self, *, dropout: float = 0.0, **options: object) -> None:
        super().__init__()
        self.options = options
        self.first = nn.Sequential(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.second = nn.Sequential(conv(8, 8), nn.GroupNorm(2, 8), nn.ReLU(), conv(8, 8), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def part(self, block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(block, x, **self.options) if self.options and self.training else block(x)

    def nested(self, x: Tensor) -> Tensor:
        return self.part(self.second, x + 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) if self.options.get("use_reentrant") else self.part(self.first, x)  # which needs a gradient
        x = checkpoint(self.nested, x, **self.options) if self.options and self.training else self.nested(x)
        return self.head(x.relu().mean(dim=(2, 3)))


def gradients(options: dict[str, object], widths: tuple[float, ...], statistics: str) -> dict[str, Tensor]:
    """Return gradients and statistics after a pass each of clean and of attacked samples, and one backward pass."""
    torch.manual_seed(0)
    network = Checkpointed(dropout=0.3, **options).double()
    model = to_conditional(network, (0, 0.5, 1), widths=widths, statistics=statistics, input_shape=(1, 6, 6)).train()
    assert model.recomputes == bool(options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, width = images(8), widths[0]
    clean = model(x, torch.tensor([0, 0.5, 1, 0, 0, 1, 0.5, 0], dtype=torch.float64), width)
    attacked = model(x, torch.tensor([1, 0.5, 1, 1, 0.5, 1, 0.5, 1], dtype=torch.float64), width)
    (clean.square().sum() + attacked.exp().sum()).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return found | {
        name: buffer for name, buffer in model.named_buffers() if "num_batches" in name or "running" in name
    }


@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize("statistics", ["dual", "shared"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_and_statistics_are_those_of_the_network_without_checkpointing(widths, statistics, reentrant):
    expected = gradients({}, widths, statistics)
    got = gradients({"use_reentrant": reentrant}, widths, statistics)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-12, atol=1e-12, msg=name)


def kept(options: dict[str, object]) -> int:
    """Return how many numbers are kept for the backward pass."""
    storages: dict[int, int] = {}
    model = to_conditional(Checkpointed(**options), input_shape=(1, 6, 6)).train()

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.data_ptr()] = tensor.numel()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda it: it):
        model.recomputes = False  # whose own hooks would be told instead
        model(images(64, torch.float32), torch.zeros(64))
    return sum(storages.values())


def test_fewer_activations_are_kept():
    assert kept({"use_reentrant": False}) < 0.5 * kept({})


@pytest.mark.parametrize(("reentrant", "awp"), [(False, 0.01), (True, None)])  # the reentrant form has no autograd.grad
def test_a_training_with_attack_gives_the_same_weights(reentrant, awp):
    found = []
    for options in ({}, {"use_reentrant": reentrant}):
        torch.manual_seed(0)
        model = to_conditional(Checkpointed(dropout=0.2, **options).double(), (0, 0.5, 1), input_shape=(1, 6, 6))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))
        trainer = OATTrainer(classifier, attack=PGD(0.1, nb_steps=2), loss="trades", weight_perturbation=awp)
        trainer.fit(images(16).numpy(), labels(16).numpy(), nb_epochs=2, batch_size=8, verbose=False)
        found.append(model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-10, atol=1e-10, msg=name)


def test_checkpointing_that_is_switched_on_later_asks_for_the_attribute_and_then_works():
    network = Checkpointed()
    model = to_conditional(network, input_shape=(1, 6, 6)).train()
    model.network.options = {"use_reentrant": False}
    with pytest.raises(RuntimeError, match="set recomputes = True"):
        model(images(4, torch.float32), 0.0).sum().backward()
    model.recomputes = True
    model(images(4, torch.float32), 0.0).sum().backward()


def test_a_layer_called_after_the_backward_pass_has_no_condition():
    model = to_conditional(Checkpointed(use_reentrant=False), input_shape=(1, 6, 6)).train()
    model(images(4, torch.float32), 0.0).sum().backward()
    with pytest.raises(RuntimeError, match="only inside its OATModel"):
        model.network.first(images(4, torch.float32))
