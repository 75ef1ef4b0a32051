"""Owns the conversion of a plain network into a conditional one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from art_oat.layers import DEFAULT_LAMBDAS, ConditionalLayer, DualBatchNorm, Encoding, EncodingKind, FiLM, FiLMKind
from art_oat.model import OATModel
from art_oat.randomness import borrowed_generators
from art_oat.replica import clone_tensor, replicate

MakeFiLM = Callable[[int], FiLM]
Conversion = Callable[[nn.Module, MakeFiLM], ConditionalLayer]

_CONVERSIONS: dict[type[nn.Module], Conversion] = {}
_OTHER_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class UnsupportedModuleError(ValueError):
    """A network holds layers that cannot be converted; the message names all of them by dotted path."""


def register_conversion(kind: type[nn.Module]) -> Callable[[Conversion], Conversion]:
    """Register how modules of a type, and of its subclasses, become conditional layers.

    The decorated function takes the module (a copy, free to keep) and ``make_film``, which builds the FiLM for a
    number of channels; it returns a :class:`ConditionalLayer`, or raises ``ValueError`` to refuse the module, saying
    why. The closest registered base class of a module decides.

    Example:
        >>> @register_conversion(MyNorm)                                    # doctest: +SKIP
        ... def convert_my_norm(norm, make_film):
        ...     return DualBatchNorm(norm, make_film(norm.num_features))
    """

    def register(conversion: Conversion) -> Conversion:
        _CONVERSIONS[kind] = conversion
        return conversion

    return register


@register_conversion(nn.BatchNorm1d)
@register_conversion(nn.BatchNorm2d)
@register_conversion(nn.BatchNorm3d)
def _convert_batch_norm(norm: nn.Module, make_film: MakeFiLM) -> DualBatchNorm:
    assert isinstance(norm, _BatchNorm)
    if isinstance(norm, LazyModuleMixin):
        raise ValueError("its size is not known yet: run one batch through the network first")
    if type(norm).forward is not _BatchNorm.forward:
        raise ValueError("it overrides forward, so it may do more than normalize: register_conversion for its type")
    if norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks or norm._backward_pre_hooks:
        raise ValueError("it has hooks, which would see parts of a batch: register them after the conversion")
    if is_parametrized(norm):
        raise ValueError("its weights are computed from others, so nothing can be folded into them")
    if not norm.track_running_stats or norm.running_mean is None:
        raise ValueError("without running statistics it is no affine map in evaluation: track_running_stats=True")
    if not norm.affine:
        raise ValueError("without weight and bias there is nothing that FiLM could be folded into: affine=True")
    return DualBatchNorm(norm, make_film(norm.num_features))


def to_conditional(
    network: nn.Module,
    lambdas: Iterable[float] = DEFAULT_LAMBDAS,
    *,
    encoding: EncodingKind = "random-orthogonal",
    code_dim: int = 128,
    film: FiLMKind = "identity",
    seed: int = 0,
) -> OATModel:
    """Make a copy of a network conditional on lam: every batch norm becomes dual and is followed by FiLM.

    The published networks of arXiv:2010.11828 are this applied to a ResNet and two WideResNets. With
    ``film="identity"`` the result answers as ``network`` does, at every lam, until it is trained.

    Args:
        network: Any network with batch norm; it is left untouched. Dtype, device, training flags and
            ``requires_grad`` carry over.
        lambdas: The lams to train, distinct, in ``[0, 1]``. Between them the codes are interpolated.
        encoding: How lam is encoded: ``"scalar"``, ``"one-hot"``, ``"dct"`` or ``"random-orthogonal"``.
        code_dim: Length of a code; at least ``len(lambdas)`` (``"scalar"`` ignores it).
        film: ``"identity"`` (starts as the identity) or ``"published"`` (the form and start of the published code).
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
    table = Encoding(lambdas, encoding, code_dim, seed)
    with borrowed_generators(seed=seed):
        layers = _convert_layers(network, partial(FiLM, table.dim, kind=film))
    converted = replicate(network, lambda module: layers.get(id(module)), clone_tensor)
    like = next(tensor for layer in layers.values() for tensor in layer.parameters())
    conversion = {
        "lambdas": table.lambdas,
        "encoding": encoding,
        "code_dim": code_dim,
        "film": film,
        "seed": seed,
    }
    return OATModel(converted, table.to(like), conversion)


def _convert_layers(network: nn.Module, make_film: MakeFiLM) -> dict[int, ConditionalLayer]:
    """Convert every norm, by id; raise one error for all that cannot be."""
    layers: dict[int, ConditionalLayer] = {}
    faults: list[str] = []
    for path, module in network.named_modules():
        try:
            layer = _convert(module, make_film)
        except ValueError as error:
            faults.append(f"{path or 'the network itself'} ({type(module).__name__}): {error}.")
        else:
            if layer is not None:
                layers[id(module)] = layer
    if faults:
        raise UnsupportedModuleError(f"cannot convert {len(faults)} layer(s). " + " ".join(faults))
    if not layers:
        raise UnsupportedModuleError(
            f"{type(network).__name__} holds no batch norm to convert: its statistics and affine weights are what "
            "depends on lam. Add nn.BatchNorm2d after the convolutions."
        )
    return layers


def _convert(module: nn.Module, make_film: MakeFiLM) -> ConditionalLayer | None:
    conversion = next((_CONVERSIONS[kind] for kind in type(module).__mro__ if kind in _CONVERSIONS), None)
    if conversion is None:
        if isinstance(module, _OTHER_NORMS):
            raise ValueError("only BatchNorm carries two statistics; exchange it, or register_conversion for its type")
        return None
    norm = copy.deepcopy(module)

    def make_matching_film(nb_channels: int) -> FiLM:
        like = next(norm.parameters())
        return make_film(nb_channels).to(device=like.device, dtype=like.dtype)

    layer = conversion(norm, make_matching_film)
    layer.train(module.training)
    return layer
