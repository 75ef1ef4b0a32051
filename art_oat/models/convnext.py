"""ConvNeXt for small images: depthwise 7x7 convolutions, and layer norm over channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn

from art_oat.models.arguments import refuse_faults
from art_oat.models.branch import MLP, DropPath, drop_paths
from art_oat.models.registry import ImageTask, register_network

_EPS = 1e-6  # of layer norms, as in the paper's code
_FIRST_STAGE = 16  # pixels along a side that a network by name has there


class ConvNeXtBlock(nn.Module):
    """``x + drop(linear2(gelu(linear1(norm(depthwise(x))))))`` (Liu et al. 2022, arXiv:2201.03545, figure 4).

    The 7x7 convolution mixes places, the linear layers mix channels, four times as many between them.

    Args:
        channels: Of the input and the output.
        drop_path: Probability of leaving the branch out, in ``[0, 1)``.
        dropout: Probability of dropping a value of the branch, in ``[0, 1)``.
    """

    def __init__(self, channels: int, drop_path: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=_EPS)
        self.mix = MLP(channels, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, channels, H, W]`` for ``[N, channels, H, W]``."""
        branch = self.mix(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        dropped: Tensor = self.drop_path(branch.permute(0, 3, 1, 2))
        return x + dropped


class Downsampling(nn.Module):
    """Layer norm over channels, then a 2x2 convolution with stride 2."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(before, eps=_EPS)
        self.convolution = nn.Conv2d(before, after, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, after, H / 2, W / 2]`` for ``[N, before, H, W]``, sizes rounded down."""
        smaller: Tensor = self.convolution(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return smaller


class Stem(nn.Module):
    """A convolution of patches that do not overlap, then layer norm over channels."""

    def __init__(self, in_channels: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, channels, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, channels, H / patch, W / patch]`` for images, sizes rounded down."""
        patches: Tensor = self.norm(self.convolution(x).permute(0, 2, 3, 1))
        return patches.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Stem, stages of blocks, global average pooling, layer norm, one linear layer (arXiv:2201.03545).

    Every stage but the first halves the resolution. As published, but for small images and few blocks: three stages,
    patches of 2x2 pixels, and no layer scale, which is for deep networks. Weights start as torch draws them: with
    biases of 0, nothing of a gray pixel would pass, as layer norm takes away what multiplies all channels. With 3
    channels and 10 classes the default has 0.41 M parameters. It trains by AdamW; SGD takes long to leave chance.

    Args:
        depths: Blocks of each stage, at least 1.
        channels: Of each stage, likewise.
        in_channels: Channels of an image.
        nb_classes: ``K``.
        patch_size: Side of the stem's patches, in pixels.
        drop_path: Probability of leaving out the branch of the last block, in ``[0, 1)``; it rises evenly from 0.
        dropout: Probability of dropping a value of a branch, in ``[0, 1)``.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 2),
        channels: Sequence[int] = (32, 64, 128),
        *,
        in_channels: int = 3,
        nb_classes: int = 10,
        patch_size: int = 2,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        refuse_faults(
            counts={"patch_size": patch_size, "in_channels": in_channels, "nb_classes": nb_classes},
            sizes={"depths": depths, "channels": channels},
            probabilities={"drop_path": drop_path, "dropout": dropout},
            others=lambda: _stage_faults(depths, channels),
        )
        self.stem = Stem(in_channels, channels[0], patch_size)
        paths = iter(drop_paths(drop_path, sum(depths)))
        self.stages = nn.Sequential()
        for before, after, depth in zip([0, *channels], channels, depths, strict=False):
            down = [Downsampling(before, after)] if before else []
            blocks = (ConvNeXtBlock(after, next(paths), dropout) for _ in range(depth))
            self.stages.append(nn.Sequential(*down, *blocks))
        self.norm = nn.LayerNorm(channels[-1], eps=_EPS)
        self.head = nn.Linear(channels[-1], nb_classes)
        self.smallest = patch_size * 2 ** (len(channels) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for images ``[N, in_channels, H, W]``.

        Rows and columns at the end that fill no patch are not looked at.

        Raises:
            ValueError: If an image is smaller than ``patch_size`` times 2 for every stage but the first.
        """
        _check_size(x, self.smallest)
        scores: Tensor = self.head(self.norm(self.stages(self.stem(x)).mean(dim=(2, 3))))
        return scores


@fx.wrap  # one step in a traced graph, which looks at the images it gets
def _check_size(x: Tensor, least: int) -> None:
    height, width = x.shape[-2], x.shape[-1]
    if min(height, width) < least:
        raise ValueError(f"images must have at least {least}x{least} pixels, got {height}x{width}. Use fewer stages.")


def _stage_faults(depths: Sequence[int], channels: Sequence[int]) -> list[str]:
    if len(depths) == len(channels):
        return []
    return [f"depths and channels must hold one number per stage each, got {list(depths)} and {list(channels)}."]


@register_network(r"convnext((?:-[1-9]\d*)*)", "convnext", "convnext-32-64-128 (channels)")
def _convnext(task: ImageTask, channels: str) -> ConvNeXt:
    """Two blocks per stage, and patches with which the first stage has about 16x16 places."""
    chosen = [int(part) for part in channels.split("-") if part] or [32, 64, 128]
    patch_size = max(1, round(min(task.image_size) / _FIRST_STAGE))
    return ConvNeXt(
        [2] * len(chosen),
        chosen,
        in_channels=task.in_channels,
        nb_classes=task.nb_classes,
        patch_size=patch_size,
    )
