"""Weights in common: converted norms keep in common what the norms had in common."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

from torch import nn

from art_oat.layers import ConvertedLayer, NormLayer, SampleNorm
from art_oat.surgery.errors import UnsupportedModuleError
from art_oat.surgery.selection import holders


class _Place(NamedTuple):
    """Where a tensor is registered, and what its module is converted to."""

    path: str
    name: str
    layer: ConvertedLayer | None

    def __str__(self) -> str:
        return f"{self.path}.{self.name}"


def tie(network: nn.Module, layers: Mapping[int, ConvertedLayer]) -> None:
    """Tie converted norms as the norms were tied, side by side, and let them share their FiLM.

    Args:
        network: Before conversion.
        layers: What its norms are converted to, by id of the norm.

    Raises:
        UnsupportedModuleError: If a converted norm shares a tensor with something else; names all of those.
    """
    shared = _shared_places(network, layers)
    if faults := [" and ".join(map(str, places)) for places in shared if not _can_tie(places)]:
        raise UnsupportedModuleError(
            "a converted layer can have a tensor in common with other converted norms only, under the same name, "
            "all of one sample or all of a batch, of as many channels at every width, all of them or none with a FiLM, "
            f"got {'; '.join(faults)}. "
            "Untie them, or name the norms in keep or in film_on."
        )
    for places in shared:
        _tie_layers([place.layer for place in places], places[0].name)
    _share_films([[place.layer for place in places] for places in shared])


def _shared_places(network: nn.Module, layers: Mapping[int, ConvertedLayer]) -> list[list[_Place]]:
    """Return the places of each tensor that lies in several, at least one of them in a converted norm."""
    modules = dict(network.named_modules(remove_duplicate=False))
    places_of: dict[int, dict[int, _Place]] = {}
    for path, module in modules.items():
        holder = next((norm for norm in map(modules.get, holders(path)) if id(norm) in layers), module)
        for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            places_of.setdefault(id(tensor), {}).setdefault(id(holder), _Place(path, name, layers.get(id(module))))
    inside = {part for norm in modules.values() if id(norm) in layers for part in norm.modules()}
    return [
        list(places.values())
        for places in places_of.values()
        if len(places) > 1 and any(modules[place.path] in inside for place in places.values())
    ]


def _can_tie(places: list[_Place]) -> bool:
    layers = [place.layer for place in places if isinstance(place.layer, NormLayer)]
    kinds = (
        {place.name for place in places},
        {(layer.film is None, layer.nb_channels, isinstance(layer, SampleNorm)) for layer in layers},
    )
    return len(layers) == len(places) and all(len(kind) == 1 for kind in kinds)


def _tie_layers(layers: list[Any], name: str) -> None:
    first, *others = layers
    for other in others:
        for part, follower in zip(first.tied_parts(), other.tied_parts(), strict=True):
            if getattr(part, name, None) is not None:
                setattr(follower, name, getattr(part, name))


def _share_films(groups: list[list[Any]]) -> None:
    """Give norms that are tied, directly or through others, one FiLM: two could not be folded into one weight."""
    chains: list[list[Any]] = []
    for group in groups:
        met = [layers for layers in chains if any(layer in layers for layer in group)]
        merged = [*group, *chain.from_iterable(met)]
        chains = [layers for layers in chains if layers not in met] + [merged]
    for first, *others in chains:
        for other in others:
            other.film = first.film
