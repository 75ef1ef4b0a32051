"""The one way in which networks are rebuilt: a deep copy in which chosen modules and tensors are replaced."""

from __future__ import annotations

import copy
import functools
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_ATOMIC = (type, FunctionType, BuiltinFunctionType, ModuleType, Tensor)
_IMAGE_AXES = 4  # N, C, H, W
_HOOKS = re.compile("(_is_full)?_(forward|backward)(_pre)?_hooks?(_with_kwargs|_always_called)?")


def rebuild(
    network: nn.Module,
    substitute: Callable[[nn.Module], nn.Module | None],
    carry: Callable[[Tensor], Tensor],
) -> nn.Module:
    """Deep-copy a network, with other modules and other tensors in chosen places.

    The replacements enter the memo of :func:`copy.deepcopy`, so they reach every reference to the original: shared
    modules, modules kept in plain lists, tied weights, the root itself. Hooks of a replaced module go over to its
    replacement, as copies that refer to the rebuilt network.

    Args:
        network: Any module; it is left untouched.
        substitute: Maps a module to its replacement, or to None where it is copied. Called once per module, and not
            for what is below a replaced one.
        carry: Maps each tensor that a copied module holds, directly or not, to its counterpart.

    Raises:
        TypeError: If something that a module holds cannot be copied; names it.
    """
    memo, replaced = _replacements(network, substitute, carry)
    result = _copied(network, memo)
    for module, replacement in replaced:
        for name, hooks in hooks_of(module).items():
            setattr(replacement, name, copy.deepcopy(hooks, memo))
    return result


def _replacements(
    network: nn.Module, substitute: Callable[[nn.Module], nn.Module | None], carry: Callable[[Tensor], Tensor]
) -> tuple[dict[int, object], list[tuple[nn.Module, nn.Module]]]:
    """Return the replacements of modules and tensors, by id of the original, and the pairs of modules."""
    memo: dict[int, object] = {}
    replaced: list[tuple[nn.Module, nn.Module]] = []
    seen: dict[int, object] = {}  # holds what it counts, whose id could else be given to another
    pending: list[Any] = [network]
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, Tensor):
            memo[id(part)] = carry(part)
        elif isinstance(part, nn.Module) and (replacement := substitute(part)) is not None:
            memo[id(part)] = replacement
            replaced.append((part, replacement))
        else:
            pending += contents(part)
    return memo, replaced


def contents(holder: object) -> Collection[Any]:
    """Return what a module, a container, a bound method or an object with attributes holds, one level down."""
    if isinstance(holder, dict):
        return holder.values()
    if isinstance(holder, list | tuple | set | frozenset | deque):
        return holder
    if isinstance(holder, MethodType):
        return (holder.__self__,)
    if isinstance(holder, functools.partial):
        return (holder.func, holder.args, holder.keywords)
    return () if isinstance(holder, _ATOMIC) or not hasattr(holder, "__dict__") else vars(holder).values()


def _copied(network: nn.Module, memo: dict[int, object]) -> nn.Module:
    before = dict(memo)
    try:
        result = copy.deepcopy(network, memo)
    except Exception as error:
        raise TypeError(_uncopyable(network, before) or f"the network cannot be copied: {error}") from error
    assert isinstance(result, nn.Module)
    return result


def _uncopyable(network: nn.Module, memo: dict[int, object]) -> str:
    """Name the first thing that a module of a network holds, and that cannot be copied."""
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if id(module) in memo or name == "_modules":
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception as error:  # noqa: BLE001 - whatever copying raises
                where = f"{path}.{name}".lstrip(".")
                return (
                    f"a network must be such that it can be copied, but {where} ({type(value).__name__}) cannot: "
                    f"{error}. Keep it outside of the network, or give what holds it a __deepcopy__."
                )
    return ""


def with_own_children(
    module: nn.Module,
    substitute: Callable[[nn.Module], nn.Module | None],
    carry: Callable[[Tensor], Tensor],
) -> nn.Module:
    """Give a shallow copy of a module children of its own, made by :func:`rebuild`; return it."""
    for name, child in module._modules.items():
        module._modules[name] = None if child is None else rebuild(child, substitute, carry)
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


def in_float64(module: nn.Module) -> nn.Module:
    """Return a copy on the processor, in float64 and evaluation, to be tried; on "meta", without values, of ones."""
    twin = copy.deepcopy(module)
    if any(tensor.is_meta for tensor in (*twin.parameters(), *twin.buffers())):
        twin.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*twin.parameters(), *twin.buffers()):
                tensor.fill_(1)
    return twin.cpu().double().eval()


def same_tensor(tensor: Tensor, part: tuple[slice, ...] = ()) -> Tensor:
    """Return the tensor itself, or a view of a part that carries gradient, for a rebuilt network that shares it."""
    return tensor[part] if part else tensor


def clone_tensor(tensor: Tensor, part: tuple[slice, ...] = ()) -> Tensor:
    """Return an independent copy, a parameter where it was one, with ``requires_grad`` as it was."""
    clone = same_tensor(tensor.detach(), part).clone()
    return nn.Parameter(clone, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else clone


def has_channels_last(tensor: Tensor) -> bool:
    """Whether images or weights have channels last, and lie in no other way too, as where one axis is of length 1."""
    is_so = tensor.dim() == _IMAGE_AXES and tensor.is_contiguous(memory_format=torch.channels_last)
    return is_so and not tensor.is_contiguous()


def laid_out(tensor: Tensor, *, channels_last: bool = False) -> Tensor:
    """Return a tensor in the usual layout, or images with channels last; it shares memory where it lies so.

    With one channel or one pixel a tensor lies both ways. Torch guesses by strides, and dies on some processors where
    it guesses channels last, see ``layout_faults`` in training: here, strides are those of the usual layout.
    """
    if channels_last and tensor.dim() == _IMAGE_AXES:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous().flatten().view(tensor.shape)
