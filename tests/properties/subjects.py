"""What entries are tried on: tiny networks at two widths, and what they answer according to plain torch and ART."""

import copy
import functools
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_oat import OATClassifier, OATModel, OperatingPoint, fold, to_conditional
from art_oat.contexts import borrowed_generators

SHAPE, NB_CLASSES = (1, 4, 4), 3
LAMBDAS, WIDTHS = (0.0, 0.25, 1.0), (0.5, 1.0)


class Tiny(nn.Module):
    """A convolution, two norms of two kinds, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, NB_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.stem(x))).mean(dim=(2, 3)))


def seeded(make: Any) -> Any:
    """What is made while torch's generator is lent, so that nothing is drawn from it."""
    with borrowed_generators(seed=0):
        return make()


@functools.cache
def plain() -> Tiny:
    return seeded(Tiny).eval()


@functools.cache
def _model() -> OATModel:
    model = to_conditional(plain(), LAMBDAS, widths=WIDTHS, input_shape=SHAPE)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.mul_(1 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


def model() -> OATModel:
    """A copy of one and the same conditional network, every part of which has a value of its own."""
    return copy.deepcopy(_model())


def classifier(**options: Any) -> OATClassifier:
    """A classifier of such a copy, with an optimizer that has taken no step."""
    own = model()
    arguments = {"clip_values": (0, 1), "device_type": "cpu", **options}
    optimizer = torch.optim.SGD(own.parameters(), 0.1, momentum=0.9)
    return OATClassifier(own, nn.CrossEntropyLoss(), SHAPE, NB_CLASSES, optimizer, **arguments)


@functools.cache
def folded(lam: float, width: float) -> nn.Module:
    """The plain network at one point, which is the reference of all that answers there."""
    return fold(_model(), OperatingPoint(lam, width))


@functools.cache
def plain_classifier(lam: float, width: float) -> PyTorchClassifier:
    """The same as a classifier of ART's own."""
    return PyTorchClassifier(
        copy.deepcopy(folded(lam, width)),
        nn.CrossEntropyLoss(),
        SHAPE,
        NB_CLASSES,
        clip_values=(0, 1),
        device_type="cpu",
    )


def as_tensor(x: Any) -> Tensor:
    """Inputs of whatever form, as the network sees them."""
    x = x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.array(x, dtype=np.float32))
    return x.float()


def scores(x: Any, lam: Any = 0.0, width: Any = 1.0) -> np.ndarray:
    """What plain networks answer, sample by sample where lam is one per sample."""
    x, lams = as_tensor(x), np.broadcast_to(np.asarray(lam, dtype=np.float64), (len(x),))
    with torch.no_grad():
        rows = [folded(float(one), float(width))(x[k : k + 1]) for k, one in enumerate(lams)]
    return torch.cat(rows).numpy() if rows else np.empty((0, NB_CLASSES), dtype=np.float32)
