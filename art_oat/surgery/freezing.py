"""Owns frozen parts of a network: what comes before another part, and what keeps it as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from art_oat.randomness import borrowed_generators
from art_oat.surgery.observation import leaves
from art_oat.surgery.selection import holders, is_within, with_near_names
from art_oat.surgery.stand_in import plain, plain_root, stand_in


def freeze_below(network: nn.Module, path: str, *, input_shape: Sequence[int] | None = None) -> tuple[str, ...]:
    """Freeze everything that has run when a part of a network is first called.

    Frozen parts need no gradient, have none left, and are brought back to evaluation mode whenever they are called: so
    neither their weights nor their statistics move, and their dropout is off. One that is called again later is frozen
    there, too. Parts that were frozen before stay so; :func:`unfreeze` undoes all of it.

    Copies, pickles, and what is folded or converted, stay frozen; but what conversion adds (FiLM) is trainable, a file
    of weights does not tell, ``convert_sync_batchnorm`` forgets it, and ``update_bn`` resets statistics: do that first.

    Args:
        network: Plain or conditional; changed in place.
        path: Dotted path of the first part to be trained, as in the plain network, such as ``"layer3"``.
        input_shape: Shape of one sample on which a copy is run to see what comes before; None to try common sizes.

    Returns:
        The dotted paths of what is frozen, in the order of the calls.

    Raises:
        TypeError: If ``network`` is of another kind.
        ValueError: If there is no part of that name (gives the nearest), it is not called in evaluation, what it gets
            depends on something that is not used by calling the part that holds it, or frozen and trained parts have
            weights in common; nothing is changed.

    Example:
        >>> from art_oat.models import ResNet
        >>> freeze_below(ResNet((1, 1)), "stages.1")
        ('stem', 'stages.0')
    """
    root = plain_root(network)
    subject, x = stand_in(network, input_shape)
    known = {name for name, _ in subject.named_modules(remove_duplicate=False)} - {""}
    if path not in known:
        near = with_near_names(path, known)
        raise ValueError(f"path must be the dotted path of a part of the {type(root).__name__}, got {near}.")
    done = _run_before(subject, path, x)
    frozen = tuple(name for name in done if not any(holder in done for holder in holders(name)))
    parts = [root.get_submodule(name) for name in frozen]
    for name, parameter in plain(network).named_parameters():
        subject.get_parameter(name).requires_grad_(parameter.requires_grad)
    faults = _unfrozen(subject, path, x, frozen) or ties(parts, root) or _shared(parts, root.get_submodule(path))
    if faults:
        raise ValueError(f"what comes before {path!r} must be frozen part by part, but {' and '.join(faults)}.")
    for part in parts:
        freeze(part)
    return frozen


def unfreeze(network: nn.Module) -> None:
    """Let everything be trained again that :func:`freeze_below` or :func:`transfer` froze; modes stay as they are."""
    for module in network.modules():
        if (hook := take_hook(module)) is not None:
            for name, parameter in module.named_parameters():
                if name not in hook.fixed:
                    parameter.requires_grad_()


class _Frozen:
    """Is called before a frozen module, and brings it back to evaluation mode, with all that it holds.

    Args:
        fixed: Names of the parameters in the module that were not trainable before.
    """

    def __init__(self, fixed: frozenset[str]) -> None:
        self.fixed = fixed

    def __call__(self, module: nn.Module, _: Any) -> None:
        if any(part.training for part in module.modules()):  # hosts set modes of single norms, too
            module.eval()


def freeze(part: nn.Module) -> None:
    """Freeze a part and all within, each by a hook of its own: some are called from elsewhere, too."""
    for module in part.modules():
        if not any(isinstance(hook, _Frozen) for hook in module._forward_pre_hooks.values()):
            fixed = frozenset(name for name, it in module.named_parameters() if not it.requires_grad)
            module.register_forward_pre_hook(_Frozen(fixed), prepend=True)  # before what computes weights in training
    set_trainable(part.eval(), False)
    for parameter in part.parameters():
        parameter.grad = None  # an optimizer that holds it would go on by it


def take_hook(module: nn.Module) -> _Frozen | None:
    """Take the hook of a frozen module away; return it."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, _Frozen):
            del module._forward_pre_hooks[key]
            return hook
    return None


