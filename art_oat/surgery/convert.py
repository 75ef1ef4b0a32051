"""Owns the conversion of a plain network into a conditional one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from art_oat.contexts import borrowed_generators
from art_oat.layers import (
    DEFAULT_LAMBDAS,
    FILMS,
    BatchNormLayer,
    ConditionalLayer,
    DualAffineBatchNorm,
    DualBatchNorm,
    Encoding,
    EncodingKind,
    FiLM,
    FiLMKind,
    FollowedNorm,
    NarrowFiLM,
    Switch,
    split,
)
from art_oat.layers.slimmable import check_widths
from art_oat.model import OATModel, advice_for
from art_oat.rebuild import clone_tensor, rebuild, without_hooks
from art_oat.surgery.errors import UnsupportedModuleError, refuse_layers
from art_oat.surgery.fold import fold
from art_oat.surgery.selection import Selector, holders, select
from art_oat.surgery.slim_check import try_out
from art_oat.surgery.slimming import UNCUT, Slimming, make_slimmable, setting_layers, slim

Statistics = Literal["dual", "shared"]
Heads = Literal["shared", "per-width"]

_LAYERS: dict[str, type[BatchNormLayer]] = {"dual": DualBatchNorm, "shared": DualAffineBatchNorm}
_OTHER_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_KNOWN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


@dataclass(frozen=True)
class LayerBuilder:
    """Builds what stands in place of one norm, as the arguments of :func:`to_conditional` ask for.

    Args:
        like: Gives new tensors their dtype and device.
        code_dim: Length of a code.
        film_kind: Form of FiLM; None for a norm that gets none.
        statistics: ``"dual"`` or ``"shared"``.
        whole: The FiLMs of the norm at full width, where this builds for a smaller one.
    """

    like: Tensor
    code_dim: int
    film_kind: FiLMKind | None
    statistics: Statistics
    whole: Sequence[FiLM] | None = None
    _films: list[FiLM | NarrowFiLM] = field(default_factory=list)

    def film(self, nb_channels: int) -> FiLM | NarrowFiLM | None:
        """Return the FiLM for a number of channels; None where ``film_on`` leaves the norm out."""
        if self.film_kind is None:
            return None
        if self.whole is None:
            self._films.append(FILMS[self.film_kind](self.code_dim, nb_channels).to(self.like))
        else:
            self._films.append(NarrowFiLM(self.whole[len(self._films)], nb_channels))
        return self._films[-1]

    def narrower(self) -> LayerBuilder:
        """Return a builder for a smaller width of the same norm: what it builds shares the FiLMs built so far."""
        whole = [film for film in self._films if isinstance(film, FiLM)]
        return LayerBuilder(self.like, self.code_dim, self.film_kind, self.statistics, whole)

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
    if is_parametrized(norm) or "weight" not in norm._parameters:
        raise ValueError(
            "its weights are computed from others, so nothing can be folded into them: make pruning or a "
            "parametrization permanent first, as torch.nn.utils.prune.remove does"
        )
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
    encoding: EncodingKind = "one-hot",
    code_dim: int | None = None,
    film: FiLMKind = "linear",
    film_on: Selector | None = None,
    statistics: Statistics = "dual",
    keep: Selector = (),
    widths: Iterable[float] = (1.0,),
    heads: Heads = "shared",
    full_width: Selector = (),
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> OATModel:
    """Make a copy of a network conditional on lam: every batch norm becomes dual and is followed by FiLM.

    With several ``widths`` it is slimmable too (OATS): at width w a layer runs on the first ``ceil(w C)`` of its ``C``
    channels, a grouped one on fewer groups of the same size, all on slices of one weight (Yu et al. 2018,
    arXiv:1812.08928); every width has norms of its own. The first layer takes all input channels, the last one gives
    all scores. Whether the network with its channels cut equals the full one with the dropped channels masked is
    checked by running both, see :func:`~art_oat.surgery.slimming.slim`.

    Unless ``film`` is ``"published"``, the result answers as ``network`` does, at every lam and width 1, until it is
    trained.
    Norms with affine weights in common keep them in common, side by side, and share their FiLM. Hooks go over to the
    copy. The layouts of arXiv:2010.11828 are made by :func:`to_published`.

    Args:
        network: Any network with batch norm; it is left untouched. Dtypes, device, memory format, training flags and
            ``requires_grad`` carry over. What it takes and returns is up to it.
        lambdas: The lams to train, distinct, in ``[0, 1]``. Between them the codes are interpolated.
        encoding: How lam is encoded: ``"scalar"``, ``"one-hot"``, ``"dct"`` or ``"random-orthogonal"``.
        code_dim: Length of a code; at least ``len(lambdas)`` (``"scalar"`` ignores it); None for just that with
            ``"one-hot"``, and for the published 128 with the others.
        film: ``"linear"``: a linear map of the code, with one-hot codes a scale and a shift per channel for every lam.
            ``"two-layer"``: as published, but it starts as the identity, too. ``"published"``: the form and start of
            the published code. The latter two make a network several times larger.
        film_on: Which norms get a FiLM: dotted paths (of norms, or of what holds them), or a predicate
            ``(path, norm) -> bool``; None for all. The others are still dual. A norm without affine weights that
            gets a FiLM is folded into one with weights.
        statistics: ``"dual"``: statistics and affine weights of their own for lam = 0 and lam > 0, as published.
            ``"shared"``: one set of statistics, and two of affine weights, which also a norm without any gets.
        keep: Which norms to leave as they are, the same at every lam; given as for ``film_on``. The way to convert a
            network that also has norms that cannot be converted.
        widths: Fractions of channels to train, distinct, in ``(0, 1]``, 1 among them.
        heads: ``"shared"``: the last layer is one weight for all widths, as published. ``"per-width"``: each width has
            a last layer of its own (SOLAR, arXiv:2509.16833), which starts as the slice.
        full_width: Which convolutions and linear layers keep all their channels at every width; given as for
            ``film_on``. The way to slim a network of which parts cannot be slimmed.
        input_shape: Shape of one sample, such as ``(3, 32, 32)``, on which conversion and slimming are tried, on
            copies, by running them (their hooks, too); None to try common image sizes. With one width and no size that
            fits, ``OATClassifier`` tries the conversion.
        seed: What random codes and the start of FiLM are drawn from; the global generator is left alone.

    Raises:
        TypeError: If ``network`` is not a module, or is conditional already.
        UnsupportedModuleError: If it has no batch norm, or holds layers that cannot be converted, or slimmed; names all
            of them.
        ValueError: If another argument is not as above.

    Example:
        >>> import torch
        >>> model = to_conditional(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
        >>> model(torch.zeros(2, 1, 5, 5), lam=0.3).shape
        torch.Size([2, 4, 3, 3])
    """
    check_network(network)
    choices = {"film": (film, FiLMKind), "statistics": (statistics, Statistics), "heads": (heads, Heads)}
    for name, (value, kind) in choices.items():
        if value not in get_args(kind):
            raise ValueError(f"{name} must be one of {get_args(kind)}, got {value!r}.")
    if not _is_shape(input_shape):
        raise ValueError(
            f"input_shape must hold whole numbers above 0, such as (3, 32, 32), or be None, got {input_shape!r}."
        )
    table = Encoding(lambdas, encoding, code_dim, seed)
    every_width = check_widths(widths)
    every_norm = _norms(network)
    kept = select(keep, every_norm, "keep")
    kept_ids = {id(norm) for norm in kept.values()}
    norms = {path: norm for path, norm in every_norm.items() if id(norm) not in kept_ids}
    filmed = norms if film_on is None else select(film_on, norms, "film_on")
    uncut = select(full_width, setting_layers(network), "full_width", "layers that set a number of channels")
    if not norms:
        raise UnsupportedModuleError(_nothing_to_convert(network))
    builds = {
        id(norm): LayerBuilder(_like(norm), table.dim, film if path in filmed else None, statistics)
        for path, norm in norms.items()
    }
    try:
        slimming = slim(network, every_width, full_width=uncut, input_shape=input_shape)
    except UnsupportedModuleError as fault:
        with borrowed_generators(seed=seed):
            raise _with_others(fault, lambda: _convert_norms(network, norms, builds, UNCUT)) from None
    with borrowed_generators(seed=seed):
        layers = _convert_norms(network, norms, builds, slimming)
    for width in every_width:
        _tie(network, {norm: by_width[width] for norm, by_width in layers.items()})
    joined = {norm: next(iter(at.values())) if len(at) == 1 else Switch(at) for norm, at in layers.items()}
    converted = rebuild(network, lambda module: joined.get(id(module)), clone_tensor)
    converted = make_slimmable(converted, slimming, has_own_heads=heads == "per-width")
    conversion: dict[str, Any] = {
        "lambdas": table.lambdas,
        "encoding": encoding,
        "code_dim": code_dim,
        "film": film,
        "film_on": None if film_on is None else list(filmed),
        "statistics": statistics,
        "keep": list(kept),
        "widths": every_width,
        "heads": heads,
        "full_width": list(uncut),
        "input_shape": None if input_shape is None else list(input_shape),
        "seed": seed,
    }
    like = _like(next(iter(norms.values())))
    model = OATModel(converted, table.to(like), every_width, conversion, network)
    # with the published start it answers otherwise at first, and as the folded network does all the same
    try_out(model, network if film != "published" else fold(model, table.lambdas[0]), input_shape, like)
    return model


def check_network(network: Any) -> None:
    """Refuse what is no plain network, or one that was wrapped, compiled, scripted or exported.

    Raises:
        TypeError: Saying what to give instead.
    """
    if not isinstance(network, nn.Module):
        what = "the network that was exported" if isinstance(network, torch.export.ExportedProgram) else "a network"
        kind = type(network).__name__
        raise TypeError(f"network must be a torch.nn.Module that is not conditional yet, got {kind}: give {what}.")
    for path, part in network.named_modules():
        where = f" at {path}" if path else ""
        if isinstance(part, OATModel):
            raise TypeError(f"network must be a torch.nn.Module that is not conditional yet, got an OATModel{where}.")
        if (advice := advice_for(part)) is not None:
            raise TypeError(f"network must be an eager torch.nn.Module, got a {type(part).__name__}{where}: {advice}.")


def _with_others(fault: UnsupportedModuleError, step: Callable[[], Any]) -> UnsupportedModuleError:
    """Join a fault and that of another step, if it has one, so that the user hears of all at once."""
    try:
        step()
    except UnsupportedModuleError as other:
        return UnsupportedModuleError(f"{fault} {str(other)[0].upper()}{str(other)[1:]}")
    return fault


def _is_shape(value: Sequence[int] | None) -> bool:
    if value is None:
        return True
    return isinstance(value, Sequence) and all(isinstance(length, Integral) and length > 0 for length in value)


def _norms(network: nn.Module) -> dict[str, nn.Module]:
    """Every norm, by dotted path; one that is used in several places has several paths."""
    named = network.named_modules(remove_duplicate=False)
    return {path: part for path, part in named if isinstance(part, _OTHER_NORMS) or _conversion_of(part) is not None}


def _conversion_of(module: nn.Module) -> Conversion | None:
    return next((_CONVERSIONS[kind] for kind in type(module).__mro__ if kind in _CONVERSIONS), None)


def _convert_norms(
    network: nn.Module, norms: dict[str, nn.Module], builds: dict[int, LayerBuilder], slimming: Slimming
) -> dict[int, dict[float, Layer]]:
    """Convert every norm, by id and width; raise one error for all that cannot be."""
    layers: dict[int, dict[float, Layer]] = {}
    faults: dict[str, str] = {}
    for path, norm in norms.items():
        if id(norm) in layers:
            continue
        build = builds[id(norm)]
        try:
            at = {1.0: _convert(norm, build)}
            for width in slimming.widths[:-1]:
                at[width] = _convert(slimming.cut(path, norm, width), build.narrower())
        except ValueError as error:
            faults[path] = str(error)
        else:
            layers[id(norm)] = {width: at[width] for width in slimming.widths}
    refuse_layers("convert", faults, network, "Norms named in keep stay as they are.")
    return layers


def _convert(module: nn.Module, build: LayerBuilder) -> Layer:
    if isinstance(module, LazyModuleMixin):
        raise ValueError("its size is not known yet: run one batch through the network first")
    conversion = _conversion_of(module)
    if conversion is None:
        raise ValueError("only BatchNorm carries two statistics; exchange it, or register_conversion for its type")
    bare = without_hooks(module)  # hooks go to the layer when the network is rebuilt
    layer = conversion(rebuild(bare, lambda _: None, clone_tensor), build)
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
            "a norm can have a tensor in common with other converted batch norms only, under the same name, of as many "
            f"channels at every width, and all of them or none with a FiLM, got {'; '.join(faults)}. Untie them, or "
            "name the norms in keep or in film_on."
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
        and len({layer.nb_channels for layer in layers if isinstance(layer, BatchNormLayer)}) == 1
    )


def _tie_layers(layers: list[Any], name: str) -> None:
    first, *others = layers
    for other in others:
        for part, follower in zip(first.tied_parts(), other.tied_parts(), strict=True):
            if getattr(part, name, None) is not None:
                setattr(follower, name, getattr(part, name))
