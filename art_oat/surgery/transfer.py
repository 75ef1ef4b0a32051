"""Owns transfer: a new head on trained features, and parts of a network that stay as they are in training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from art_oat.layers import Slimmable, Switch
from art_oat.layers.slimmable import Channels, chooses_width, clone_slice, full_size, sliced, slimmable
from art_oat.model import OATModel
from art_oat.pinned import Replica
from art_oat.randomness import borrowed_generators
from art_oat.replica import clone_tensor, replicate, without_hooks
from art_oat.surgery.fold import fold
from art_oat.surgery.observation import cuttable_layers, leaves, probe, real_tensors, structure
from art_oat.surgery.selection import holders, is_within, with_near_names

Protocol = Literal["fixed-feature", "full-network"]

_LEAST_CLASSES = 2
_Network = TypeVar("_Network", bound=nn.Module)


def find_head(network: nn.Module, *, input_shape: Sequence[int] | None = None) -> str:
    """Return the dotted path of the layer that sets how many scores a network gives.

    It is found by running a copy: of the linear layers and convolutions that the scores come from directly, the one
    that can have one more output, and then there is one more score.

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
    subject, x = _subject(network, input_shape)
    faults = {path: _head_fault(subject, path, x) for path in _candidates(subject, x)}
    found = [path for path, fault in faults.items() if not fault]
    if len(found) == 1:
        return found[0]
    tried = [f"{path} ({_kind(subject, path)}): {fault}." for path, fault in faults.items() if fault]
    raise ValueError(
        "network must have one head, a linear layer or convolution that sets how many scores it gives, "
        f"found {' and '.join(found) or 'none'}. {' '.join(tried)}{' ' * bool(tried)}"
        + ("Name one: head=..." if found else "Exchange the layer that the scores come from yourself.")
    )


