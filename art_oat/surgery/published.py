"""The conditional layout of the published networks."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from art_oat.layers import DEFAULT_LAMBDAS
from art_oat.model import OATModel
from art_oat.models import ResNet, WideResNet
from art_oat.surgery.convert import to_conditional

_WITHOUT_FILM: dict[type[nn.Module], str] = {ResNet: "shortcut", WideResNet: "norm"}


def to_published(
    network: ResNet | WideResNet,
    lambdas: Iterable[float] = DEFAULT_LAMBDAS,
    *,
    widths: Iterable[float] = (1.0,),
    seed: int = 0,
) -> OATModel:
    """Make a network conditional as the published code of arXiv:2010.11828 does, to compare with it.

    Codes are random orthogonal, 128 long. FiLM has the published form and start, so the network does not start from its
    own answers. The shortcut norms of a ResNet and the last norm of a WideResNet are dual, but get no FiLM.

    Args:
        network: Left untouched.
        lambdas: The lams to train, distinct, in ``[0, 1]``.
        widths: ``(0.5, 0.75, 1.0)`` are those of the published OATS; 1 alone is OAT.
        seed: What codes and FiLM are drawn from.

    Raises:
        TypeError: If ``network`` is neither a ``ResNet`` nor a ``WideResNet`` of :mod:`art_oat.models`.
        ValueError: If ``lambdas`` or ``widths`` is not as above.
    """
    without_film = next((part for kind, part in _WITHOUT_FILM.items() if isinstance(network, kind)), None)
    if without_film is None:
        raise TypeError(
            f"network must be a ResNet or a WideResNet of art_oat.models, got {type(network).__name__}. "
            "For others: to_conditional(network, encoding='random-orthogonal', film='published', film_on=...)."
        )
    return to_conditional(
        network,
        lambdas,
        encoding="random-orthogonal",
        film="published",
        film_on=lambda path, _: without_film not in path.split("."),
        widths=widths,
        seed=seed,
    )
