"""Small plain networks of many kinds, and data that fits them.

Those that take a ``width`` are built with ``ceil(width * C)`` channels wherever they have ``C``.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat import PGD, OATClassifier, OATModel, OATTrainer, WeightPerturbation, to_conditional
from art_oat.layers import FollowedNorm, NormLayer
from art_oat.models import ConvNeXt, ImageTask, ResNet, SmallCNN, ViT
from art_oat.training import RestoreBest
from tests.remembered import remembered

LAMBDAS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
TRAINED_AND_UNSEEN = (*LAMBDAS, 0.05, 0.7)
WIDTHS = (0.5, 0.75, 1.0)


def kept(width: float, nb_channels: int) -> int:
    """How many channels are left; exact for the widths above and few channels."""
    return math.ceil(width * nb_channels)


def conv(before: int, after: int, kernel: int = 3, groups: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)


class Residual(nn.Module):
    """A residual block with a norm on its shortcut, and a head behind a norm without spatial size."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        few, many = kept(width, 6), kept(width, 8)
        self.body = nn.Sequential(
            conv(1, few), nn.BatchNorm2d(few), nn.ReLU(), conv(few, many, stride=2), nn.BatchNorm2d(many)
        )
        self.shortcut = nn.Sequential(conv(1, many, 1, stride=2), nn.BatchNorm2d(many))
        self.norm = nn.BatchNorm1d(many)
        self.head = nn.Linear(many, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(x) + self.shortcut(x))
        return self.head(self.norm(x.mean(dim=(2, 3))))


class SharedNorm(nn.Module):
    """One norm called twice, and held in a plain list beside a second one that the list alone holds."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        nb_channels = kept(width, 6)
        self.first, self.second = conv(1, nb_channels), conv(nb_channels, nb_channels)
        self.norm = nn.BatchNorm2d(nb_channels)
        self.in_list = [self.norm]
        self.head = nn.Linear(nb_channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.in_list[0](self.second(x)))
        return self.head(x.mean(dim=(2, 3)))


class Dense(nn.Module):
    """Concatenates what it computes, as DenseNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 4)
        self.norm = nn.BatchNorm2d(4)
        self.grow = conv(4, 4)
        self.final_norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.grow(torch.relu(self.norm(x)))], dim=1)
        return self.head(torch.relu(self.final_norm(x)).mean(dim=(2, 3)))