def set_trainable(part: nn.Module, is_trainable: bool) -> None:
    """Let parameters need gradients or not; whole numbers cannot."""
    for parameter in part.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(is_trainable)


def ties(parts: Sequence[nn.Module], root: nn.Module) -> list[str]:
    """Say which weights of some parts are also those of modules outside of them."""
    inside = {module for part in parts for module in part.modules()}
    owned = {id(tensor) for part in parts for tensor in part.parameters()}
    places: dict[int, list[str]] = {}
    is_tied: set[int] = set()
    for path, module in root.named_modules():
        for name, tensor in module.named_parameters(prefix=path, recurse=False):
            places.setdefault(id(tensor), []).append(name)
            if id(tensor) in owned and module not in inside:
                is_tied.add(id(tensor))
    return [f"{' and '.join(places[key])} are tied" for key in is_tied]


def _shared(parts: Sequence[nn.Module], target: nn.Module) -> list[str]:
    """Say which modules that hold tensors are both in some parts and in another."""
    inside = {module for part in parts for module in part.modules()}
    shared = [
        name or "the part itself"
        for name, module in target.named_modules()
        if module in inside and (module._parameters or module._buffers)
    ]
    return [f"{name} of it is held by a part before, too" for name in shared[:1]]


def _run_before(subject: nn.Module, path: str, x: Tensor) -> list[str]:
    """Return which parts have run when one is first called, in the order in which they are done.

    Raises:
        ValueError: If it is not called.
    """
    done: dict[str, None] = {}
    handles = [
        part.register_forward_hook(lambda *_, name=name: done.setdefault(name))
        for name, part in subject.named_modules(remove_duplicate=False)
    ]
    try:
        with torch.no_grad(), borrowed_generators(seed=0):
            _inputs_of(subject, path, x)
    finally:
        for handle in handles:
            handle.remove()
    return list(done)


def _unfrozen(subject: nn.Module, path: str, x: Tensor, frozen: Sequence[str]) -> list[str]:
    """Freeze parts of a copy, and say what still moves in training of that which another part gets."""
    for name in frozen:
        freeze(subject.get_submodule(name))
    subject.train()
    before = {name: buffer.clone() for name, buffer in subject.named_buffers()}
    names = {id(parameter): name for name, parameter in subject.named_parameters()}
    with torch.enable_grad(), borrowed_generators(seed=0):
        used = {id(leaf) for tensor in _inputs_of(subject, path, x) for leaf in leaves(tensor)}
    weights = [name for key, name in names.items() if key in used]
    statistics = [name for name, buffer in subject.named_buffers() if not torch.equal(buffer, before[name])]
    faults = [f"it depends on {', '.join(weights)}, used by no part that holds them: requires_grad_(False) first"]
    moved = [f"{', '.join(statistics)} move(s) without a call of the part that holds them"]
    return faults * bool(weights) + moved * bool(statistics)


class _ReachedError(Exception):
    """Ends a run where it has come far enough."""


def _inputs_of(subject: nn.Module, path: str, x: Tensor) -> list[Tensor]:
    """Run a network until one of its parts is called, and return the tensors which that gets.

    Raises:
        ValueError: If it is not called.
    """
    tensors: list[Tensor] = []

    def enter(_: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        tensors.extend(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        raise _ReachedError

    parts = {part for name, part in subject.named_modules(remove_duplicate=False) if is_within(name, path)}
    handles = [part.register_forward_pre_hook(enter, with_kwargs=True, prepend=True) for part in parts]
    try:
        subject(x)
    except _ReachedError:
        return tensors
    finally:
        for handle in handles:
            handle.remove()
    raise ValueError(f"path must be that of a part which is called in evaluation, but {path!r} is not.")
