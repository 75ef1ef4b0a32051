"""Residual networks for small images: a 3x3 stem that keeps the resolution, no max pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from art_oat.models.arguments import refuse_faults
from art_oat.models.initialization import initialize
from art_oat.models.registry import ImageTask, register_network


class BasicBlock(nn.Module):
    """``relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`` with 3x3 convolutions (He et al. 2016, arXiv:1512.03385).

    The shortcut is the identity where the shape stays, else a 1x1 convolution and a norm, which lie under the name
    ``shortcut``.

    Args:
        before: Channels of the input.
        after: Channels of the output.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, after, H / stride, W / stride]`` for ``[N, before, H, W]``, sizes rounded up."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages of basic blocks, global average pooling, one linear layer.

    Every stage but the first halves the resolution and doubles the channels.

    Args:
        blocks: Blocks of each stage; ``(3, 4, 6, 3)`` is ResNet-34.
        in_channels: Channels of an image.
        nb_classes: ``K``.
        channels: Channels of the stem and the first stage.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If one is below 1, or ``blocks`` is empty or holds a stage without blocks.
    """

    def __init__(
        self, blocks: Sequence[int], *, in_channels: int = 3, nb_classes: int = 10, channels: int = 64
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "nb_classes": nb_classes, "channels": channels}
        refuse_faults(counts=counts, sizes={"blocks": blocks})
        stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(channels), nn.ReLU())
        sizes = [channels * 2**stage for stage in range(len(blocks))]
        self.stages = nn.Sequential()
        for before, after, nb_blocks in zip([channels, *sizes], sizes, blocks, strict=False):
            first = BasicBlock(before, after, stride=1 if before == after else 2)
            self.stages.append(nn.Sequential(first, *(BasicBlock(after, after) for _ in range(nb_blocks - 1))))
        self.head = nn.Linear(sizes[-1], nb_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for images ``[N, in_channels, H, W]`` of any size."""
        scores: Tensor = self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))
        return scores


def resnet18(in_channels: int = 3, nb_classes: int = 10) -> ResNet:
    """Return ResNet-18 for small images: 11.17 M parameters with 3 channels and 10 classes."""
    return ResNet((2, 2, 2, 2), in_channels=in_channels, nb_classes=nb_classes)


def resnet34(in_channels: int = 3, nb_classes: int = 10) -> ResNet:
    """Return ResNet-34 for small images: 21.28 M parameters, the CIFAR-10 network of Wang et al. 2020."""
    return ResNet((3, 4, 6, 3), in_channels=in_channels, nb_classes=nb_classes)


@register_network(r"resnet(18|34)", "resnet18", "resnet34")
def _resnet(task: ImageTask, depth: str) -> ResNet:
    return {"18": resnet18, "34": resnet34}[depth](task.in_channels, task.nb_classes)
