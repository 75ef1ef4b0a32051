"""Wide residual networks: norm and ReLU before each convolution, dropout between the two of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from art_oat.models.arguments import refuse_faults
from art_oat.models.initialization import initialize
from art_oat.models.registry import ImageTask, register_network

_STEM_CHANNELS = 16


class PreActivationBlock(nn.Module):
    """``shortcut + conv2(dropout(relu(norm2(conv1(a)))))`` where ``a = relu(norm1(x))``, with 3x3 convolutions.

    The shortcut is ``x`` where the shape stays, else a 1x1 convolution of ``a``: it has no norm.

    Args:
        before: Channels of the input.
        after: Channels of the output.
        stride: Of the first convolution and of the shortcut.
        dropout: Probability of dropping a value, in ``[0, 1)``.
    """

    def __init__(self, before: int, after: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        keeps_shape = before == after and stride == 1
        self.shortcut = None if keeps_shape else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, after, H / stride, W / stride]`` for ``[N, before, H, W]``, sizes rounded up."""
        activated = torch.relu(self.norm1(x))
        body: Tensor = self.conv2(self.dropout(torch.relu(self.norm2(self.conv1(activated)))))
        return body + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """WRN-depth-widen_factor (Zagoruyko and Komodakis 2016, arXiv:1605.07146): three stages, a norm, a linear layer.

    The stages have 16, 32 and 64 times ``widen_factor`` channels; the second and the third halve the resolution. The
    last norm, behind the last stage, is ``norm``.

    Args:
        depth: ``6 n + 4`` for ``n`` blocks per stage.
        widen_factor: At least 1.
        dropout: Probability of dropping a value between the two convolutions of a block, in ``[0, 1)``.
        in_channels: Channels of an image.
        nb_classes: ``K``.

    Raises:
        TypeError: If all faults are arguments of another kind.
        ValueError: If an argument is not as above; all faults at once.
    """

    def __init__(
        self, depth: int, widen_factor: int, *, dropout: float = 0.0, in_channels: int = 3, nb_classes: int = 10
    ) -> None:
        super().__init__()
        counts = {"depth": depth, "widen_factor": widen_factor, "in_channels": in_channels, "nb_classes": nb_classes}
        refuse_faults(counts=counts, probabilities={"dropout": dropout}, others=lambda: _depth_faults(depth))
        self.stem = nn.Conv2d(in_channels, _STEM_CHANNELS, 3, padding=1, bias=False)
        sizes = [_STEM_CHANNELS * widen_factor * 2**stage for stage in range(3)]
        nb_blocks = (depth - 4) // 6
        self.stages = nn.Sequential()
        for before, after, stride in zip([_STEM_CHANNELS, *sizes], sizes, (1, 2, 2), strict=False):
            rest = (PreActivationBlock(after, after, dropout=dropout) for _ in range(nb_blocks - 1))
            self.stages.append(nn.Sequential(PreActivationBlock(before, after, stride, dropout), *rest))
        self.norm = nn.BatchNorm2d(sizes[-1])
        self.head = nn.Linear(sizes[-1], nb_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for images ``[N, in_channels, H, W]`` of any size."""
        features = torch.relu(self.norm(self.stages(self.stem(x))))
        scores: Tensor = self.head(features.mean(dim=(2, 3)))
        return scores


def _depth_faults(depth: int) -> list[str]:
    if depth >= 10 and depth % 6 == 4:  # noqa: PLR2004
        return []
    return [f"depth must be 6 n + 4 with at least one block per stage (10, 16, 22, 28, ...), got {depth}."]


def wrn_16_8(in_channels: int = 3, nb_classes: int = 10, dropout: float = 0.3) -> WideResNet:
    """Return WRN-16-8, 10.96 M parameters: the SVHN network of Wang et al. 2020, with their dropout."""
    return WideResNet(16, 8, dropout=dropout, in_channels=in_channels, nb_classes=nb_classes)


def wrn_40_2(in_channels: int = 3, nb_classes: int = 10, dropout: float = 0.3) -> WideResNet:
    """Return WRN-40-2, 2.24 M parameters: the STL-10 network of Wang et al. 2020, with their dropout."""
    return WideResNet(40, 2, dropout=dropout, in_channels=in_channels, nb_classes=nb_classes)


@register_network(r"wrn-(\d+)-(\d+)", "wrn-16-8 (depth, widen factor)")
def _wide_resnet(task: ImageTask, depth: str, widen_factor: str) -> WideResNet:
    return WideResNet(int(depth), int(widen_factor), in_channels=task.in_channels, nb_classes=task.nb_classes)
