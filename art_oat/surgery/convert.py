"""Owns the conversion of a plain network into a conditional one."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from art_oat.layers import (
    DEFAULT_LAMBDAS,
    BatchNormLayer,
    ConditionalLayer,
    DualAffineBatchNorm,
    DualBatchNorm,
    Encoding,
    EncodingKind,
    FiLM,
    FiLMKind,
    FollowedNorm,
    split,
)
from art_oat.model import OATModel
from art_oat.randomness import borrowed_generators
from art_oat.replica import clone_tensor, hooks_of, replicate
from art_oat.surgery.selection import Selector, holders, select

Statistics = Literal["dual", "shared"]

_LAYERS: dict[str, type[BatchNormLayer]] = {"dual": DualBatchNorm, "shared": DualAffineBatchNorm}
_OTHER_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_KNOWN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


class UnsupportedModuleError(ValueError):
    """A network holds layers that cannot be converted; the message names all of them by dotted path."""


@dataclass(frozen=True)
class LayerBuilder:
    """Builds what stands in place of one norm, as the arguments of :func:`to_conditional` ask for.

    Args:
        like: Gives new tensors their dtype and device.
        code_dim: Length of a code.
        film_kind: Form of FiLM; None for a norm that gets none.
        statistics: ``"dual"`` or ``"shared"``.
    """

    like: Tensor
    code_dim: int
    film_kind: FiLMKind | None
    statistics: Statistics

    def film(self, nb_channels: int) -> FiLM | None:
        """Return the FiLM for a number of channels; None where ``film_on`` leaves the norm out."""
        return None if self.film_kind is None else FiLM(self.code_dim, nb_channels, self.film_kind).to(self.like)

    def batch_norm(self, norm: _BatchNorm) -> BatchNormLayer:
        """Return the conditional form of a batch norm, which it takes over."""
        return _LAYERS[self.statistics](norm, self.film(norm.num_features))


Layer = ConditionalLayer | FollowedNorm
Conversion = Callable[[nn.Module, LayerBuilder], Layer]

_CONVERSIONS: dict[type[nn.Module], Conversion] = {}


def register_conversion(kind: type[nn.Module]) -> Callable[[Conversion], Conversion]:
    """Register how modules of a type, and of its subclasses, become conditional layers.

    The decorated function takes the module (a copy, free to keep) and a builder of FiLMs and of conditional batch
    norms; it returns a :class:`ConditionalLayer`, or raises ``ValueError`` to refuse the module, saying why. The
    closest registered base class of a module decides.

    Example:
        >>> @register_conversion(MyBatchNorm)                               # doctest: +SKIP
        ... def convert_my_batch_norm(norm, build):
        ...     return build.batch_norm(norm)
    """

    def register(conversion: Conversion) -> Conversion:
        _CONVERSIONS[kind] = conversion
        return conversion

    return register


@register_conversion(nn.BatchNorm1d)
@register_conversion(nn.BatchNorm2d)
@register_conversion(nn.BatchNorm3d)
@register_conversion(nn.SyncBatchNorm)
def _convert_batch_norm(norm: nn.Module, build: LayerBuilder) -> Layer:
    assert isinstance(norm, _BatchNorm)
    if isinstance(norm, LazyModuleMixin):
        raise ValueError("its size is not known yet: run one batch through the network first")
    if is_parametrized(norm) or "weight" not in norm._parameters:
        raise ValueError("its weights are computed from others, so nothing can be folded into them")
    if "forward" in vars(norm):
        raise ValueError("its forward was replaced on the instance, so it may do more than normalize: make it a class")
    if any(isinstance(part, (_NormBase, *_OTHER_NORMS)) for part in norm.modules() if part is not norm):
        raise ValueError(
            "it holds another norm, which could not be converted with it: register_conversion for its type"
        )
    if not norm.track_running_stats or norm.running_mean is None:
        raise ValueError("without running statistics it is no affine map in evaluation: track_running_stats=True")
    if type(norm).forward in _KNOWN_FORWARDS:
        return build.batch_norm(norm)
    plain, rest = split(norm)
    return FollowedNorm(build.batch_norm(plain), rest)


def to_conditional(
    network: nn.Module,
    lambdas: Iterable[float] = DEFAULT_LAMBDAS,
    *,
    encoding: EncodingKind = "random-orthogonal",
    code_dim: int = 128,
    film: FiLMKind = "identity",
    film_on: Selector | None = None,
    statistics: Statistics = "dual",
    keep: Selector = (),
    seed: int = 0,
) -> OATModel:
    """Make a copy of a network conditional on lam: every batch norm becomes dual and is followed by FiLM.

    With ``film="identity"`` the result answers as ``network`` does, at every lam, until it is trained. Norms with
    affine weights in common keep them in common, side by side, and share their FiLM. Hooks go over to the copy. The
    layouts of arXiv:2010.11828 are made by :func:`to_published`.

    Args:
        network: Any network with batch norm; it is left untouched. Dtypes, device, memory format, training flags and
            ``requires_grad`` carry over. What it takes and returns is up to it.
        lambdas: The lams to train, distinct, in ``[0, 1]``. Between them the codes are interpolated.
        encoding: How lam is encoded: ``"scalar"``, ``"one-hot"``, ``"dct"`` or ``"random-orthogonal"``.
        code_dim: Length of a code; at least ``len(lambdas)`` (``"scalar"`` ignores it).
        film: ``"identity"`` (starts as the identity) or ``"published"`` (the form and start of the published code).
        film_on: Which norms get a FiLM: dotted paths (of norms, or of what holds them), or a predicate
            ``(path, norm) -> bool``; None for all. The others are still dual. A norm without affine weights that
            gets a FiLM is folded into one with weights.
        statistics: ``"dual"``: statistics and affine weights of their own for lam = 0 and lam > 0, as published.
            ``"shared"``: one set of statistics, and two of affine weights, which also a norm without any gets.
        keep: Which norms to leave as they are, the same at every lam; given as for ``film_on``. The way to convert a
            network that also has norms that cannot be converted.
        seed: What random codes and the start of FiLM are drawn from; the global generator is left alone.

    Raises:
        TypeError: If ``network`` is not a module, or is conditional already.
        UnsupportedModuleError: If it has no batch norm, or holds layers that cannot be converted; names all of them.
        ValueError: If another argument is not as above.

    Example:
        >>> import torch
        >>> model = to_conditional(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
        >>> model(torch.zeros(2, 1, 5, 5), lam=0.3).shape
        torch.Size([2, 4, 3, 3])
    """
    if not isinstance(network, nn.Module) or any(isinstance(part, OATModel) for part in network.modules()):
        raise TypeError(f"network must be a torch.nn.Module that is not conditional yet, got {type(network).__name__}.")
    for name, value, known in (("film", film, get_args(FiLMKind)), ("statistics", statistics, get_args(Statistics))):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}.")
    table = Encoding(lambdas, encoding, code_dim, seed)
    every_norm = _norms(network)
    kept = select(keep, every_norm, "keep")
    kept_ids = {id(norm) for norm in kept.values()}
    norms = {path: norm for path, norm in every_norm.items() if id(norm) not in kept_ids}
    filmed = norms if film_on is None else select(film_on, norms, "film_on")
    with borrowed_generators(seed=seed):
        layers = _convert_norms(norms, {id(norm): film for norm in filmed.values()}, table.dim, statistics)
    if not layers:
        raise UnsupportedModuleError(_nothing_to_convert(network))
    _tie(network, layers)
    converted = replicate(network, lambda module: layers.get(id(module)), clone_tensor)
    conversion: dict[str, Any] = {
        "lambdas": table.lambdas,
        "encoding": encoding,
        "code_dim": code_dim,
        "film": film,
        "film_on": None if film_on is None else list(filmed),
        "statistics": statistics,
        "keep": list(kept),
        "seed": seed,
    }
    return OATModel(converted, table.to(_like(next(iter(norms.values())))), conversion)


def _norms(network: nn.Module) -> dict[str, nn.Module]:
    """Every norm, by dotted path; one that is used in several places has several paths."""
    named = network.named_modules(remove_duplicate=False)
    return {path: part for path, part in named if isinstance(part, _OTHER_NORMS) or _conversion_of(part) is not None}


def _conversion_of(module: nn.Module) -> Conversion | None:
    return next((_CONVERSIONS[kind] for kind in type(module).__mro__ if kind in _CONVERSIONS), None)


def _convert_norms(
    norms: dict[str, nn.Module], film_kinds: dict[int, FiLMKind], code_dim: int, statistics: Statistics
) -> dict[int, Layer]:
    """Convert every norm, by id; raise one error for all that cannot be."""
    layers: dict[int, Layer] = {}
    faults: list[str] = []
    for path, norm in norms.items():
        if id(norm) in layers:
            continue
        build = LayerBuilder(_like(norm), code_dim, film_kinds.get(id(norm)), statistics)
        try:
            layers[id(norm)] = _convert(norm, build)
        except ValueError as error:
            faults.append(f"{path or 'the network itself'} ({type(norm).__name__}): {error}.")
    if faults:
        raise UnsupportedModuleError(
            f"cannot convert {len(faults)} layer(s). {' '.join(faults)} Norms named in keep stay as they are."
        )
    return layers


def _convert(module: nn.Module, build: LayerBuilder) -> Layer:
    conversion = _conversion_of(module)
    if conversion is None:
        raise ValueError("only BatchNorm carries two statistics; exchange it, or register_conversion for its type")
    hooks = [value for value in hooks_of(module).values() if isinstance(value, dict)]
    without_hooks: dict[int, Any] = {id(hook): OrderedDict() for hook in hooks}
    layer = conversion(copy.deepcopy(module, without_hooks), build)  # hooks go to the layer when the network is rebuilt
    layer.train(module.training)
    return layer


def _like(norm: nn.Module) -> Tensor:
    """Return a tensor of the dtype and on the device that a norm computes with."""
    tensors = chain(norm.parameters(), norm.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


def _nothing_to_convert(network: nn.Module) -> str:
    return (
        f"{type(network).__name__} holds no batch norm to convert: its statistics and affine weights are what "
        "depends on lam. Add nn.BatchNorm2d after the convolutions."
    )


def _tie(network: nn.Module, layers: dict[int, Layer]) -> None:
    """Let converted norms have in common what the norms have in common: each side of a layer with that of the other.

    Raises:
        UnsupportedModuleError: If a converted norm shares a tensor with something else; names all of those.
    """
    owners: dict[int, dict[int, _Place]] = {}
    modules = dict(network.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        holder = next((norm for norm in map(modules.get, holders(path)) if id(norm) in layers), module)
        for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            owners.setdefault(id(tensor), {}).setdefault(id(holder), _Place(path, name, layers.get(id(module))))
    places_of = [list(places.values()) for places in owners.values()]
    converted = [{id(part) for part in norm.modules()} for norm in modules.values() if id(norm) in layers]
    inside = set().union(*converted)
    shared = [
        places for places in places_of if len(places) > 1 and any(id(modules[place.path]) in inside for place in places)
    ]
    faults = [" and ".join(map(str, places)) for places in shared if not _can_tie(places)]
    if faults:
        raise UnsupportedModuleError(
            "a norm can have a tensor in common with other converted batch norms only, under the same name, and all of "
            f"them or none with a FiLM, got {'; '.join(faults)}. Untie them, or name the norms in keep or in film_on."
        )
    for places in shared:
        _tie_layers([place.layer for place in places], places[0].name)
    _share_films([[place.layer for place in places] for places in shared])


def _share_films(groups: list[list[Any]]) -> None:
    """Give norms that are tied, directly or through others, one FiLM: two could not be folded into one weight."""
    chains: list[list[Any]] = []
    for group in groups:
        met = [chain for chain in chains if any(layer in chain for layer in group)]
        chains = [chain for chain in chains if chain not in met] + [
            [*group, *(part for chain in met for part in chain)]
        ]
    for first, *others in chains:
        for other in others:
            other.film = first.film


class _Place(NamedTuple):
    """Where a tensor is registered, and what its module is converted to."""

    path: str
    name: str
    layer: Layer | None

    def __str__(self) -> str:
        return f"{self.path}.{self.name}"


def _can_tie(places: list[_Place]) -> bool:
    layers = [place.layer for place in places]
    return (
        all(isinstance(layer, BatchNormLayer) for layer in layers)
        and all(place.name == places[0].name for place in places)
        and len({layer.film is None for layer in layers if isinstance(layer, BatchNormLayer)}) == 1
    )


def _tie_layers(layers: list[Any], name: str) -> None:
    first, *others = layers
    for other in others:
        for part, follower in zip(first.tied_parts(), other.tied_parts(), strict=True):
            if getattr(part, name, None) is not None:
                setattr(follower, name, getattr(part, name))
