"""How norms become conditional layers: the options, and the conversion of batch norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.lazy import LazyModuleMixin

from art_oat.layers import (
    FILMS,
    ConvertedLayer,
    EncodingKind,
    FollowedNorm,
    can_be_filmed,
    convert_sample_norm,
    film_layer,
    is_sample_norm,
    split,
)
from art_oat.layers.conversion import (
    STATISTICS,
    LayerBuilder,
    conversion_of,
    refuse_computed,
    refuse_inner_norms,
    register_conversion,
)
from art_oat.numbers import is_name_in
from art_oat.rebuild import clone_tensor, rebuild, without_hooks
from art_oat.surgery.selection import Selector, select

_KNOWN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """How the norms of a network depend on lam.

    Args:
        encoding: How lam is encoded: ``"scalar"``, ``"one-hot"``, ``"dct"`` or ``"random-orthogonal"``.
        code_dim: Length of a code, at least the number of lams (``"scalar"`` ignores it). None for just that with
            ``"one-hot"``, and for the published 128 with the others.
        film: ``"linear"``: a linear map of the code; with one-hot codes a scale and a shift per channel for every lam.
            ``"two-layer"``: the published form, but it starts as the identity, too. ``"published"``: the form and start
            of the published code. The latter two make a network several times larger.
        film_on: Which norms get a FiLM: dotted paths (of norms, or of what holds them), or a predicate
            ``(path, norm) -> bool``; None for all. A norm without affine weights that gets a FiLM folds into one with
            weights. Paths of convolutions and linear layers get a FiLM after them, too. In a network without norms,
            paths and predicate are about these layers alone.
        statistics: ``"dual"``: statistics and affine weights of their own for lam = 0 and lam > 0, as published.
            ``"shared"``: one set of statistics, and two of affine weights. ``"single"``: one set of each, so that FiLM
            alone depends on lam. Norms that look at one sample alone (layer, group, instance, RMS norm) have no
            statistics to double: there, ``"shared"`` is the same as ``"dual"``.
        keep: Which norms stay as they are, the same at every lam; given as for ``film_on``.

    Raises:
        ValueError: If ``film`` or ``statistics`` is not as above. The rest is checked against a network.
    """

    encoding: EncodingKind = "one-hot"
    code_dim: int | None = None
    film: str = "linear"
    film_on: Selector | None = None
    statistics: str = "dual"
    keep: Selector = ()

    def __post_init__(self) -> None:
        for name, known in (("film", FILMS), ("statistics", STATISTICS)):
            if not is_name_in(value := getattr(self, name), known) and not (value is None and None in known):
                raise ValueError(f"{name} must be one of {tuple(known)}, got {value!r}.")


def filmed(network: nn.Module, norms: Mapping[str, nn.Module], film_on: Selector | None) -> dict[str, nn.Module]:
    """Return what gets a FiLM, norms first, by dotted path; see :class:`Conditioning`."""
    if film_on is None:
        return dict(norms)
    parts = network.named_modules(remove_duplicate=False)
    layers = {path: part for path, part in parts if can_be_filmed(part)}
    if callable(film_on) or isinstance(film_on, str) or not isinstance(film_on, Iterable):
        return select(film_on, norms or layers, "film_on")
    paths = list(film_on)
    among_norms = [path for path in paths if path not in layers]
    named = {path: layers[path] for path in paths if path in layers}
    return select(among_norms, norms or layers, "film_on") | named


def convert_layer(layer: nn.Module, build: LayerBuilder) -> ConvertedLayer:
    """Return the conditional form of a norm, or of another layer that gets a FiLM, without its hooks.

    Raises:
        ValueError: If it cannot be converted; says why.
    """
    if isinstance(layer, LazyModuleMixin):
        raise ValueError("its size is not known yet: run one batch through the network first")
    conversion = conversion_of(layer) or (film_layer if can_be_filmed(layer) else convert_sample_norm)
    converted = conversion(rebuild(without_hooks(layer), lambda _: None, clone_tensor), build)
    converted.train(layer.training)
    return converted


def norms_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return every norm by dotted path; one that is used in several places has several paths."""
    parts = network.named_modules(remove_duplicate=False)
    return {
        path: part
        for path, part in parts
        if isinstance(part, _NormBase) or conversion_of(part) is not None or is_sample_norm(part)
    }


@register_conversion(nn.BatchNorm1d)
@register_conversion(nn.BatchNorm2d)
@register_conversion(nn.BatchNorm3d)
@register_conversion(nn.SyncBatchNorm)
def _convert_batch_norm(norm: nn.Module, build: LayerBuilder) -> ConvertedLayer:
    assert isinstance(norm, _BatchNorm)
    refuse_computed(norm)
    if "forward" in vars(norm):
        raise ValueError("its forward was replaced on the instance, so it may do more than normalize: make it a class")
    refuse_inner_norms(norm)
    if not norm.track_running_stats or norm.running_mean is None:
        raise ValueError("without running statistics it is no affine map in evaluation: track_running_stats=True")
    if type(norm).forward in _KNOWN_FORWARDS:
        return build.batch_norm(norm)
    plain, rest = split(norm)
    return FollowedNorm(build.batch_norm(plain), rest)
