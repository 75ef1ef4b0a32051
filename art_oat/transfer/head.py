"""The head of a network: the layer that sets how many scores it gives, and a new one in its place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from art_oat.contexts import borrowed_generators
from art_oat.layers import Slimmable, Switch
from art_oat.layers.slim_rules import chooses_width, rule_of
from art_oat.layers.slimmable import sliced, slimmable
from art_oat.rebuild import clone_tensor, rebuild, same_tensor, without_hooks
from art_oat.surgery.tracing import cuttable_layers, real_tensors, structure
from art_oat.transfer.freezing import take_hook, tie_faults
from art_oat.transfer.trial import check_path, plain_root, trial_network

Network = TypeVar("Network", bound=nn.Module)


def find_head(network: nn.Module, *, input_shape: Sequence[int] | None = None) -> str:
    """Return the dotted path of the layer that sets how many scores a network gives.

    It is found by running a copy. Of the linear layers and convolutions that the scores come from directly, it is the
    one that, with one more output, gives one more score.

    Args:
        network: Plain or conditional; it is left untouched.
        input_shape: Shape of one sample, such as ``(3, 32, 32)``; None to try common image sizes.

    Raises:
        TypeError: If ``network`` is of another kind.
        ValueError: If there is no such layer, or more than one, or the network does not run on such inputs.

    Example:
        >>> from art_oat.models import SmallCNN
        >>> find_head(SmallCNN())
        'head'
    """
    copy, x = trial_network(network, input_shape)
    layers = cuttable_layers(copy)
    with torch.inference_mode(mode=False):
        candidates = structure(copy, layers, x).heads
    faults = {path: _head_fault(copy, path, x) for path in layers if path in candidates}
    found = [path for path, fault in faults.items() if not fault]
    if len(found) == 1:
        return found[0]
    tried = [f"{path} ({type(layers[path]).__name__}): {fault}." for path, fault in faults.items() if fault]
    advice = "Name one: head=..." if found else "Exchange the layer that the scores come from yourself."
    message = "network must have one head, a linear layer or convolution that sets how many scores it gives, found"
    raise ValueError(" ".join([message, f"{' and '.join(found) or 'none'}.", *tried, advice]))


def head_path(network: nn.Module, head: str | None, input_shape: Sequence[int] | None) -> str:
    """Find the head, or check that the part named is one."""
    if head is None:
        return find_head(network, input_shape=input_shape)
    copy, x = trial_network(network, input_shape)
    check_path(head, copy, "head")
    if fault := _head_fault(copy, head, x):
        kind = type(copy.get_submodule(head)).__name__
        raise ValueError(f"head must set how many scores the network gives, got {head} ({kind}): {fault}.")
    return head


def _head_fault(network: nn.Module, path: str, x: Tensor) -> str:
    """Say why a layer is no head: with one more output, there must be one more score."""
    layer = network.get_submodule(path)
    if not chooses_width(layer):
        return "it is no linear layer, and no convolution of one group"
    if is_parametrized(layer) or "weight" not in layer._parameters:
        return "its weights are computed from others"
    with torch.no_grad(), borrowed_generators(seed=0):
        before = real_tensors(network(x))
        larger = _resized(layer, rule_of(layer).size.outputs + 1)
        try:
            after = real_tensors(rebuild(network, lambda part: larger if part is layer else None, same_tensor)(x))
        except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
            return f"with one more output the network fails: {error}"
    gains = [sum(new.shape[1:2]) - sum(old.shape[1:2]) for old, new in zip(before, after, strict=False)]
    return "" if 1 in gains else "with one more output the network does not give one more score"


def with_new_head(network: Network, path: str, nb_classes: int, seed: int) -> Network:
    """Return a copy of a network whose head, of a checked path, is fresh and gives another number of scores."""
    root = plain_root(network)
    old = root.get_submodule(path)
    if tied := tie_faults([old], root):
        raise ValueError(f"the head must have weights of its own, but {' and '.join(tied)}. Untie them.")
    with borrowed_generators(seed=seed):
        fresh = _resized(old, nb_classes)
    result = rebuild(network, lambda part: fresh if part is old else None, clone_tensor)
    for module in fresh.modules():
        take_hook(module)
    return cast("Network", result)


def _resized(layer: nn.Module, nb_outputs: int) -> nn.Module:
    """Return a fresh layer like one of the network's, with another number of outputs, at each of its widths."""
    if isinstance(layer, Switch):
        whole = _resized(layer.at(1.0), nb_outputs)
        by_width: dict[float, nn.Module] = {1.0: whole}
        for width in layer.widths[:-1]:
            size = rule_of(layer.at(width)).size._replace(outputs=nb_outputs)
            by_width[width] = sliced(whole, size, clone_tensor)
        return Switch({width: by_width[width] for width in layer.widths})
    if isinstance(layer, Slimmable):
        channels = {width: size._replace(outputs=nb_outputs) for width, size in layer._slim_channels.items()}
        return slimmable(_drawn(layer.at(1.0, clone_tensor), nb_outputs), channels)
    return _drawn(layer, nb_outputs)


def _drawn(layer: nn.Module, nb_outputs: int) -> nn.Module:
    fresh: Any = copy.deepcopy(without_hooks(layer))
    rule = rule_of(layer)
    attributes, parts = rule.cut(rule.size._replace(outputs=nb_outputs))
    vars(fresh).update(attributes)
    for name, part in parts.items():
        if (old := getattr(layer, name)) is not None:  # drawn on the CPU: a seed means one head on every device
            shape = [*(kept.stop for kept in part), *old.shape[len(part) :]]
            setattr(fresh, name, nn.Parameter(torch.empty(shape, dtype=old.dtype)))
    fresh.reset_parameters()
    return cast("nn.Module", fresh.to(layer.weight.device))
