"""Small plain networks of many kinds, and data that fits them."""

import torch
from torch import Tensor, nn

from art_oat import OATModel, to_conditional

LAMBDAS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
TRAINED_AND_UNSEEN = (*LAMBDAS, 0.05, 0.7)


def conv(before: int, after: int, kernel: int = 3, groups: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)


class Residual(nn.Module):
    """A residual block with a norm on its shortcut, and a head behind a norm without spatial size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 8, stride=2), nn.BatchNorm2d(8))
        self.shortcut = nn.Sequential(conv(1, 8, 1, stride=2), nn.BatchNorm2d(8))
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(x) + self.shortcut(x))
        return self.head(self.norm(x.mean(dim=(2, 3))))


class SharedNorm(nn.Module):
    """One norm called twice, and held in a plain list beside a second one that the list alone holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(1, 6), conv(6, 6)
        self.norm = nn.BatchNorm2d(6)
        self.in_list = [self.norm]
        self.head = nn.Linear(6, 5)

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

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(conv(1, 8, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(conv(8, 8, groups=8), nn.BatchNorm2d(8), nn.Hardswish())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.expand(x))
        x = x * torch.sigmoid(self.squeeze(x))
        return self.head(self.dropout(x.mean(dim=(2, 3))))


class RenamedNorm(nn.BatchNorm2d):
    """A subclass that normalizes as its base does."""


def sequential() -> nn.Sequential:
    return nn.Sequential(conv(1, 6), RenamedNorm(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


def root_norm() -> nn.Module:
    """A network that is nothing but a norm."""
    return nn.BatchNorm2d(1)


NETWORKS = (Residual, SharedNorm, Dense, MobileSqueezeExcite, sequential, root_norm)


def images(nb_samples: int = 8, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.rand(nb_samples, 1, 6, 6, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def labels(nb_samples: int = 8, nb_classes: int = 5) -> Tensor:
    return torch.arange(nb_samples) % nb_classes


def shaken(network: nn.Module, dtype: torch.dtype = torch.float64, **options: object) -> OATModel:
    """Convert a network and give every part of it a value of its own, as training would."""
    model = to_conditional(network.to(dtype), LAMBDAS, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(dtype))
    lam = torch.tensor([0.0, 0.1, 0.4, 0.0, 1.0, 0.2, 0.3, 0.15], dtype=dtype)
    model.train()
    for seed in range(3):
        model(images(dtype=dtype, seed=seed), lam)
    return model.eval()
