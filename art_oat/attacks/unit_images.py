"""Inputs of any kind as images in [0, 1], which is what AutoAttack and torchattacks know."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from art_oat.attacks.protocol import ClipValues

NB_SIDES = 2
_MOST_NARROW = 4
_NB_WINDOWS = 5


class UnitImages(nn.Module):
    """A network that takes images in [0, 1], ``[N, C, H, W]``, in place of its own inputs in ``[low, low + span]``.

    Images keep their rows and columns. Vectors ``(F,)``, series ``(C, L)``, clips ``(C, T, H, W)``, and images more
    than four times as long as wide are wrapped to squares, channel by channel. Black pixels fill up a square, and make
    room for the windows of the Square attack (``H // 5`` by ``H // 5`` pixels at its start for L2 and L1). The network
    never sees them, and no norm counts them.

    Args:
        network: Takes inputs ``[N, *sample_shape]`` in ``[low, low + span]``.
        clip_values: Smallest and largest value of an input; the same for every feature.
        sample_shape: Shape of one input.
        channels_first: Whether channels are the first axis of an input, or the last; a vector has none.
    """

    def __init__(
        self,
        network: nn.Module,
        clip_values: ClipValues,
        sample_shape: Sequence[int],
        *,
        channels_first: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        low, high = (float(np.min(value)) for value in clip_values)
        self.low = low
        self.span = high - low
        self.sample_shape = tuple(sample_shape)
        self.image_shape, self._place = _layout(self.sample_shape, channels_first)
        self._is_written_anew = self.image_shape != self.sample_shape or not channels_first
        self.training = network.training

    def to_images(self, x: Tensor) -> Tensor:
        """Return inputs ``[N, *sample_shape]`` as images in [0, 1]; rounding beyond is cut off."""
        unit = ((x - self.low) / self.span).clamp(0, 1)
        if not self._is_written_anew:
            return unit
        images = unit.new_zeros(len(x), math.prod(self.image_shape))
        images[:, self._place_on(x.device)] = unit.flatten(1)
        return images.view(len(x), *self.image_shape)

    def from_images(self, images: Tensor) -> Tensor:
        """Undo :meth:`to_images`."""
        if self._is_written_anew:
            images = images.flatten(1)[:, self._place_on(images.device)].view(len(images), *self.sample_shape)
        return images if (self.low, self.span) == (0, 1) else images * self.span + self.low

    def _place_on(self, device: torch.device) -> Tensor:
        """Where each entry goes, on the device of the inputs."""
        self._place = self._place.to(device)
        return self._place

    def forward(self, images: Tensor) -> Tensor:
        """Return scores ``[N, K]`` for images in [0, 1], ``[N, C, H, W]``."""
        scores: Tensor = self.network(self.from_images(images))
        return scores


def _layout(sample_shape: tuple[int, ...], channels_first: bool) -> tuple[tuple[int, int, int], Tensor]:
    """Return the shape of the image ``(C, H, W)`` that an input becomes, and where in it each of its entries goes.

    The places are indices into the flattened image, one for each entry of the flattened input.
    """
    entries = torch.arange(math.prod(sample_shape)).view(sample_shape)
    entries = entries[None] if entries.dim() == 1 else entries if channels_first else entries.movedim(-1, 0)
    nb_channels, *sides = entries.shape
    nb_pixels = math.prod(sides)
    is_image = len(sides) == NB_SIDES and max(sides) <= _MOST_NARROW * min(sides)
    nb_columns = sides[-1] if is_image else math.isqrt(nb_pixels - 1) + 1
    height, width = _least_fitting(*sides) if is_image else _least_fitting(nb_columns)
    pixel = torch.arange(nb_pixels)
    in_channel = pixel // nb_columns * width + pixel % nb_columns
    place = torch.empty(entries.numel(), dtype=torch.long)
    place[entries.flatten()] = (torch.arange(nb_channels)[:, None] * height * width + in_channel).flatten()
    return (nb_channels, height, width), place


def _least_fitting(*sides: int) -> tuple[int, int]:
    """Return the smallest height and width that hold an image and fit the windows; of one side, those of a square."""
    longer = itertools.product(*(range(side, side + 2 * _NB_WINDOWS) for side in sides))
    sizes = ((size[0], size[-1]) for size in longer)
    return min((size for size in sizes if _fits_windows(*size)), key=math.prod)


def _fits_windows(height: int, width: int) -> bool:
    """Whether no window of the start of the Square attack for L2 and L1 crosses an edge."""
    side = height // _NB_WINDOWS
    start = height % _NB_WINDOWS // 2
    return side == 1 or (side > 1 and all(start + size // side * side <= size for size in (height, width)))


def unit_range_faults(clip_values: ClipValues | None, name: str) -> list[str]:
    """Say what keeps an attack that knows [0, 1] alone from inputs within ``clip_values``."""
    if clip_values is None:
        return [f"{name} needs the classifier's clip_values, got None. Inputs in [0, 1] have (0, 1)."]
    if any(len(np.unique(value)) > 1 for value in clip_values):
        return [f"{name} needs the same clip_values for every feature, got several."]
    return []
