"""Random changes of training images, on tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from art_oat.checks import refuse
from art_oat.draws import draw_rows
from art_oat.numbers import count_faults, flag_faults, plain_fields

_IMAGE_AXES = 4


@dataclass(frozen=True)
class RandomCropFlip:
    """Shift each image by up to ``padding`` pixels along both axes, black moving in, and mirror every second one.

    ``out[n, c, i, j] = padded[n, c, top[n] + i, left[n] + j']`` where ``padded`` has ``padding`` zeros on every side,
    ``top`` and ``left`` are uniform in ``{0, ..., 2 padding}``, and ``j'`` is ``W - 1 - j`` with probability 1/2,
    else ``j``: random cropping and flipping as it is usual on CIFAR-10.

    Args:
        padding: Pixels on each side, at least 0.
        has_flip: Whether images are mirrored left to right; digits and letters should not be.

    Raises:
        TypeError: If ``padding`` is no whole number.
        ValueError: If it is below 0.
    """

    padding: int = 4
    has_flip: bool = True
    draws_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        plain_fields(self)
        refuse(count_faults({"padding": self.padding}, least=0) + flag_faults({"has_flip": self.has_flip}))

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return changed copies of images, each by a draw of its own.

        Args:
            x: Images ``[N, C, H, W]`` of any dtype, device and memory format, which the copies have, too.
            generator: What the draws come from, made on its device; None for torch's default one there.

        Raises:
            ValueError: If ``x`` is not a batch of images.
        """
        if x.ndim != _IMAGE_AXES:
            raise ValueError(f"x must be images [N, C, H, W], got shape {list(x.shape)}.")
        nb_samples, nb_channels, height, width = x.shape
        top, left, is_mirrored = (drawn.to(x.device) for drawn in self._draw(nb_samples, x.device, generator))
        rows = top[:, None] + torch.arange(height, device=x.device)
        columns = torch.arange(width, device=x.device)
        columns = left[:, None] + torch.where(is_mirrored[:, None], columns.flip(0), columns)
        samples = torch.arange(nb_samples, device=x.device)[:, None, None, None]
        channels = torch.arange(nb_channels, device=x.device)[:, None, None]
        padded = F.pad(x, (self.padding,) * 4)
        changed = padded[samples, channels, rows[:, None, :, None], columns[:, None, None, :]]
        return torch.empty_like(x).copy_(changed)  # empty_like keeps the memory format

    def _draw(
        self, nb_samples: int, device: torch.device, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the first row and column of each crop, and which images are mirrored."""
        device = device if generator is None else generator.device

        def corners(nb: int) -> Tensor:
            return torch.randint(2 * self.padding + 1, (2, nb), device=device, generator=generator).T

        top, left = draw_rows(nb_samples, corners).unbind(1)
        if not self.has_flip:
            return top, left, torch.zeros(nb_samples, dtype=torch.bool, device=device)
        drawn = draw_rows(nb_samples, lambda nb: torch.rand(nb, device=device, generator=generator))
        return top, left, drawn < 0.5  # noqa: PLR2004