def replace_head(
    network: _Network,
    nb_classes: int,
    *,
    head: str | None = None,
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> _Network:
    """Return a copy of a network with a fresh head for another number of classes, and all else as it is.

    The new head is of the class of the old one, trainable, and starts as torch starts such layers: that is all that is
    drawn at random. A conditional network stays conditional; with a head per width, the smaller ones start as slices.

    Args:
        network: Plain or conditional; it is left untouched.
        nb_classes: ``K`` of the new task, at least 2.
        head: Dotted path of the head, as in the plain network; None to find it, see :func:`find_head`.
        input_shape: Shape of one sample on which that is tried out; None to try common image sizes.
        seed: What the new weights are drawn from, on any device alike; the global generator is left alone.

    Raises:
        TypeError: If ``network`` is of another kind.
        ValueError: If ``nb_classes`` is not as above, there is no part ``head``, or it does not set the number of
            scores.

    Example:
        >>> from art_oat.models import SmallCNN
        >>> replace_head(SmallCNN(), nb_classes=5).head
        Linear(in_features=128, out_features=5, bias=True)
    """
    _check_classes(nb_classes)
    return _with_new_head(network, head_path(network, head, input_shape), int(nb_classes), seed)


def _with_new_head(network: _Network, path: str, nb_classes: int, seed: int) -> _Network:
    root = _plain_root(network)
    old = root.get_submodule(path)
    if tied := _ties([old], root):
        raise ValueError(f"the head must have weights of its own, but {' and '.join(tied)}. Untie them.")
    with borrowed_generators(seed=seed):
        fresh = _resized(old, nb_classes)
    result = replicate(network, lambda part: fresh if part is old else None, clone_tensor)
    for module in fresh.modules():
        _take_hook(module)
    return cast("_Network", result)


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
    root = _plain_root(network)
    subject, x = _subject(network, input_shape)
    known = {name for name, _ in subject.named_modules(remove_duplicate=False)} - {""}
    if path not in known:
        near = with_near_names(path, known)
        raise ValueError(f"path must be the dotted path of a part of the {type(root).__name__}, got {near}.")
    done = _run_before(subject, path, x)
    frozen = tuple(name for name in done if not any(holder in done for holder in holders(name)))
    parts = [root.get_submodule(name) for name in frozen]
    for name, parameter in _plain(network).named_parameters():
        subject.get_parameter(name).requires_grad_(parameter.requires_grad)
    faults = _unfrozen(subject, path, x, frozen) or _ties(parts, root) or _shared(parts, root.get_submodule(path))
    if faults:
        raise ValueError(f"what comes before {path!r} must be frozen part by part, but {' and '.join(faults)}.")
    for part in parts:
        _freeze(part)
    return frozen


def unfreeze(network: nn.Module) -> None:
    """Let everything be trained again that :func:`freeze_below` or :func:`transfer` froze; modes stay as they are."""
    for module in network.modules():
        if (hook := _take_hook(module)) is not None:
            for name, parameter in module.named_parameters():
                if name not in hook.fixed:
                    parameter.requires_grad_()


def transfer(
    source: nn.Module,
    nb_classes: int,
    *,
    protocol: Protocol = "full-network",
    lam: float | None = None,
    width: float | None = None,
    head: str | None = None,
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Return a network for another task that starts from the features of a trained one (Salman et al. 2020).

    One conditional network offers the features of every robustness: with ``lam``, or ``width``, the result is an
    ordinary network, :func:`fold` at that point, and gives the dial up. Without, it stays conditional, to be trained at
    every lam by :class:`~art_oat.OATTrainer`. arXiv:2007.08489 has both protocols:

    - ``"fixed-feature"``: only the head is trained; the whole network stays in evaluation mode, so that all features
      are fixed. :class:`~art_oat.LinearProbe` trains a linear head so, in one pass over the data.
    - ``"full-network"``: everything is trained, whether it was frozen in the source or not.

    Args:
        source: An ``OATModel`` or any plain network, such as :func:`fold` gives; it is left untouched.
        nb_classes: ``K`` of the new task, at least 2.
        protocol: See above.
        lam: Whose features; in ``[0, 1]``, for a conditional source.
        width: Likewise; one of the trained widths.
        head: As :func:`replace_head` takes it, like what follows.
        input_shape: See there.
        seed: See there.

    Raises:
        TypeError: If ``source`` is of another kind.
        ValueError: If an argument is not as above, or the head is not found.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {get_args(Protocol)}, got {protocol!r}.")
    _check_classes(nb_classes)
    path = head_path(source, head, input_shape)
    if lam is not None or width is not None:
        if not isinstance(source, OATModel):
            raise ValueError(f"lam and width must be None for a {type(source).__name__}: it has no dials.")
        source = fold(source, source.point(lam, width))
    network = _with_new_head(source, path, int(nb_classes), seed)
    unfreeze(network)
    root = _plain_root(network)
    _set_trainable(root, True)
    if protocol == "fixed-feature":
        _freeze(root)
        _set_trainable(root.get_submodule(path), True)
    return network


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


def _freeze(part: nn.Module) -> None:
    """Freeze a part and all within, each by a hook of its own: some are called from elsewhere, too."""
    for module in part.modules():
        if not any(isinstance(hook, _Frozen) for hook in module._forward_pre_hooks.values()):
            fixed = frozenset(name for name, it in module.named_parameters() if not it.requires_grad)
            module.register_forward_pre_hook(_Frozen(fixed), prepend=True)  # before what computes weights in training
    _set_trainable(part.eval(), False)
    for parameter in part.parameters():
        parameter.grad = None  # an optimizer that holds it would go on by it


def _take_hook(module: nn.Module) -> _Frozen | None:
    """Take the hook of a frozen module away; return it."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, _Frozen):
            del module._forward_pre_hooks[key]
            return hook
    return None


def _set_trainable(part: nn.Module, is_trainable: bool) -> None:
    for parameter in part.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(is_trainable)


def _ties(parts: Sequence[nn.Module], root: nn.Module) -> list[str]:
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


def _check_classes(nb_classes: int) -> None:
    if isinstance(nb_classes, bool) or not isinstance(nb_classes, Integral) or nb_classes < _LEAST_CLASSES:
        raise ValueError(f"nb_classes must be a whole number, at least {_LEAST_CLASSES}, got {nb_classes!r}.")


def _plain_root(network: nn.Module) -> nn.Module:
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
        if isinstance(part, Replica):
            kind = type(part).__name__
            raise TypeError(f"network must have weights of its own, got a {kind}: use fold(model, point).")
        if isinstance(part, OATModel):
            raise TypeError(f"network must not hold an OATModel, got one in a {type(network).__name__}: transfer that.")
    if type(network).__name__ == "OptimizedModule":
        raise TypeError("network must not be compiled: compile it after this. What was compiled is its _orig_mod.")
    return network


def _plain(network: nn.Module) -> nn.Module:
    """Return a plain network of the same parts, at any lam."""
    return fold(network, network.point(width=1.0)) if isinstance(network, OATModel) else network


def _subject(network: nn.Module, input_shape: Sequence[int] | None) -> tuple[nn.Module, Tensor]:
    """Return a plain copy to try things on, with inputs; see :func:`probe`."""
    _plain_root(network)
    if isinstance(network, OATModel):
        input_shape = network.conversion.get("input_shape") if input_shape is None else input_shape
    with borrowed_generators(seed=0), torch.inference_mode(mode=False):
        return probe(_plain(network), input_shape)


def _candidates(subject: nn.Module, x: Tensor) -> list[str]:
    """Return the paths of the layers that the scores come from directly, in the order of the network."""
    layers = cuttable_layers(subject)
    heads = structure(subject, layers, x).heads
    return [path for path in layers if path in heads]


def head_path(network: nn.Module, head: str | None, input_shape: Sequence[int] | None) -> str:
    """Find the head, or check that the part named is one."""
    if head is None:
        return find_head(network, input_shape=input_shape)
    subject, x = _subject(network, input_shape)
    known = {name for name, _ in subject.named_modules(remove_duplicate=False)}
    if head not in known:
        raise ValueError(f"head must be the dotted path of a part, got {with_near_names(head, known - {''})}.")
    if fault := _head_fault(subject, head, x):
        kind = _kind(subject, head)
        raise ValueError(f"head must set how many scores the network gives, got {head} ({kind}): {fault}.")
    return head


def _kind(network: nn.Module, path: str) -> str:
    return type(network.get_submodule(path)).__name__


def _head_fault(subject: nn.Module, path: str, x: Tensor) -> str:
    """Say why a layer is no head: it must be able to have one more output, and then there is one more score."""
    layer = subject.get_submodule(path)
    if not chooses_width(layer):
        return "it is no linear layer, and no convolution of one group"
    if is_parametrized(layer) or "weight" not in layer._parameters:
        return "its weights are computed from others"
    size = full_size(layer)
    assert size is not None
    with torch.no_grad(), borrowed_generators(seed=0):
        before = real_tensors(subject(x))
        larger = _resized(layer, size.outputs + 1)
        try:
            after = real_tensors(replicate(subject, lambda part: larger if part is layer else None, _same)(x))
        except Exception as error:  # noqa: BLE001 - whatever a user's network may raise
            return f"with one more output the network fails: {error}"
    gains = [_nb_scores(new) - _nb_scores(old) for old, new in zip(before, after, strict=False)]
    return "" if 1 in gains else "with one more output the network does not give one more score"


def _nb_scores(answer: Tensor) -> int:
    return answer.shape[1] if answer.dim() > 1 else 0


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _resized(layer: nn.Module, nb_outputs: int) -> nn.Module:
    """Return a fresh layer like one of the network's, with another number of outputs, at each of its widths."""
    if isinstance(layer, Switch):
        whole = _resized(layer.at(1.0), nb_outputs)
        by_width: dict[float, nn.Module] = {1.0: whole}
        for width in layer.widths[:-1]:
            size = cast("Channels", full_size(layer.at(width)))
            by_width[width] = sliced(whole, size._replace(outputs=nb_outputs), clone_slice)
        return Switch({width: by_width[width] for width in layer.widths})
    if isinstance(layer, Slimmable):
        channels = {width: size._replace(outputs=nb_outputs) for width, size in layer._slim_channels.items()}
        return slimmable(_drawn(layer.at(1.0, clone_slice), nb_outputs), channels)
    return _drawn(layer, nb_outputs)


def _drawn(layer: nn.Module, nb_outputs: int) -> nn.Module:
    fresh: Any = copy.deepcopy(without_hooks(layer))
    setattr(fresh, "out_features" if isinstance(layer, nn.Linear) else "out_channels", nb_outputs)
    for name in ("weight", "bias"):
        if (old := getattr(layer, name)) is not None:  # drawn on the CPU: a seed means one head on every device
            shape = list(old.shape)
            shape[1 if name == "weight" and isinstance(layer, _ConvTransposeNd) else 0] = nb_outputs
            setattr(fresh, name, nn.Parameter(torch.empty(shape, dtype=old.dtype)))
    fresh.reset_parameters()
    moved: nn.Module = fresh.to(layer.weight.device)
    return moved


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
        _freeze(subject.get_submodule(name))
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
