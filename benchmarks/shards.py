"""How the weights of a network are kept in small files: large tensors in half precision, several files per network."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from art_oat.model_files import DESCRIPTION, WEIGHTS, encoded, write_model
from art_oat.storage import read_json, replaced, write_whole

LIMIT = 15 * 2**20
"""Bytes of tensors in one file; some more are for their names."""

_FEWEST = 2**16
"""Numbers in a tensor from which on it is kept in half precision."""


def split(folder: Path, target: Path, name: str, limit: int = LIMIT) -> list[Path]:
    """Write what ``save_model`` wrote as ``NAME-1-of-2.safetensors`` and so on, with at most ``limit`` bytes each.

    Large tensors (convolutions) are rounded to float16, which moves a weight by a 2,000th of itself at most, or 3e-8.
    Norms, statistics and codes stay as they are, and so does a tensor that leaves the range of float16.

    Returns:
        The files, the description ``NAME.json`` last.

    Raises:
        ValueError: If a tensor is larger than the limit.
    """
    tensors = {key: _halved(tensor) for key, tensor in safetensors.torch.load_file(folder / WEIGHTS).items()}
    parts = list(_parted(tensors, limit))
    paths = [target / f"{name}-{number}-of-{len(parts)}.safetensors" for number in range(1, len(parts) + 1)]
    for path, part in zip(paths, parts, strict=True):
        with replaced(path) as partial:
            safetensors.torch.save_file(part, partial)
    description = target / f"{name}.json"
    with write_whole(description) as file:
        file.write((folder / DESCRIPTION).read_text(encoding="utf-8"))
    return [*paths, description]


def join(source: Path, name: str, folder: Path) -> None:
    """Write what :func:`split` wrote as one network in float32 to a folder, for ``load_model`` to read.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    tensors: dict[str, Tensor] = {}
    for path in _all_of(source, name):
        tensors |= safetensors.torch.load_file(path)
    whole = {key: tensor.float() if tensor.dtype == torch.float16 else tensor for key, tensor in tensors.items()}
    write_model(folder, encoded(whole), read_json(source / f"{name}.json"))


def _all_of(source: Path, name: str) -> Sequence[Path]:
    pattern = re.compile(rf"{re.escape(name)}-(\d+)-of-(\d+)\.safetensors")
    found = {path: match for path in sorted(source.iterdir()) if (match := pattern.fullmatch(path.name))}
    if not found or len(found) != int(next(iter(found.values()))[2]):
        raise FileNotFoundError(f"{source} must hold every file of {name}, got {[path.name for path in found]}.")
    return list(found)


def _halved(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.numel() < _FEWEST:
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor


def _parted(tensors: Mapping[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    """Deal tensors out in their order, evenly, to as few files as hold them."""
    sizes = {key: tensor.numel() * tensor.element_size() for key, tensor in tensors.items()}
    if largest := [key for key, size in sizes.items() if size > limit]:
        raise ValueError(f"limit must be at least as large as every tensor, got {limit} bytes for {largest}.")
    even = sum(sizes.values()) / max(1, math.ceil(sum(sizes.values()) / limit))
    part: dict[str, Tensor] = {}
    size = 0
    for key, tensor in tensors.items():
        if part and (size >= even or size + sizes[key] > limit):
            yield part
            part, size = {}, 0
        part[key], size = tensor, size + sizes[key]
    yield part
