"""Networks with something unusual about them, each of which must convert, pin and fold exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.networks import conv


class Head(nn.Module):
    """Body of two convolutions with norms, and a linear head; subclasses exchange parts of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(1, 6), conv(6, 6)
        self.norm1, self.norm2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def features(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(x)))

    def forward(self, x: Tensor) -> object:
        return self.head(self.features(x).mean(dim=(2, 3)))


class ReturnsTuple(Head):
    def forward(self, x: Tensor) -> object:
        features = self.features(x)
        return self.head(features.mean(dim=(2, 3))), features


class ReturnsDict(Head):
    def forward(self, x: Tensor) -> object:
        features = self.features(x)
        return {"scores": self.head(features.mean(dim=(2, 3))), "maps": [features]}


class TiedNorms(Head):
    """Two norms with weights in common, each with statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm2.weight, self.norm2.bias = self.norm1.weight, self.norm1.bias


class TiedConvolutions(Head):
    def __init__(self) -> None:
        super().__init__()
        self.conv3 = conv(6, 6)
        self.conv3.weight = self.conv2.weight

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + self.conv3(torch.relu(self.norm1(self.conv1(x))))


class Synchronized(Head):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.SyncBatchNorm(6)


class CumulativeAverage(Head):
    """A norm whose statistics are the plain average over all batches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(6, momentum=None)


class Derived(Head):
    """Convolutions whose weights are computed from others, in the new way and in the old one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = parametrizations.weight_norm(self.conv1)
        self.conv2 = parametrizations.spectral_norm(self.conv2)
        self.head = torch.nn.utils.weight_norm(self.head)


class Volumetric(nn.Module):
    """Norms of one and of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU())
        self.line = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        volume = self.volume(torch.stack([x, 1 - x], dim=2)).mean(dim=(2, 3))
        return self.head(self.line(volume).mean(dim=2))


class Listed(nn.Module):
    """Modules in a plain list beside their registration, and a dropout that is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(conv(1, 6), nn.BatchNorm2d(6)), nn.BatchNorm2d(6)])
        self.in_order = [self.blocks[0], self.blocks[1]]
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.in_order:
            x = torch.relu(block(x))
        return self.head(nn.functional.dropout(x, 0.3, self.training).mean(dim=(2, 3)))


class NonAffine(Head):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(6, affine=False)


class Mixed(Head):
    """Batch norm beside norms of other kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.norm2 = nn.GroupNorm(2, 6)
        self.head = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5))


class Fickle(Head):
    """A norm that normalizes by the batch in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm2 = nn.BatchNorm2d(6, track_running_stats=False)


class NormActivation(nn.BatchNorm2d):
    """A batch norm with dropout and activation inside, as large zoos have them."""

    def __init__(self, nb_channels: int) -> None:
        super().__init__(nb_channels)
        self.dropout = nn.Dropout(0.3)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dropout(super().forward(x)))


class Fused(Head):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = NormActivation(6), NormActivation(6)


def traced() -> nn.Module:
    """A network that torch.fx rebuilt."""
    return torch.fx.symbolic_trace(Head())


ODD = (
    Head,
    ReturnsTuple,
    ReturnsDict,
    TiedNorms,
    TiedConvolutions,
    Synchronized,
    CumulativeAverage,
    Derived,
    Volumetric,
    Listed,
    Fused,
    traced,
)
