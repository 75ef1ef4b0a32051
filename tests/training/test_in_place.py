"""Layers that work in place after a norm train, and train as their copies do that do not."""

import pytest
import torch
from torch import Tensor, nn

from art_oat import PGD, OATClassifier, OATTrainer, to_conditional
from tests.networks import labels
from tests.pairs import parametrize_in_pairs

_SHAPES = {1: (3, 12), 2: (3, 6, 6), 3: (3, 4, 4, 4)}
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Block(nn.Module):
    """Works on what its norms give by every operation that there is, in place or not."""

    def __init__(self, dimensions: int, *, is_in_place: bool) -> None:
        super().__init__()
        make, norm = _CONVOLUTIONS[dimensions], _NORMS[dimensions]
        self.convolutions = nn.ModuleList([make(3, 20, 3, padding=1), make(20, 20, 3, padding=1)])
        self.norms = nn.ModuleList([norm(20), norm(20)])
        self.activation = nn.LeakyReLU(0.1, inplace=is_in_place)
        self.head = nn.Linear(20, 5)
        self.is_in_place = is_in_place

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.norms
        x = self.activation(first(self.convolutions[0](x)))
        y = second(self.convolutions[1](x))
        if self.is_in_place:
            y += x
            y.mul_(0.5)
            y[:, :2] = 0
            y.relu_()
        else:
            y = (y + x) * 0.5
            y = torch.cat([torch.zeros_like(y[:, :2]), y[:, 2:]], dim=1).relu()
        return self.head(y.flatten(2).mean(dim=2))


def trained(
    dimensions: int, *, is_in_place: bool, dtype: torch.dtype, is_last: bool, **options: object
) -> list[Tensor]:
    """All tensors after two steps, from the same start whatever is in place."""
    torch.manual_seed(0)
    precision = options.pop("precision", "float32")
    network = Block(dimensions, is_in_place=is_in_place).to(dtype)
    if is_last:
        network = network.to(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[dimensions])
    shape = _SHAPES[dimensions]
    model = to_conditional(network, (0, 0.5, 1), input_shape=shape, **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), shape, 5, optimizer, clip_values=(0, 1))
    x = torch.rand(16, *shape, generator=torch.Generator().manual_seed(1)).numpy()
    trainer = OATTrainer(classifier, attack=PGD(0.1, nb_steps=2), precision=precision)
    trainer.fit(x, labels(16).numpy(), nb_epochs=1, batch_size=8, verbose=False)
    return [tensor.detach() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("statistics", ["dual", "shared"])
@pytest.mark.parametrize(("dimensions", "is_last"), [(1, False), (2, False), (2, True), (3, False), (3, True)], ids=str)
def test_layers_in_place_train_as_their_copies_do(dimensions, is_last, statistics):
    runs = [
        trained(dimensions, is_in_place=it, dtype=torch.float64, is_last=is_last, statistics=statistics)
        for it in (True, False)
    ]
    torch.testing.assert_close(*runs)  # float64: sums in another order


@parametrize_in_pairs(
    film_on=[None, ()], precision=["float32", "bf16"], is_last=[True, False], widths=[(1.0,), (0.5, 1.0)]
)
def test_layers_in_place_train_in_every_precision(precision, is_last, film_on, widths):
    options = {"precision": precision, "film_on": film_on, "widths": widths}
    state = trained(2, is_in_place=True, dtype=torch.float32, is_last=is_last, **options)
    assert all(bool(tensor.isfinite().all()) for tensor in state)


def trained_otherwise(how: str, *, is_in_place: bool) -> list[Tensor]:
    torch.manual_seed(0)
    model = to_conditional(Block(2, is_in_place=is_in_place).double(), (0, 0.5, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = torch.rand(8, *_SHAPES[2], dtype=torch.float64, generator=torch.Generator().manual_seed(1)), labels(8)
    if how == "fit of the classifier":
        classifier = OATClassifier(model, nn.CrossEntropyLoss(), _SHAPES[2], 5, optimizer, clip_values=(0, 1))
        classifier.fit(x.numpy(), y.numpy(), nb_epochs=1, batch_size=8)
    else:
        lam = None if how == "one lam" else torch.linspace(0, 1, 8, dtype=torch.float64)
        nn.functional.cross_entropy(model.train()(x, lam), y).backward()
        optimizer.step()
    return [tensor.detach() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("how", ["fit of the classifier", "one lam", "a lam per sample"])
def test_layers_in_place_train_in_any_loop(how):
    torch.testing.assert_close(*(trained_otherwise(how, is_in_place=it) for it in (True, False)))
