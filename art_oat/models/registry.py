"""The networks that are called by name: a registry of names, and what a name is told of the images."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from art_oat.checks import refusals, refuse
from art_oat.numbers import count_faults, plain, plain_sizes, shown, sizes_faults


@dataclass(frozen=True)
class ImageTask:
    """The images that a network gets, and the classes that it tells apart.

    Attributes:
        in_channels: Channels of an image.
        nb_classes: ``K``.
        image_size: Height and width.
    """

    in_channels: int = 3
    nb_classes: int = 10
    image_size: tuple[int, int] = (32, 32)


Builder = Callable[..., nn.Module]


@dataclass(frozen=True)
class NetworkKind:
    """A kind of networks that are called by name, see :func:`register_network`.

    Attributes:
        pattern: Regular expression of the names.
        spellings: How messages write the names, each a name and perhaps a word on it.
        build: Gets an :class:`ImageTask` and the groups of the pattern; returns a network.
        is_own: Whether no code but this library's is imported to build it.
        is_trusted: Whether it may be built because a file says so: no name of it imports code of the file's choice.
    """

    pattern: str
    spellings: tuple[str, ...]
    build: Builder
    is_own: bool = True
    is_trusted: bool = True


_KINDS: dict[str, NetworkKind] = {}
_TRIED = ImageTask(in_channels=1, nb_classes=2)


def register_network(
    pattern: str, *spellings: str, is_own: bool = True, is_trusted: bool = True
) -> Callable[[Builder], Builder]:
    r"""Make networks known by name, to ``Recipe(network=...)``, ``art-oat train --network`` and saved models.

    The decorated function gets an :class:`ImageTask` and, as strings, the groups of the pattern. It returns a plain
    network, or raises ``ValueError`` where a name or a size of image cannot be. Names are tried on 32x32 images. The
    files of :mod:`art_oat.models` are found by themselves; one of your own is imported by you.

    Args:
        pattern: Regular expression of the whole name.
        *spellings: How messages and help texts write the names, such as ``"wrn-16-8"``.
        is_own: Whether no code but this library's is imported to build it, so that a name is tried at once.
        is_trusted: Whether a file may name it: no name imports code of the file's choice.

    Example:
        >>> @register_network(r"mlp-(\d+)", "mlp-64 (neurons)")           # doctest: +SKIP
        ... def mlp(task, nb_neurons):
        ...     return MLP(task.in_channels, task.nb_classes, int(nb_neurons))
    """

    def register(build: Builder) -> Builder:
        _KINDS[pattern] = NetworkKind(pattern, spellings, build, is_own, is_trusted)
        return build

    return register


@cache
def _import_all() -> None:
    for module in pkgutil.iter_modules(importlib.import_module(__package__).__path__):
        importlib.import_module(f"{__package__}.{module.name}")


def network_kinds() -> list[NetworkKind]:
    """Return every kind that is registered, by a file of this package or elsewhere; our own first."""
    _import_all()
    return sorted(_KINDS.values(), key=lambda kind: (not kind.is_own, not kind.is_trusted, kind.spellings))


def spelled() -> str:
    """Return how the names of networks are written."""
    return ", ".join(spelling for kind in network_kinds() for spelling in kind.spellings)


def network_kind(name: str) -> NetworkKind:
    """Return the kind that a name is of.

    Raises:
        TypeError: If it is no text.
        ValueError: If there is none.
    """
    if not isinstance(name, str):
        raise TypeError(f"network must be one of {spelled()}, got {shown(name)}.")
    found = next((kind for kind in network_kinds() if re.fullmatch(kind.pattern, name)), None)
    if found is None:
        known = [spelling.partition(" ")[0] for kind in network_kinds() for spelling in kind.spellings]
        raise ValueError(f"network must be one of {spelled()}, got {shown(name)}.{near(name, known)}")
    return found


def near(name: str, known: Sequence[str]) -> str:
    """Return a sentence that names what may have been meant; ``""`` where nothing is near."""
    close = difflib.get_close_matches(name, known, n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def check_network_name(name: str) -> None:
    """Refuse a name that means no network, as far as that can be known without code of others.

    Raises:
        ValueError: If it means none.
    """
    if (kind := network_kind(name)).is_own:
        _try_to_build(kind, name)


@cache
def _try_to_build(kind: NetworkKind, name: str) -> None:
    """Once for each name: a large network takes seconds, and every recipe asks."""
    match = re.fullmatch(kind.pattern, name)
    assert match is not None
    with torch.device("meta"):
        kind.build(_TRIED, *match.groups())


def network_named(
    name: str, *, in_channels: int = 3, nb_classes: int = 10, image_size: Sequence[int] = (32, 32)
) -> nn.Module:
    """Return the plain network that a short name means, with fresh weights.

    Args:
        name: Such as ``"resnet18"``; see ``art-oat train --help``.
        in_channels: Channels of an image.
        nb_classes: ``K``.
        image_size: Height and width of an image.

    Raises:
        TypeError: If all faults are arguments of another kind.
        ValueError: If the name means none, or not for these images, or a number is below 1; all faults at once.
    """
    faults = refusals(lambda: network_kind(name))
    faults += count_faults({"in_channels": in_channels, "nb_classes": nb_classes}) + _image_size_faults(image_size)
    refuse(faults)
    height, width = plain_sizes(image_size)
    return _built(name, ImageTask(plain(in_channels), plain(nb_classes), (height, width)))


def _image_size_faults(image_size: Sequence[int]) -> list[str]:
    if faults := sizes_faults({"image_size": image_size}):
        return faults
    return [] if len(image_size) == 2 else [f"image_size must be height and width, got {shown(image_size)}."]  # noqa: PLR2004


def _built(name: str, task: ImageTask) -> nn.Module:
    kind = network_kind(name)
    match = re.fullmatch(kind.pattern, name)
    assert match is not None
    return kind.build(task, *match.groups())
