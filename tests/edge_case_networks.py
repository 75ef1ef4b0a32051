"""Networks with something unusual: ``ODD`` must convert, pin and fold exactly, ``REFUSED`` must not be slimmed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
        self.extend()

    def extend(self) -> None:
        """Add parts, or exchange them."""

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

    def extend(self) -> None:
        self.norm2.weight, self.norm2.bias = self.norm1.weight, self.norm1.bias


class TiedConvolutions(Head):
    def extend(self) -> None:
        self.conv3 = conv(6, 6)
        self.conv3.weight = self.conv2.weight

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + self.conv3(torch.relu(self.norm1(self.conv1(x))))


class Synchronized(Head):
    def extend(self) -> None:
        self.norm1 = nn.SyncBatchNorm(6)


class CumulativeAverage(Head):
    """A norm whose statistics are the plain average over all batches."""

    def extend(self) -> None:
        self.norm1 = nn.BatchNorm2d(6, momentum=None)


class Derived(Head):
    """Convolutions whose weights are computed from others, in the new way and in the old one."""

    def extend(self) -> None:
        self.conv1 = parametrizations.weight_norm(self.conv1)
        self.conv2 = parametrizations.spectral_norm(self.conv2)
        self.head = torch.nn.utils.weight_norm(self.head)


class Volumetric(nn.Module):
    """Norms of one and of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.LeakyReLU())
        self.line = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.LeakyReLU())
        self.head = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.LeakyReLU(), nn.Linear(6, 5))

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
    def extend(self) -> None:
        self.norm1 = nn.BatchNorm2d(6, affine=False)


class Mixed(Head):
    """Batch norm beside norms of other kinds."""

    def extend(self) -> None:
        self.norm2 = nn.GroupNorm(2, 6)
        self.head = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5))


class Fickle(Head):
    """A norm that normalizes by the batch in evaluation, too."""

    def extend(self) -> None:
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
    def extend(self) -> None:
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


class Concatenates(Head):
    def extend(self) -> None:
        self.conv3, self.norm3 = conv(12, 6), nn.BatchNorm2d(6)

    def features(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.cat([x, torch.relu(self.norm2(self.conv2(x)))], dim=1)
        return torch.relu(self.norm3(self.conv3(x)))


class Gates(Head):
    """Multiplies one half of the channels by a gate from the other."""

    def extend(self) -> None:
        self.conv3, self.norm3 = conv(6, 12), nn.BatchNorm2d(6)

    def features(self, x: Tensor) -> Tensor:
        value, gate = self.conv3(super().features(x)).chunk(2, dim=1)
        return torch.relu(self.norm3(value * torch.sigmoid(gate)))


class Shuffles(Head):
    """Shuffles channels, as ShuffleNet does."""

    def features(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = x.view(len(x), 2, 3, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return torch.relu(self.norm2(self.conv2(x)))


class Interleaves(Head):
    """Flattens its maps with the channels last."""

    def extend(self) -> None:
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.adaptive_avg_pool2d(self.features(x), 2)
        return self.head(maps.movedim(1, -1).flatten(1))


class Competes(Head):
    """Takes the softmax over channels."""

    def features(self, x: Tensor) -> Tensor:
        x = torch.softmax(self.norm1(self.conv1(x)), dim=1)
        return torch.relu(self.norm2(self.conv2(x)))


class Attends(Head):
    """Weighs places by their mean over channels."""

    def extend(self) -> None:
        self.gate = conv(1, 1)

    def features(self, x: Tensor) -> Tensor:
        x = super().features(x)
        return x * torch.sigmoid(self.gate(x.mean(dim=1, keepdim=True)))


class SixMaps(nn.Module):
    """Averages six maps."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), 6, *x.shape[2:]).mean(dim=(2, 3))


class Counts(Head):
    """A part of it has the number of channels written in its forward."""

    def extend(self) -> None:
        self.pool = SixMaps()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)))


class Divides(Head):
    """Divides by the number of channels."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).sum(dim=(2, 3))
        return self.head(x / x.shape[1])


class LayerNormed(Head):
    def extend(self) -> None:
        self.head = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5))


class DerivedInside(Head):
    """A convolution whose weight is computed from others, before an ordinary one."""

    def extend(self) -> None:
        self.conv2 = parametrizations.weight_norm(self.conv2)
        self.conv3, self.norm3 = conv(6, 6), nn.BatchNorm2d(6)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm3(self.conv3(super().features(x))))


