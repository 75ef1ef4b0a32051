"""Images as they get spoiled without an attacker: by noise, blur, contrast, brightness, pixels and JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from art_oat.checks import Array, as_array, checked_seed, refuse
from art_oat.numbers import is_name_in, is_whole, plain, shown

SEVERITIES = (1, 2, 3, 4, 5)
_CHANNELS = {1: "L", 3: "RGB"}


def corrupted(x: Array, name: str, severity: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return images as one corruption leaves them, in [0, 1].

    Six of those by Hendrycks and Dietterich 2019 (arXiv:1903.12261), in the strengths of their CIFAR-10-C: they are
    made for images of about 32x32. Images are not rounded to 255 levels but where a corruption works on bytes
    (``"pixelate"``, ``"jpeg"``).

    Args:
        x: Images in [0, 1], ``(N, C, H, W)`` with one channel or three; uint8 counts as ``k / 255``.
        name: One of :data:`CORRUPTIONS`.
        severity: From 1 to 5.
        seed: What noise is drawn from.

    Raises:
        TypeError: If ``seed`` is no whole number.
        ValueError: If an argument is not as above; names every fault.
    """
    x = as_array(x, "x")
    faults = _image_faults(x)
    if not is_name_in(name, CORRUPTIONS):
        faults.append(f"name must be one of {', '.join(CORRUPTIONS)}, got {shown(name)}.")
    if not is_whole(severity) or plain(severity) not in SEVERITIES:
        faults.append(f"severity must be a whole number from 1 to 5, got {shown(severity)}.")
    refuse(faults)
    images = torch.from_numpy(np.array(x, dtype=np.float32) / (255 if x.dtype == np.uint8 else 1))
    spoil, strengths = CORRUPTIONS[name]
    generator = torch.Generator().manual_seed(checked_seed(seed))
    result: NDArray[np.float32] = spoil(images, strengths[plain(severity) - 1], generator).clamp(0, 1).numpy()
    return result


def _image_faults(x: Array) -> list[str]:
    dimensions = ("N", "C", "H", "W")
    if x.ndim != len(dimensions) or x.shape[1] not in _CHANNELS or x.dtype.kind not in "fu":
        return [f"x must hold images (N, C, H, W) of one channel or three, got {x.dtype} {list(x.shape)}."]
    if x.dtype != np.uint8 and not bool(((x >= 0) & (x <= 1)).all()):
        return ["x must lie within [0, 1], or hold bytes."]
    return []


def _noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return x + strength * torch.randn(x.shape, generator=generator)


def _blur(x: Tensor, sigma: float, _: torch.Generator) -> Tensor:
    """Blur by a normal distribution that is cut after 4 sigma; edges go on as they end."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).float()
    nb_channels = x.shape[1]
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        own = kernel.view(shape).expand(nb_channels, 1, -1, -1)
        sides = (0, 0, radius, radius) if shape[2] == -1 else (radius, radius, 0, 0)
        x = F.conv2d(F.pad(x, sides, mode="replicate"), own, groups=nb_channels)
    return x


def _contrast(x: Tensor, strength: float, _: torch.Generator) -> Tensor:
    means = x.mean(dim=(2, 3), keepdim=True)
    return means + strength * (x - means)


def _brightness(x: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Raise the value of HSV, the largest channel; hue and saturation stay, so all channels grow by one factor."""
    value = x.amax(dim=1, keepdim=True)
    raised = (value + strength).clamp_max(1)
    return torch.where(value > 0, x * raised / value.clamp_min(1e-12), raised)


def _pixelate(x: Tensor, strength: float, _: torch.Generator) -> Tensor:
    def changed(image: Image.Image) -> Image.Image:
        small = (max(1, int(image.width * strength)), max(1, int(image.height * strength)))
        return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _by_image(x, changed)


def _jpeg(x: Tensor, quality: float, _: torch.Generator) -> Tensor:
    def changed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _by_image(x, changed)


def _by_image(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Change images of bytes, one by one."""
    mode = _CHANNELS[x.shape[1]]
    levels = (255 * x).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    images = [np.asarray(change(Image.fromarray(it if mode == "RGB" else it[..., 0], mode))) for it in levels]
    array = np.stack(images).reshape(levels.shape).transpose(0, 3, 1, 2)
    return torch.from_numpy(array.astype(np.float32) / 255)


CORRUPTIONS: Mapping[str, tuple[Callable[[Tensor, float, torch.Generator], Tensor], tuple[float, ...]]] = {
    "gaussian noise": (_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "gaussian blur": (_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}
"""What each does, and its strengths: standard deviation, sigma in pixels, share of the contrast that stays, what is
added to the value, share of the pixels along a side, and quality."""
