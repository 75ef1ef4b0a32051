"""How lams and widths are drawn for a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from art_oat.numbers import flag_faults, is_finite_number, is_name_in, plain

WidthSampling = Literal["all", "sandwich", "random"]
_NB_IN_SANDWICH = 3


@dataclass(frozen=True)
class StratifiedSampling:
    """Gives every lam exactly its share of every batch, up to the rounding of whole samples.

    Of a batch of ``B`` with ``k`` lams, lam = 0 gets ``ceil(B / k)`` (as published, arXiv:2010.11828); where 0 is not
    among them, none. The rest is divided among the other lams in proportion to their weights by systematic sampling:
    each gets its share rounded down or up, at random such that the expected count is the exact share.

    Args:
        weights: Relative weight of each lam above 0; a lam that is not named has 1. Empty is the published uniform
            draw. More weight on lam = 1 buys robustness there.

    Raises:
        TypeError: If ``weights`` is no mapping.
        ValueError: If a weight is not a number above 0, or is for a lam outside ``(0, 1]``.
    """

    weights: Mapping[float, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Mapping):
            raise TypeError(f"weights must map lams to numbers, got {type(self.weights).__name__}.")
        object.__setattr__(self, "weights", {plain(lam): plain(weight) for lam, weight in self.weights.items()})
        faulty = {
            lam: weight
            for lam, weight in self.weights.items()
            if not (is_finite_number(lam) and 0 < lam <= 1 and is_finite_number(weight) and weight > 0)
        }
        if faulty:
            raise ValueError(
                f"weights must map lams in (0, 1] to numbers above 0, got {faulty}. The share of lam = 0 is fixed."
            )

    def check(self, lambdas: Sequence[float]) -> None:
        """Refuse weights for lams that are not trained; that of 1 counts where 1 is trained.

        Raises:
            ValueError: If a weight is for none of ``lambdas``.
        """
        unknown = sorted(set(self.weights) - {*lambdas, 1.0})
        if unknown:
            raise ValueError(f"weights must be for lams that are trained, {tuple(lambdas)}, got some for {unknown}.")

    def draw(self, lambdas: Sequence[float], batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Return one lam per sample, float64 ``[batch_size]``, ascending: the clean side of a norm is contiguous."""
        nb_zeros = math.ceil(batch_size / len(lambdas)) if 0 in lambdas else 0
        attacked = sorted(lam for lam in lambdas if lam > 0)
        if not attacked:
            return torch.zeros(batch_size, dtype=torch.float64)
        shares = torch.tensor([self.weights.get(lam, 1.0) for lam in attacked], dtype=torch.float64)
        edges = torch.cumsum(shares / shares.sum(), dim=0)
        nb_attacked = batch_size - nb_zeros
        start = torch.rand((), dtype=torch.float64, generator=generator)
        positions = (torch.arange(nb_attacked, dtype=torch.float64) + start) / max(nb_attacked, 1)
        index = torch.searchsorted(edges, positions, right=True).clamp_max(len(attacked) - 1)
        return torch.cat([positions.new_zeros(nb_zeros), positions.new_tensor(attacked)[index]])


def width_sampling_faults(kind: str, *, distills: bool) -> list[str]:
    """Say what is wrong with how widths are to be drawn, and taught."""
    if faults := flag_faults({"distills": distills}):
        return faults
    if not is_name_in(kind, get_args(WidthSampling)):
        return [f"width_sampling must be one of {get_args(WidthSampling)}, got {kind!r}."]
    if distills and kind == "random":
        return ["distills needs the largest width in every step: width_sampling must be 'all' or 'sandwich'."]
    return []


def draw_widths(
    kind: WidthSampling, widths: Sequence[float], generator: torch.Generator | None = None
) -> tuple[float, ...]:
    """Return the widths of one step, the largest first; ``width_sampling`` of a method says which kinds there are.

    Args:
        kind: How they are drawn.
        widths: Those that are trained, ascending.
        generator: What is drawn from; None for torch's global one.
    """
    if kind == "all" or len(widths) == 1 or (kind == "sandwich" and len(widths) <= _NB_IN_SANDWICH):
        return tuple(reversed(widths))
    among = widths if kind == "random" else widths[1:-1]
    drawn = among[int(torch.randint(len(among), (), generator=generator))]
    return (drawn,) if kind == "random" else (widths[-1], drawn, widths[0])
