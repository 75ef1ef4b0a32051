"""Owns the one way in which networks are rebuilt: a deep copy in which chosen modules and tensors are replaced."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

_HOOKS = re.compile("(_is_full)?_(forward|backward)(_pre)?_hooks?(_with_kwargs|_always_called)?")


def replicate(
    network: nn.Module,
    substitute: Callable[[nn.Module], nn.Module | None],
    carry: Callable[[Tensor], Tensor],
) -> nn.Module:
    """Deep-copy a network, with other modules and other tensors in chosen places.

    The replacements enter the memo of :func:`copy.deepcopy`, so they reach every reference to the original: shared
    modules, modules kept in plain lists, tied weights, the root itself. Hooks of a replaced module go over to its
    replacement, as copies that refer to the rebuilt network where they referred to the original.

    Args:
        network: Any module; it is left untouched.
        substitute: Maps a module to what stands in its place, or to None where it is copied as it is. Called once
            per module; what is below a replaced one is not looked at.
        carry: Maps each tensor of a copied module (parameter, buffer or plain attribute) to its counterpart.

    Returns:
        The rebuilt network, of the same class unless the root was replaced.
    """
    memo: dict[int, object] = {}
    copied: dict[int, nn.Module] = {}
    replaced: list[tuple[nn.Module, nn.Module]] = []
    pending = [network]
    while pending:
        module = pending.pop()
        if id(module) in memo or id(module) in copied:
            continue
        replacement = substitute(module)
        if replacement is None:
            copied[id(module)] = module
            pending += module.children()
        else:
            memo[id(module)] = replacement
            replaced.append((module, replacement))
    for tensor in _tensors(copied.values()):
        if id(tensor) not in memo:
            memo[id(tensor)] = carry(tensor)
    result = copy.deepcopy(network, memo)
    for module, replacement in replaced:
        for name, hooks in hooks_of(module).items():
            setattr(replacement, name, copy.deepcopy(hooks, memo))
    assert isinstance(result, nn.Module)
    return result


def with_own_children(
    module: nn.Module,
    substitute: Callable[[nn.Module], nn.Module | None],
    carry: Callable[[Tensor], Tensor],
) -> nn.Module:
    """Give a shallow copy of a module children of its own, made by :func:`replicate`; return it."""
    for name, child in module._modules.items():
        module._modules[name] = None if child is None else replicate(child, substitute, carry)
    return module


def hooks_of(module: nn.Module) -> dict[str, Any]:
    """Return, by attribute, what torch keeps the forward and backward hooks of a module in."""
    return {name: value for name, value in vars(module).items() if _HOOKS.fullmatch(name)}


def shallow_copy(module: nn.Module, kind: type[nn.Module] | None = None) -> nn.Module:
    """Return another module that holds the same, in registers of its own, so that what is added to one is its alone.

    :func:`copy.copy` would share the registers, and refuse a parametrized module.

    Args:
        module: Left untouched.
        kind: Class of the copy; None for that of the module.
    """
    twin: nn.Module = object.__new__(kind or type(module))
    for name, value in vars(module).items():
        vars(twin)[name] = value.copy() if isinstance(value, dict | set) else value
    return twin


def without_hooks(module: nn.Module) -> nn.Module:
    """Return a shallow copy of a module that has no hooks."""
    bare = shallow_copy(module)
    vars(bare).update({name: OrderedDict() for name, hooks in hooks_of(module).items() if isinstance(hooks, dict)})
    return bare


def _tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        yield from module.parameters(recurse=False)
        yield from module.buffers(recurse=False)
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def same_tensor(tensor: Tensor) -> Tensor:
    """Return the tensor itself, for a rebuilt network that shares it."""
    return tensor


def clone_tensor(tensor: Tensor) -> Tensor:
    """Return an independent copy, a parameter where it was one, with ``requires_grad`` as it was."""
    clone = tensor.detach().clone()
    return nn.Parameter(clone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone
