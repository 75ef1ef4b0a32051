"""Owns the plain copy that stands in for a network, plain or conditional, while something about it is found out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from art_oat.contexts import borrowed_generators
from art_oat.model import OATModel, advice_for
from art_oat.pinned import LiveNetwork
from art_oat.surgery.fold import fold
from art_oat.surgery.tracing import perturbed_copy


def plain_root(network: nn.Module) -> nn.Module:
    """Return what lies where the plain network lay; paths are the same.

    Raises:
        TypeError: If it is no network, or none with weights of its own.
    """
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise TypeError(f"network must be a torch.nn.Module, got {kind}. A classifier's is classifier.model.")
    if isinstance(network, OATModel):
        return network.network
    for part in network.modules():
        if isinstance(part, LiveNetwork):
            kind = type(part).__name__
            raise TypeError(f"network must have weights of its own, got a {kind}: use fold(model, point).")
        if isinstance(part, OATModel):
            raise TypeError(f"network must not hold an OATModel, got one in a {type(network).__name__}: transfer that.")
    if (advice := advice_for(network)) is not None:
        raise TypeError(f"network must be an eager torch.nn.Module, got a {type(network).__name__}: {advice}.")
    return network


def plain(network: nn.Module) -> nn.Module:
    """Return a plain network of the same parts, at any lam."""
    return fold(network, network.point(width=1.0)) if isinstance(network, OATModel) else network


def trial_network(network: nn.Module, input_shape: Sequence[int] | None) -> tuple[nn.Module, Tensor]:
    """Return a plain copy to try things on, with inputs; see :func:`~art_oat.surgery.tracing.perturbed_copy`."""
    plain_root(network)
    if isinstance(network, OATModel):
        input_shape = network.conversion.get("input_shape") if input_shape is None else input_shape
    with borrowed_generators(seed=0), torch.inference_mode(mode=False):
        return perturbed_copy(plain(network), input_shape)
