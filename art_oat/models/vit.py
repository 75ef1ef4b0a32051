"""Vision transformer for small images: patches as tokens, attention between them, and layer norm."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, fx, nn

from art_oat.models.arguments import refuse_faults
from art_oat.models.branch import MLP, DropPath, drop_paths
from art_oat.models.initialization import initialize_linear
from art_oat.models.registry import ImageTask, register_network
from art_oat.numbers import is_name_in

Pooling = Literal["mean", "token"]
_CIFAR = ImageTask()
_EPS = 1e-6  # of layer norms, as in the paper's code
_HEAD_CHANNELS = 32
_MOST_PATCHES = 64
_POSITION_STD = 0.5  # about that of what a patch gives; 0.02, as published, is learned slowly


class SelfAttention(nn.Module):
    """``output(softmax(q k^T / sqrt(d)) v)`` for every head of ``d`` channels (arXiv:1706.03762, eq. 1).

    Args:
        channels: Of a token; a multiple of ``nb_heads``.
        nb_heads: How many attentions work side by side.
    """

    def __init__(self, channels: int, nb_heads: int) -> None:
        super().__init__()
        self.nb_heads = nb_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, T, channels]`` for tokens ``[N, T, channels]``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.nb_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        # torch's fused attention has no second derivative, and is no faster for so few tokens
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
        mixed: Tensor = self.output((weights @ v).transpose(1, 2).flatten(2))
        return mixed


class TransformerBlock(nn.Module):
    """``y = x + drop(attention(norm1(x)))``, then ``y + drop(mix(norm2(y)))`` (arXiv:2010.11929, eqs. 2 and 3).

    Args:
        channels: Of a token.
        nb_heads: Heads of the attention.
        drop_path: Probability of leaving a branch out, in ``[0, 1)``.
        dropout: Probability of dropping a value of a branch, in ``[0, 1)``.
    """

    def __init__(self, channels: int, nb_heads: int, drop_path: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=_EPS)
        self.attention = nn.Sequential(SelfAttention(channels, nb_heads), nn.Dropout(dropout))
        self.norm2 = nn.LayerNorm(channels, eps=_EPS)
        self.mix = MLP(channels, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, T, channels]`` for tokens ``[N, T, channels]``."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        mixed: Tensor = self.drop_path(self.mix(self.norm2(x)))
        return x + mixed


class ViT(nn.Module):
    """Patches, learned positions, transformer blocks, layer norm, pooling, one linear layer (arXiv:2010.11929).

    Tokens are averaged in the end, which trains better than a class token (Beyer et al. 2022, arXiv:2205.01580);
    ``pooling="token"`` is as first published. With 32x32 images of 3 channels and 10 classes the default has 0.68 M
    parameters. It trains by AdamW; SGD takes long to leave chance.

    Args:
        channels: Of a token; a multiple of ``nb_heads``.
        depth: Number of blocks.
        nb_heads: Heads of every attention.
        task: Channels and size of the images, and the number of classes.
        patch_size: Side of a patch, in pixels, which divides height and width; None for the smallest with which there
            are at most 64 patches.
        pooling: ``"mean"`` or ``"token"``.
        drop_path: Probability of leaving out the branches of the last block, in ``[0, 1)``; it rises evenly from 0.
        dropout: Probability of dropping a value of a branch, or of a token in the beginning, in ``[0, 1)``.

    Raises:
        ValueError: If an argument is not as above; names every fault.
    """

    def __init__(
        self,
        channels: int = 96,
        depth: int = 6,
        nb_heads: int = 3,
        *,
        task: ImageTask = _CIFAR,
        patch_size: int | None = None,
        pooling: Pooling = "mean",
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        side = patch_side(task.image_size) if patch_size is None else patch_size
        refuse_faults(
            counts={
                "channels": channels,
                "depth": depth,
                "nb_heads": nb_heads,
                "patch_size": side,
                "in_channels": task.in_channels,
                "nb_classes": task.nb_classes,
            },
            probabilities={"drop_path": drop_path, "dropout": dropout},
            others=lambda: _vit_faults(channels, nb_heads, task, side, pooling),
        )
        self.image_shape = (task.in_channels, *task.image_size)
        self.patches = nn.Conv2d(task.in_channels, channels, side, stride=side)
        self.token = nn.Parameter(torch.empty(1, 1, channels)) if pooling == "token" else None
        nb_tokens = math.prod(size // side for size in task.image_size) + (self.token is not None)
        self.positions = nn.Parameter(torch.empty(1, nb_tokens, channels))
        self.dropout = nn.Dropout(dropout)
        paths = drop_paths(drop_path, depth)
        self.blocks = nn.Sequential(*(TransformerBlock(channels, nb_heads, path, dropout) for path in paths))
        self.norm = nn.LayerNorm(channels, eps=_EPS)
        self.head = nn.Linear(channels, task.nb_classes)
        initialize_linear(self)
        for table in (self.positions, self.token):
            if table is not None:
                nn.init.normal_(table, std=_POSITION_STD)

    def no_weight_decay(self) -> set[str]:
        """Return the names of what weight decay should spare, as timm's networks do: positions and the class token."""
        return {"positions", "token"}

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for images ``[N, C, H, W]``.

        Raises:
            ValueError: If the images are of another shape than the task's.
        """
        _check_shape(x, self.image_shape)
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], dim=1)
        tokens = self.norm(self.blocks(self.dropout(tokens + self.positions)))
        scores: Tensor = self.head(tokens.mean(dim=1) if self.token is None else tokens[:, 0])
        return scores


@fx.wrap  # one step in a traced graph, which looks at the images it gets
def _check_shape(x: Tensor, shape: tuple[int, int, int]) -> None:
    if x.shape[1:] != shape:
        raise ValueError(f"images must have shape {list(shape)}, got {list(x.shape[1:])}.")


def patch_side(image_size: tuple[int, int]) -> int:
    """Return the smallest side of patches that divides an image into at most 64, in pixels."""
    height, width = image_size
    sides = (side for side in range(1, math.gcd(height, width) + 1) if height % side == width % side == 0)
    return next((side for side in sides if height * width <= _MOST_PATCHES * side**2), math.gcd(height, width))


def _vit_faults(channels: int, nb_heads: int, task: ImageTask, side: int, pooling: str) -> list[str]:
    faults = []
    if nb_heads > 0 and channels % nb_heads:
        faults.append(f"channels must be a multiple of nb_heads, {nb_heads}, got {channels}.")
    if side > 0 and any(size % side for size in task.image_size):
        faults.append(f"patch_size must divide height and width of an image, {task.image_size}, got {side}.")
    if not is_name_in(pooling, get_args(Pooling)):
        faults.append(f"pooling must be one of {get_args(Pooling)}, got {pooling!r}.")
    return faults


@register_network(r"vit(?:-(\d+)-(\d+))?", "vit", "vit-96-6 (channels, depth)")
def _vit(task: ImageTask, channels: str | None, depth: str | None) -> ViT:
    """One head for every 32 channels."""
    nb_channels = int(channels or 96)
    if nb_channels % _HEAD_CHANNELS:
        raise ValueError(f"channels of a vit by name must be a multiple of {_HEAD_CHANNELS}, got {nb_channels}.")
    return ViT(nb_channels, int(depth or 6), nb_channels // _HEAD_CHANNELS, task=task)
