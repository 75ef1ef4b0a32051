"""Owns frozen parts of a network: what comes before another part, and what keeps it as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from art_oat.contexts import borrowed_generators
from art_oat.surgery.selection import holders, is_within, with_near_names
from art_oat.surgery.tracing import graph_leaves
from art_oat.transfer.trial import plain, plain_root, trial_network

_KEY = "art_oat frozen"
"""Of the hook in a frozen module; torch's own are numbers, which start anew in another process."""


def freeze_below(network: nn.Module, path: str, *, input_shape: Sequence[int] | None = None) -> tuple[str, ...]:
    """Freeze everything that has run when a part of a network is first called.

    Frozen parts need no gradient, have none left, and are brought back to evaluation mode whenever they are called: so
    neither their weights nor their statistics move, and their dropout layers are off. One that is called again later is
    frozen there, too. Parts that were frozen before stay so; :func:`unfreeze` undoes all of it.

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
            weights or layers in common; nothing is changed.

    Example:
        >>> from art_oat.models import ResNet
        >>> freeze_below(ResNet((1, 1)), "stages.1")
        ('stem', 'stages.0')
    """
    root = plain_root(network)
    subject, x = trial_network(network, input_shape)
    known = {name for name, _ in subject.named_modules(remove_duplicate=False)} - {""}
    if path not in known:
        near = with_near_names(path, known)
        raise ValueError(f"path must be the dotted path of a part of the {type(root).__name__}, got {near}.")
    with torch.inference_mode(mode=False), borrowed_generators(seed=0):
        run = _run(subject, path, x)
        frozen = tuple(name for name in run.done if not any(holder in run.done for holder in holders(name)))
        faults = _held_faults(subject, run, frozen)
        for name, parameter in plain(network).named_parameters():
            subject.get_parameter(name).requires_grad_(parameter.requires_grad)
        faults += _unfrozen(subject, path, x, frozen)
    parts = [root.get_submodule(name) for name in frozen]
    if faults := faults or ties(parts, root):
        raise ValueError(f"what comes before {path!r} must be frozen part by part, but {' and '.join(faults)}.")
    for part in parts:
        freeze(part)
    return frozen


def unfreeze(network: nn.Module) -> None:
    """Let everything be trained again that :func:`freeze_below` or :func:`adapt` froze; modes stay as they are.

    What was not trainable before stays so; but all is trainable in norms that were folded or converted in between.
    """
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
        hooks: Any = module._forward_pre_hooks
        if _KEY not in hooks:
            fixed = frozenset(name for name, it in module.named_parameters() if not it.requires_grad)
            hooks[_KEY] = _Frozen(fixed)
            hooks.move_to_end(_KEY, last=False)  # before what computes weights in training
    set_trainable(part.eval(), False)
    for parameter in part.parameters():
        parameter.grad = None  # an optimizer that holds it would go on by it


def take_hook(module: nn.Module) -> _Frozen | None:
    """Take the hook of a frozen module away; return it."""
    hooks: Any = module._forward_pre_hooks
    hook: _Frozen | None = hooks.pop(_KEY, None)
    return hook


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


@dataclass(frozen=True)
class _Run:
    """What happens in a network until one of its parts is first called, and from then on.

    Attributes:
        inputs: Tensors which the part gets then.
        done: Paths of the parts that have run by then, in their order.
        early: Modules that have been called by then, those under way among them.
        late: Modules that are called from then on.
    """

    inputs: list[Tensor]
    done: list[str]
    early: set[nn.Module]
    late: set[nn.Module]


class _ReachedError(Exception):
    """Ends a run where it has come far enough."""


def _run(subject: nn.Module, path: str, x: Tensor, *, to_end: bool = True) -> _Run:
    """Run a network, to the end or until one of its parts is called.

    Raises:
        ValueError: If it is not called.
    """
    run = _Run([], [], set(), set())
    named = list(subject.named_modules(remove_duplicate=False))
    elsewhere = {part for name, part in named if not is_within(name, path)}
    begins = {part for name, part in named if name == path or (is_within(name, path) and part not in elsewhere)}

    def enter(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if module in begins and not run.late:
            run.inputs.extend(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
            run.late.add(module)
            if not to_end:
                raise _ReachedError
        (run.late if run.late else run.early).add(module)

    def leave(name: str) -> None:
        if not run.late and name not in run.done:
            run.done.append(name)

    handles = [part.register_forward_pre_hook(enter, with_kwargs=True, prepend=True) for part in subject.modules()]
    handles += [part.register_forward_hook(lambda *_, name=name: leave(name)) for name, part in subject.named_modules()]
    try:
        subject(x)
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if not run.late:
        raise ValueError(f"path must be that of a part which is called in evaluation, but {path!r} is not.")
    return run


def _held_faults(subject: nn.Module, run: _Run, frozen: Sequence[str]) -> list[str]:
    """Say which layers lie in what is to be frozen, but are called only later."""
    inside = {module for name in frozen for module in subject.get_submodule(name).modules()}
    later = (inside & run.late) - run.early
    names = [name for name, part in subject.named_modules() if part in later and (part._parameters or part._buffers)]
    return [f"{', '.join(names)} lies in it and is called only later"] * bool(names)


def _unfrozen(subject: nn.Module, path: str, x: Tensor, frozen: Sequence[str]) -> list[str]:
    """Freeze parts of a copy, and say what can still move of that which another part gets."""
    for name in frozen:
        freeze(subject.get_submodule(name))
    names = {id(parameter): name for name, parameter in subject.named_parameters()}
    with torch.enable_grad():
        used = {id(leaf) for tensor in _run(subject, path, x).inputs for leaf in graph_leaves(tensor)}
    weights = [name for key, name in names.items() if key in used]
    faults = [f"it depends on {', '.join(weights)}, used by no part that holds them: requires_grad_(False) first"]
    return faults * bool(weights) + _moving_statistics(subject, path, x)


def _moving_statistics(subject: nn.Module, path: str, x: Tensor) -> list[str]:
    """Say which statistics move in training although the module that holds them is not called, so that no hook runs."""
    before = {name: buffer.clone() for name, buffer in subject.named_buffers()}
    try:
        with torch.no_grad():
            run = _run(subject.train(), path, x, to_end=False)
    except Exception:  # noqa: BLE001 - in training a user's network may want more than inputs: then nothing is known
        return []
    moved = [
        name
        for name, buffer in subject.named_buffers()
        if subject.get_submodule(name.rpartition(".")[0]) not in run.early
        and name in before
        and not _is_same(buffer, before[name])
    ]
    return [f"{', '.join(moved)} move(s) without a call of the part that holds them"] * bool(moved)


def _is_same(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and bool(((tensor == other) | (tensor.isnan() & other.isnan())).all())
