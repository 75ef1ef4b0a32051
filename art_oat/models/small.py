"""A small plain CNN for CPUs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from art_oat.models.arguments import refuse_faults
from art_oat.models.registry import ImageTask, register_network


class SmallCNN(nn.Module):
    """3x3 convolutions with batch norm and ReLU, global average pooling, one linear layer.

    The first convolution keeps the resolution; every further one halves it.

    Args:
        in_channels: Channels of an image.
        nb_classes: ``K``.
        channels: Channels after each convolution; at least one.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If one is below 1, or ``channels`` is empty.
    """

    def __init__(self, in_channels: int = 1, nb_classes: int = 10, channels: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "nb_classes": nb_classes}
        refuse_faults(counts=counts, sizes={"channels": channels})
        blocks: list[nn.Module] = []
        for index, (before, after) in enumerate(zip([in_channels, *channels], channels, strict=False)):
            convolution = nn.Conv2d(before, after, 3, stride=1 if index == 0 else 2, padding=1, bias=False)
            blocks += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(channels[-1], nb_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for images ``[N, in_channels, H, W]``."""
        scores: Tensor = self.head(self.features(x).mean(dim=(2, 3)))
        return scores


@register_network(r"small((?:-[1-9]\d*)*)", "small", "small-16-32-64 (channels)")
def _small(task: ImageTask, channels: str) -> SmallCNN:
    chosen = [int(part) for part in channels.split("-") if part]
    return SmallCNN(task.in_channels, task.nb_classes, **({"channels": chosen} if chosen else {}))
