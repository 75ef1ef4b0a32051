"""Folding: the network a user ships, at one operating point, of the original class and of its speed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from art_oat.condition import OperatingPoint
from art_oat.contexts import exact_arithmetic
from art_oat.layers import ConvertedLayer
from art_oat.layers.slimmable import at_width
from art_oat.model import OATModel
from art_oat.network_kinds import check_model
from art_oat.rebuild import clone_tensor, same_tensor


def fold(
    model: OATModel,
    point: OperatingPoint | float | None = None,
    *,
    lam: float | None = None,
    width: float | None = None,
) -> nn.Module:
    """Return an independent, ordinary network that answers as the model does at one point, in evaluation mode.

    Every norm is an ordinary one of its own class whose weight and bias hold FiLM, too. The network is of the original
    class, and at width 1 its ``state_dict`` loads into a fresh network of that class (but a norm without affine weights
    gets some where it has a FiLM, or between lam = 0 and the smallest trained lam above it). It no longer follows the
    model.

    Args:
        model: The conditional network; it is left untouched.
        point: The operating point, or its lam alone, at the default width; or see ``lam`` and ``width``.
        lam: In place of a point, its lam; None for the default's.
        width: In place of a point, its width; None for the default's.

    Raises:
        TypeError: If ``model`` is not an ``OATModel``, or ``lam`` or ``width`` not one number.
        ValueError: If the point is not one of the model's, or given both ways.

    Example:
        >>> from art_oat import to_conditional
        >>> model = to_conditional(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
        >>> [type(layer).__name__ for layer in fold(model, lam=0.3)]
        ['Conv2d', 'BatchNorm2d']
    """
    check_model(model)
    lam, width = model.resolve(point, lam=lam, width=width)

    def folded(module: nn.Module) -> nn.Module | None:
        return module.fold(condition) if isinstance(module, ConvertedLayer) else None

    table = model.encoding.table
    with exact_arithmetic(table.device):
        condition = model.condition(table.new_full((1,), lam), width)
        return at_width(model.network, width, folded, tied_clones()).eval()


def tied_clones() -> Callable[..., Tensor]:
    """Return what clones tensors, or parts of them: of one weight one clone, so that what is tied stays tied."""
    clones: dict[tuple[int, torch.Size], Tensor] = {}

    def clone(tensor: Tensor, part: tuple[slice, ...] = ()) -> Tensor:
        key = id(tensor), same_tensor(tensor, part).shape
        if key not in clones:
            clones[key] = clone_tensor(tensor, part)
        return clones[key]

    return clone
