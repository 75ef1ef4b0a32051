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
    return _with_new_head(network, _head_path(network, head, input_shape), int(nb_classes), seed)


def _with_new_head(network: _Network, path: str, nb_classes: int, seed: int) -> _Network:
    old = _plain_root(network).get_submodule(path)
    with borrowed_generators(seed=seed):
        fresh = _resized(old, nb_classes)
    return cast("_Network", replicate(network, lambda part: fresh if part is old else None, clone_tensor))


def freeze_below(network: nn.Module, path: str, *, input_shape: Sequence[int] | None = None) -> tuple[str, ...]:
    """Freeze everything that has run when a part of a network is first called.

    Frozen parts need no gradient and stay in evaluation mode, whatever mode the network is set to: neither their
    weights nor their statistics move, and their dropout is off. One that is called again later is frozen there, too.
    Copies, and what is folded or converted, stay frozen (what conversion adds, FiLM, is trainable: convert first).
    Parts that were frozen before stay so; :func:`unfreeze` undoes all of it.

    Args:
        network: Plain or conditional; changed in place.
        path: Dotted path of the first part to be trained, as in the plain network, such as ``"layer3"``.
        input_shape: Shape of one sample on which a copy is run to see what comes before; None to try common sizes.

    Returns:
        The dotted paths of what is frozen, in the order of the calls.

    Raises:
        TypeError: If ``network`` is of another kind.
        ValueError: If there is no part of that name (gives the nearest), it is not called in evaluation, or what it
            gets also depends on trainable parameters that are not used by the part that holds them; nothing is changed.

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
    done, used = _run_until(subject, path, x)
    frozen = tuple(name for name in done if not any(holder in done for holder in holders(name)))
    own = dict(root.named_parameters())
    left = [name for name in used if not any(is_within(name, part) for part in frozen)]
    if left := [name for name in left if name in own and own[name].requires_grad]:
        raise ValueError(
            f"what {path!r} gets must depend on parts alone that can be frozen as a whole, but depends on "
            f"{', '.join(left)}, too. Call requires_grad_(False) on these first."
        )
    for name in frozen:
        _freeze(root.get_submodule(name))
    return frozen


def unfreeze(network: nn.Module) -> None:
    """Let everything be trained again that :func:`freeze_below` or :func:`transfer` froze; modes stay as they are."""
    for module in network.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _Frozen):
                del module._forward_pre_hooks[key]
                for name, parameter in module.named_parameters(recurse=False):
                    parameter.requires_grad_(name not in hook.fixed)


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
      are fixed. :class:`~art_oat.LinearProbe` trains such a head in one pass over the data.
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
    path = _head_path(source, head, input_shape)
    if lam is not None or width is not None:
        if not isinstance(source, OATModel):
            raise ValueError(f"lam and width must be None for a {type(source).__name__}, which has no dials.")
        source = fold(source, source.point(lam, width))
    network = _with_new_head(source, path, int(nb_classes), seed)
    unfreeze(network)
    network.requires_grad_(requires_grad=True)
    if protocol == "fixed-feature":
        root = _plain_root(network)
        _freeze(root)
        root.get_submodule(path).requires_grad_(requires_grad=True)
    return network


class _Frozen:
    """Is called before a frozen module, and brings it back to evaluation mode.

    Args:
        fixed: Names of the module's own parameters that were not trainable before.
    """

    def __init__(self, fixed: frozenset[str]) -> None:
        self.fixed = fixed

    def __call__(self, module: nn.Module, _: Any) -> None:
        if module.training:
            module.eval()


def _freeze(part: nn.Module) -> None:
    """Freeze a part and all within, each by a hook of its own: some are called from elsewhere, too."""
    for module in part.modules():
        if any(isinstance(hook, _Frozen) for hook in module._forward_pre_hooks.values()):
            continue
        own = module.named_parameters(recurse=False)
        module.register_forward_pre_hook(_Frozen(frozenset(name for name, it in own if not it.requires_grad)))
    part.requires_grad_(requires_grad=False).eval()


def _check_classes(nb_classes: int) -> None:
    if isinstance(nb_classes, bool) or not isinstance(nb_classes, Integral) or nb_classes < _LEAST_CLASSES:
        raise ValueError(f"nb_classes must be a whole number, at least {_LEAST_CLASSES}, got {nb_classes!r}.")


def _plain_root(network: nn.Module) -> nn.Module:
    """Return what lies where the plain network lay; paths are the same.

    Raises:
        TypeError: If it is no network, or none with weights of its own.
    """
    if isinstance(network, Replica):
        kind = type(network).__name__
        raise TypeError(f"network must have weights of its own, got a {kind}: use fold(model, point).")
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise TypeError(f"network must be a torch.nn.Module, got {kind}. A classifier's is classifier.model.")
    return network.network if isinstance(network, OATModel) else network


def _subject(network: nn.Module, input_shape: Sequence[int] | None) -> tuple[nn.Module, Tensor]:
    """Return a plain copy to try things on, with inputs; see :func:`probe`."""
    _plain_root(network)
    if isinstance(network, OATModel):
        input_shape = network.conversion.get("input_shape") if input_shape is None else input_shape
        network = fold(network, network.point(width=1.0))
    with borrowed_generators(seed=0), torch.inference_mode(mode=False):
        return probe(network, input_shape)


def _candidates(subject: nn.Module, x: Tensor) -> list[str]:
    """Return the paths of the layers that the scores come from directly, in the order of the network."""
    layers = cuttable_layers(subject)
    heads = structure(subject, layers, x).heads
    return [path for path in layers if path in heads]


def _head_path(network: nn.Module, head: str | None, input_shape: Sequence[int] | None) -> str:
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


def _run_until(subject: nn.Module, path: str, x: Tensor) -> tuple[list[str], list[str]]:
    """Return which parts have run when one is first called, and which parameters what it gets depends on.

    Raises:
        ValueError: If it is not called.
    """
    done: list[str] = []
    used: set[int] = set()
    has_begun = False
    names = {id(parameter): name for name, parameter in subject.named_parameters()}

    def enter(_: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        nonlocal has_begun
        if not has_begun:
            has_begun = True
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            used.update(id(leaf) for tensor in tensors for leaf in leaves(tensor))

    def leave(name: str) -> None:
        if not has_begun:
            done.append(name)

    parts = list(subject.named_modules(remove_duplicate=False))
    begins = {part for name, part in parts if is_within(name, path)}
    handles = [part.register_forward_pre_hook(enter, with_kwargs=True) for part in begins]
    handles += [part.register_forward_hook(lambda *_, name=name: leave(name)) for name, part in parts]
    try:
        with torch.enable_grad():
            subject.requires_grad_(requires_grad=True)(x)
    finally:
        for handle in handles:
            handle.remove()
    if not has_begun:
        raise ValueError(f"path must be that of a part which is called in evaluation, but {path!r} is not.")
    return list(dict.fromkeys(done)), [name for key, name in names.items() if key in used]
