"""Transfer: a network for another task, from the features of a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import nn

from art_oat.checks import refuse
from art_oat.model import OATModel
from art_oat.numbers import count_faults, is_name_in, plain, seed_faults
from art_oat.surgery.fold import fold
from art_oat.transfer.freezing import freeze, set_trainable, unfreeze
from art_oat.transfer.head import Network, head_path, with_new_head
from art_oat.transfer.trial import plain_root

Protocol = Literal["fixed-feature", "full-network"]

_LEAST_CLASSES = 2


def replace_head(
    network: Network,
    nb_classes: int,
    *,
    head: str | None = None,
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> Network:
    """Return a copy of a network with a fresh head for another number of classes, and all else as it is.

    The new head is of the class of the old one, trainable, and starts as torch starts such layers. A conditional
    network stays conditional; with a head per width, the smaller ones start as slices. Other heads, such as auxiliary
    ones that answer in training alone, are left as they are.

    Args:
        network: Plain or conditional; it is left untouched.
        nb_classes: ``K`` of the new task, at least 2.
        head: Dotted path of the head, as in the plain network; None to find it, see :func:`find_head`.
        input_shape: Shape of one sample on which that is tried out; None to try common image sizes.
        seed: In ``[0, 2**32)``; what the new weights are drawn from, on any device alike, and no global generator.

    Raises:
        TypeError: If ``network`` is of another kind.
        ValueError: If ``nb_classes`` is not as above, there is no part ``head``, or it does not set the number of
            scores.

    Example:
        >>> from art_oat.models import SmallCNN
        >>> replace_head(SmallCNN(), nb_classes=5).head
        Linear(in_features=128, out_features=5, bias=True)
    """
    nb_classes, seed = _checked(nb_classes, seed)
    return with_new_head(network, head_path(network, head, input_shape), nb_classes, seed)


def adapt(
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

    With ``lam`` or ``width`` the result is an ordinary network, :func:`fold` at that point, which has no dials. Without
    both, a conditional network stays conditional.

    Args:
        source: An ``OATModel`` or any plain network; it is left untouched.
        nb_classes: ``K`` of the new task, at least 2.
        protocol: ``"full-network"``: everything is trained. ``"fixed-feature"``: the head alone is; the rest stays in
            evaluation mode. Both are of arXiv:2007.08489.
        lam: Whose features; in ``[0, 1]``, for a conditional source.
        width: Likewise; one of the trained widths.
        head: As :func:`replace_head` takes it, like ``input_shape`` and ``seed``.
        input_shape: See there.
        seed: See there.

    Raises:
        TypeError: If ``source`` is of another kind.
        ValueError: If an argument is not as above, or the head is not found.
    """
    if not is_name_in(protocol, get_args(Protocol)):
        raise ValueError(f"protocol must be one of {get_args(Protocol)}, got {protocol!r}.")
    nb_classes, seed = _checked(nb_classes, seed)
    path = head_path(source, head, input_shape)
    network = with_new_head(_at_point(source, lam, width), path, nb_classes, seed)
    _apply(protocol, network, path)
    return network


def _at_point(source: nn.Module, lam: float | None, width: float | None) -> nn.Module:
    """Fold a conditional network where ``lam`` or ``width`` is given."""
    if lam is None and width is None:
        return source
    if not isinstance(source, OATModel):
        raise ValueError(f"lam and width must be None for a {type(source).__name__}: it has no dials.")
    return fold(source, lam=lam, width=width)


def _apply(protocol: Protocol, network: nn.Module, path: str) -> None:
    """Freeze and unfreeze parts, whatever was frozen in the source."""
    unfreeze(network)
    root = plain_root(network)
    set_trainable(root, True)
    if protocol == "fixed-feature":
        freeze(root)
        set_trainable(root.get_submodule(path), True)


def _checked(nb_classes: int, seed: int) -> tuple[int, int]:
    """Return number of classes and seed as Python's own numbers."""
    refuse(count_faults({"nb_classes": nb_classes}, least=_LEAST_CLASSES) + seed_faults(seed))
    return plain(nb_classes), plain(seed)