class MobileSqueezeExcite(nn.Module):
    """Depthwise convolution, squeeze-and-excitation, dropout."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        many, few = kept(width, 8), kept(width, 2)
        self.expand = nn.Sequential(conv(1, many, 1), nn.BatchNorm2d(many), nn.ReLU6())
        self.depthwise = nn.Sequential(conv(many, many, groups=many), nn.BatchNorm2d(many), nn.Hardswish())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(many, few, 1), nn.ReLU(), nn.Conv2d(few, many, 1)
        )
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(many, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.expand(x))
        x = x * torch.sigmoid(self.squeeze(x))
        return self.head(self.dropout(x.mean(dim=(2, 3))))


class RenamedNorm(nn.BatchNorm2d):
    """A subclass that normalizes as its base does."""


def sequential(width: float = 1.0) -> nn.Sequential:
    nb_channels = kept(width, 6)
    pooling = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(conv(1, nb_channels), RenamedNorm(nb_channels), nn.ReLU(), *pooling, nn.Linear(nb_channels, 5))


class Bottleneck(nn.Module):
    """A residual block of ResNeXt with squeeze-and-excitation: 1x1, grouped 3x3 (pairs of channels), 1x1 convolutions.

    Between the groups lies a PReLU per channel. What reaches a grouped convolution is cut to whole groups.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        outer, nb_groups = kept(width, 5), kept(width, 3)
        inner = 2 * nb_groups
        self.stem = nn.Sequential(conv(1, outer), nn.BatchNorm2d(outer), nn.ReLU())
        self.reduce = nn.Sequential(conv(outer, inner, 1), nn.BatchNorm2d(inner), nn.PReLU(inner))
        self.grouped = nn.Sequential(conv(inner, inner, groups=nb_groups), nn.BatchNorm2d(inner), nn.ReLU())
        self.excite = nn.Sequential(nn.Linear(inner, kept(width, 2)), nn.ReLU(), nn.Linear(kept(width, 2), inner))
        self.expand = nn.Sequential(conv(inner, outer, 1), nn.BatchNorm2d(outer))
        self.head = nn.Linear(outer, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = self.grouped(self.reduce(x))
        gate = torch.sigmoid(self.excite(inner.mean(dim=(2, 3))))
        x = torch.relu(x + self.expand(inner * gate[:, :, None, None]))
        return self.head(x.mean(dim=(2, 3)))


class Hourglass(nn.Module):
    """Down and up again, with transposed convolutions (one depthwise), a skip, and a head behind flattened maps."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        few, many = kept(width, 3), kept(width, 5)
        self.stem = nn.Sequential(conv(1, few), nn.BatchNorm2d(few), nn.ReLU())
        self.down = nn.Sequential(conv(few, many, stride=2), nn.BatchNorm2d(many), nn.ReLU())
        self.across = nn.ConvTranspose2d(many, many, 3, padding=1, groups=many)
        self.up = nn.ConvTranspose2d(many, few, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(few)
        self.head = nn.Sequential(nn.MaxPool2d(3), nn.Flatten(), nn.Linear(few * 4, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.up(self.across(self.down(x)), output_size=x.shape[2:])
        return self.head(torch.relu(x + self.norm(y)))


def small_cnn(width: float = 1.0) -> SmallCNN:
    return SmallCNN(1, 5, channels=[kept(width, nb_channels) for nb_channels in (5, 6, 7)])


def resnet(width: float = 1.0) -> ResNet:
    return ResNet((1, 1), in_channels=1, nb_classes=5, channels=kept(width, 4))


class Scores(nn.Module):
    """A small network whose answer is made of its features by what is given."""

    def __init__(self, head: nn.Module, **more: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), nn.ReLU())
        self.head = head
        for name, part in more.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


class Functional(Scores):
    """Its last weights are its own, used without a layer, and so is a scale before them."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.scale = nn.Parameter(torch.ones(4))
        self.weight = nn.Parameter(torch.ones(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.head(self.body(x).mean(dim=(2, 3)) * self.scale), self.weight)


class ChannelsLast(nn.Module):
    """Takes ``[N, H, W, C]``, and answers as a network of ``[N, C, H, W]`` does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.permute(0, 3, 1, 2))


def root_norm() -> nn.Module:
    """A network that is nothing but a norm."""
    return nn.BatchNorm2d(1)


class Grouped(nn.Module):
    """Group norm with groups of two channels, and instance norm; no batch norm."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        few, many = kept(width, 8), kept(width, 6)
        self.body = nn.Sequential(conv(1, few), nn.GroupNorm(few // 2, few), nn.ReLU(inplace=True), conv(few, many))
        self.norm = nn.InstanceNorm2d(many, affine=True)
        self.head = nn.Linear(many, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.body(x))).amax(dim=(2, 3)))


def convnext() -> nn.Module:
    """Layer norms over channels, with channels last and first."""
    return ConvNeXt((1, 1), (4, 6), in_channels=1, nb_classes=5)


def transformer() -> nn.Module:
    """Layer norms over tokens, attention, and a class token."""
    return ViT(32, 2, 1, task=ImageTask(1, 5, (6, 6)), patch_size=2, pooling="token")


NETWORKS = (Residual, SharedNorm, Dense, MobileSqueezeExcite, sequential, root_norm, Grouped, convnext, transformer)
SLIMMABLE = (Residual, SharedNorm, MobileSqueezeExcite, sequential, Bottleneck, Hourglass, small_cnn, resnet)
"""Each builds itself at any width."""


def images(nb_samples: int = 8, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.rand(nb_samples, 1, 6, 6, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def labels(nb_samples: int = 8, nb_classes: int = 5) -> Tensor:
    return torch.arange(nb_samples) % nb_classes


def shaken(network: nn.Module, dtype: torch.dtype = torch.float64, **options: object) -> OATModel:
    """Convert a network and give every part of it a value of its own, as training would."""
    return remembered(_shaken, network.to(dtype), dtype, options)


def _shaken(network: nn.Module, dtype: torch.dtype, options: dict[str, object]) -> OATModel:
    model = to_conditional(network, LAMBDAS, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(dtype))
    lam = torch.tensor([0.0, 0.1, 0.4, 0.0, 1.0, 0.2, 0.3, 0.15], dtype=dtype)
    model.train()
    for seed, width in itertools.product(range(3), model.widths):
        model(images(dtype=dtype, seed=seed), lam, width)
    return model.eval()


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def changed(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that differ in any bit, or in shape."""
    after = network.state_dict()
    assert after.keys() == before.keys()
    return {name for name in after if not torch.equal(after[name], before[name])}


def train_by_everything(model: OATModel, **options: object) -> None:
    """Train by everything that writes weights or statistics; the optimizer holds frozen weights, too."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))
    trainer = OATTrainer(
        classifier, attack=PGD(0.1, nb_steps=2), weight_perturbation=WeightPerturbation(0.01), ema=0.9, **options
    )
    x, y = images(24, torch.float32).numpy(), labels(24).numpy()
    trainer.fit(x, y, (x, y), nb_epochs=2, batch_size=12, callbacks=[RestoreBest()], verbose=False)


def counterpart(network: nn.Module, name: str, side: str) -> str:
    """Return where a converted network keeps a tensor of the plain one; of a norm, that of the clean or other side."""
    path, _, leaf = name.rpartition(".")
    layer = network.get_submodule(path)
    if isinstance(layer, FollowedNorm):
        return f"{path}.norm.{side}.{leaf}"
    return f"{path}.{side}.{leaf}".lstrip(".") if isinstance(layer, NormLayer) else name
