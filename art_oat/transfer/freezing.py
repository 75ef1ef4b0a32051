"""Freezing: everything before a part of a network stays as it is while the rest is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from art_oat.contexts import borrowed_generators
from art_oat.surgery.selection import holders, is_within
from art_oat.surgery.tracing import graph_leaves
from art_oat.transfer.trial import check_path, plain, plain_root, trial_network

_KEY = "art_oat frozen"
"""Of the hook in a frozen module; torch's own are numbers, which start anew in another process."""


def freeze_below(network: nn.Module, path: str, *, input_shape: Sequence[int] | None = None) -> tuple[str, ...]:
    """Freeze everything that has run when a part of a network is first called; :func:`unfreeze` undoes it.

    Frozen parts have no gradients. They go back to evaluation mode whenever they are called: neither weights nor
    statistics move, and dropout is off. A part that is called again later is frozen there, too. Copies, pickles, folded
    and converted networks stay frozen; but FiLM that conversion adds is trainable, files of weights do not tell, and
    ``convert_sync_batchnorm`` and ``update_bn`` must come first.

    Args:
        network: Plain or conditional; changed in place.
        path: Dotted path of the first part to be trained, as in the plain network, such as ``"layer3"``.
        input_shape: Shape of one sample on which a copy is run; None to try common image sizes.

    Returns:
        The dotted paths of what is frozen, in the order of the calls.

    Raises:
        TypeError: If ``network`` is of another kind.
        ValueError: If ``path`` is no part that is called in evaluation, or what comes before it cannot be frozen part
            by part; then nothing is changed.
    """
    root = plain_root(network)
    copy, x = trial_network(network, input_shape)
    check_path(path, copy, "path")
    with torch.inference_mode(mode=False), borrowed_generators(seed=0):
        run = _run_until(copy, path, x)
        frozen = tuple(name for name in run.done if not any(holder in run.done for holder in holders(name)))
        faults = _late_faults(copy, run, frozen)
        for name, parameter in plain(network).named_parameters():
            copy.get_parameter(name).requires_grad_(parameter.requires_grad)
        faults += _loose_faults(copy, path, x, frozen)
    parts = [root.get_submodule(name) for name in frozen]
    if faults := faults or tie_faults(parts, root):
        raise ValueError(f"what comes before {path!r} must be frozen part by part, but {' and '.join(faults)}.")
    for part in parts:
        freeze(part)
    return frozen


def unfreeze(network: nn.Module) -> None:
    """Let everything be trained again that :func:`freeze_below` or :func:`adapt` froze; modes stay as they are.

    What was not trainable before stays so; but all is trainable in norms that were folded or converted in between.

    Raises:
        TypeError: If ``network`` is no module.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module, got {type(network).__name__}.")
    for module in network.modules():
        if (hook := take_hook(module)) is not None:
            for name, parameter in module.named_parameters():
                if name not in hook.fixed:
                    parameter.requires_grad_()


@dataclass
class _Frozen:
    """The hook of a frozen module: brings it back to evaluation mode, with all that it holds.

    Attributes:
        fixed: Names of the parameters in the module that were not trainable before.
    """

    fixed: frozenset[str]

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
    part.zero_grad()  # an optimizer that holds a gradient would go on by it


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


def tie_faults(parts: Sequence[nn.Module], root: nn.Module) -> list[str]:
    """Say which weights of some parts are also those of modules outside of them."""
    inside = {module for part in parts for module in part.modules()}
    owned = {id(tensor) for part in parts for tensor in part.parameters()}
    places: dict[int, list[str]] = {}
    tied: set[int] = set()
    for path, module in root.named_modules():
        for name, tensor in module.named_parameters(prefix=path, recurse=False):
            places.setdefault(id(tensor), []).append(name)
            if id(tensor) in owned and module not in inside:
                tied.add(id(tensor))
    return [f"{' and '.join(places[key])} are tied" for key in tied]


@dataclass
class _Run:
    """What happens in a network until one of its parts is first called, and from then on.

    Attributes:
        inputs: Tensors which the part gets then.
        done: Paths of the parts that have run by then, in their order.
        early: Modules that have been called by then, those under way among them.
        late: Modules that are called from then on.
    """

    inputs: list[Tensor] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    early: set[nn.Module] = field(default_factory=set)
    late: set[nn.Module] = field(default_factory=set)


class _ReachedError(Exception):
    """Ends a run where it has come far enough."""


def _run_until(network: nn.Module, path: str, x: Tensor, *, to_end: bool = True) -> _Run:
    """Run a network, to the end or until one of its parts is called.

    Raises:
        ValueError: If it is not called.
    """
    run = _Run()
    parts = list(network.named_modules(remove_duplicate=False))
    elsewhere = {part for name, part in parts if not is_within(name, path)}
    begins = {part for name, part in parts if name == path or (is_within(name, path) and part not in elsewhere)}

    def enter(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if module in begins and not run.late:
            run.inputs.extend(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
            run.late.add(module)
            if not to_end:
                raise _ReachedError
        (run.late or run.early).add(module)

    def leave(name: str) -> None:
        if not run.late and name not in run.done:
            run.done.append(name)

    with ExitStack() as hooks, suppress(_ReachedError):
        for name, part in network.named_modules():
            hooks.enter_context(part.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
            hooks.enter_context(part.register_forward_hook(lambda *_, name=name: leave(name)))
        network(x)
    if not run.late:
        raise ValueError(f"path must be that of a part which is called in evaluation, but {path!r} is not.")
    return run


def _late_faults(network: nn.Module, run: _Run, frozen: Sequence[str]) -> list[str]:
    """Say which layers lie in what is to be frozen, but are called only later."""
    inside = {module for name in frozen for module in network.get_submodule(name).modules()}
    late = (inside & run.late) - run.early
    names = [name for name, part in network.named_modules() if part in late and (part._parameters or part._buffers)]
    return [f"{', '.join(names)} lies in it and is called only later"] if names else []


def _loose_faults(network: nn.Module, path: str, x: Tensor, frozen: Sequence[str]) -> list[str]:
    """Freeze parts of a copy, and say what can still move of that which another part gets."""
    for name in frozen:
        freeze(network.get_submodule(name))
    with torch.enable_grad():
        used = {id(leaf) for tensor in _run_until(network, path, x).inputs for leaf in graph_leaves(tensor)}
    weights = [name for name, parameter in network.named_parameters() if id(parameter) in used]
    faults = []
    if weights:
        advice = "used by no part that holds them: requires_grad_(False) first"
        faults.append(f"it depends on {', '.join(weights)}, {advice}")
    if moved := _moving_statistics(network, path, x):
        faults.append(f"{', '.join(moved)} move(s) without a call of the part that holds them")
    return faults


def _moving_statistics(network: nn.Module, path: str, x: Tensor) -> list[str]:
    """Return which statistics move in training although the module that holds them is not called: no hook runs."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        with torch.no_grad():
            run = _run_until(network.train(), path, x, to_end=False)
    except Exception:  # noqa: BLE001 - in training a user's network may want more than inputs: then nothing is known
        return []
    moved = {
        name: network.get_submodule(name.rpartition(".")[0])
        for name, buffer in network.named_buffers()
        if name in before and not torch.equal(buffer.nan_to_num(), before[name].nan_to_num())
    }
    return [name for name, holder in moved.items() if holder not in run.early]
