"""The plain copy of a network, plain or conditional, on which transfer tries things."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from art_oat.contexts import borrowed_generators
from art_oat.model import OATModel
from art_oat.network_kinds import advice_for
from art_oat.pinned import LiveNetwork
from art_oat.surgery.fold import fold
from art_oat.surgery.selection import with_near_names
from art_oat.surgery.tracing import perturbed_copy


def plain_root(network: nn.Module) -> nn.Module:
    """Return what lies where the plain network lay; paths are the same.

    Raises:
        TypeError: If it is no network, or none with weights of its own.
    """
    kind = type(network).__name__
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module, got {kind}. A classifier's is classifier.model.")
    if isinstance(network, OATModel):
        return network.network
    for part in network.modules():
        if isinstance(part, LiveNetwork):
            live = type(part).__name__
            raise TypeError(f"network must have weights of its own, got a {live}: use fold(model, lam=..., width=...).")
        if isinstance(part, OATModel):
            raise TypeError(f"network must not hold an OATModel, got one in a {kind}: transfer that.")
    if (advice := advice_for(network)) is not None:
        raise TypeError(f"network must be an eager torch.nn.Module, got a {kind}: {advice}.")
    return network


def plain(network: nn.Module) -> nn.Module:
    """Return a plain network of the same parts, at any lam."""
    return fold(network, width=1.0) if isinstance(network, OATModel) else network


def trial_network(network: nn.Module, input_shape: Sequence[int] | None) -> tuple[nn.Module, Tensor]:
    """Return a plain, perturbed copy to try things on, and inputs on which it runs."""
    plain_root(network)
    if isinstance(network, OATModel) and input_shape is None:
        input_shape = network.conversion.get("input_shape")
    with borrowed_generators(seed=0), torch.inference_mode(mode=False):
        return perturbed_copy(plain(network), input_shape)


def check_path(path: str, network: nn.Module, name: str) -> None:
    """Refuse a dotted path that is none of a part of a network; gives the nearest."""
    known = {part for part, _ in network.named_modules(remove_duplicate=False)} - {""}
    if path not in known:
        near, kind = with_near_names(path, known), type(network).__name__
        raise ValueError(f"{name} must be the dotted path of a part of the {kind}, got {near}.")