class PadsShortcut(Head):
    """A shortcut that pads channels on both sides ("option A" of He et al. 2016)."""

    def extend(self) -> None:
        self.conv3, self.norm3 = conv(6, 12, stride=2), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 5)

    def features(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3))
        return torch.relu(shortcut + self.norm3(self.conv3(torch.relu(self.norm2(self.conv2(x))))))


class Scales(Head):
    """Multiplies channels by a weight that belongs to no layer."""

    def extend(self) -> None:
        self.scale = nn.Parameter(torch.ones(6, 1, 1))

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) * self.scale


class Scale(nn.Module):
    """A layer of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class ScalesByLayer(Head):
    def extend(self) -> None:
        self.scale = Scale()

    def features(self, x: Tensor) -> Tensor:
        return self.scale(super().features(x))


class ReturnsDetached(Head):
    """Returns maps beside its scores, without gradient."""

    def forward(self, x: Tensor) -> object:
        features = self.features(x)
        return self.head(features.mean(dim=(2, 3))), features.detach()


class Standardizes(nn.Conv2d):
    """A convolution that standardizes each filter."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) * torch.rsqrt(variance + self.eps), None)

    eps = 1e-5


class StandardizesWeights(Head):
    def extend(self) -> None:
        self.conv2 = Standardizes(6, 6, 3, padding=1, bias=False)
        self.conv3, self.norm3 = conv(6, 6), nn.BatchNorm2d(6)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm3(self.conv3(super().features(x))))


class NamesInput(Head):
    """Gives a convolution its input by keyword."""

    def features(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(input=x)))


@dataclass(frozen=True)
class Refused:
    """A network that cannot be slimmed.

    Attributes:
        make: Returns it.
        path: Of the layer at which that shows, with its type, as the message names it.
        fault: What the message says of it; a regular expression.
        full_width: What has to keep all channels so that the rest can be slimmed; empty where there is no such way.
        keep: Norms that are not converted.
    """

    make: Callable[[], nn.Module]
    path: str
    fault: str
    full_width: Sequence[str] = ()
    keep: Sequence[str] = ()


REFUSED = (
    Refused(Concatenates, "conv3 (Conv2d)", r"channels 0-2, 6-8 of 12.* concatenates", ["conv1"]),
    Refused(Gates, "norm3 (BatchNorm2d)", "each channel it gets depends on dropped ones", ["conv3"]),
    Refused(Shuffles, "conv2 (Conv2d)", "channels 0, 2, 4 of 6, .* reorders channels", ["conv1"]),
    Refused(Interleaves, "head (Linear)", "not the first 12: .* reorders channels", ["conv2"]),
    Refused(Competes, "conv2 (Conv2d)", "each channel it gets depends on dropped ones", ["conv1"]),
    Refused(Attends, "gate (Conv2d)", "each channel it gets depends on dropped ones", ["conv2"]),
    Refused(Counts, "pool (SixMaps)", "its forward fails, as if it counted on all channels", ["conv2"]),
    Refused(Divides, "head (Linear)", "something before it counts on all channels", ["conv2"]),
    Refused(LayerNormed, "head.0 (LayerNorm)", "are not those of all with the rest masked", ["conv2"], ["head.0"]),
    Refused(DerivedInside, "conv2 (ParametrizedConv2d)", "its weights are computed from others", ["conv1", "conv2"]),
    Refused(PadsShortcut, "the network itself (PadsShortcut)", "its forward fails", ["conv1", "conv3"]),
    Refused(Scales, "the network itself (Scales)", "its forward fails, .* size of tensor", ["conv2"]),
    Refused(ScalesByLayer, "scale (Scale)", "layers of its type cannot be cut", ["conv2"]),
    Refused(
        ReturnsDetached, "the network itself (ReturnsDetached)", "it does not return what it returns with", ["conv2"]
    ),
    Refused(StandardizesWeights, "norm2 (BatchNorm2d)", "something before it counts on all channels", ["conv1"]),
    Refused(NamesInput, "conv2 (Conv2d)", "gets its input by keyword"),
    Refused(Derived, "conv1 (ParametrizedConv2d)", "its weights are computed from others"),
)
"""Every way we know of not to equal the full network with the dropped channels masked."""
