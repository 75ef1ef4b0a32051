"""The codes of lam: the table of trained codes and what lies between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat.checks import checked_seed, refuse
from art_oat.numbers import count_faults, is_finite_number, is_name_in, plain

EncodingKind = Literal["scalar", "one-hot", "dct", "random-orthogonal"]
DEFAULT_LAMBDAS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
_PUBLISHED_DIM = 128
_CLOSEST = 1e-6


def check_lambdas(lambdas: Iterable[float]) -> tuple[float, ...]:
    """Return the trained lams in ascending order.

    Raises:
        ValueError: If there is none, one lies outside ``[0, 1]`` or is NaN, or two are less than 1e-6 apart.
    """
    values = tuple(lambdas) if isinstance(lambdas, Iterable) else ()
    faulty = [value for value in values if not (is_finite_number(value) and 0 <= plain(value) <= 1)]
    if faulty or not values:
        raise ValueError(f"lambdas must hold distinct numbers in [0, 1], at least one, got {lambdas!r}.")
    ascending = tuple(sorted(float(plain(value)) for value in values))
    if any(high - low < _CLOSEST for low, high in itertools.pairwise(ascending)):
        raise ValueError(
            f"lambdas must hold distinct numbers, at least {_CLOSEST:g} apart: float32 could not tell them from each "
            f"other, got {lambdas!r}."
        )
    return ascending


class Encoding(nn.Module):
    """Codes of lam, one row per trained lam; any other lam in between gets the interpolation of its neighbors.

    The published code (arXiv:2010.11828) knows the listed lams alone. Here the code is a piecewise linear function of
    lam through the same rows. The table is a buffer: it is saved with the weights.

    Args:
        lambdas: The trained lams, distinct, in ``[0, 1]``.
        kind: ``"scalar"``: lam itself (``D = 1``). ``"one-hot"``: unit vectors. ``"dct"``: the first rows of the
            DCT-II matrix, each of norm 1. ``"random-orthogonal"``: orthonormal rows drawn from ``seed`` (the
            published default).
        dim: Length ``D`` of a code; at least ``len(lambdas)``, except for ``"scalar"``, which ignores it. None for just
            that with ``"one-hot"``, and for the published 128 with the others.
        seed: What random rows are drawn from, in ``[0, 2**32)``.

    Raises:
        ValueError: If ``lambdas``, ``kind`` or ``dim`` is not as above.
    """

    table: Tensor

    def __init__(
        self,
        lambdas: Iterable[float] = DEFAULT_LAMBDAS,
        kind: EncodingKind = "one-hot",
        dim: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.lambdas = check_lambdas(lambdas)
        if not is_name_in(kind, get_args(EncodingKind)):
            raise ValueError(f"encoding must be one of {get_args(EncodingKind)}, got {kind!r}.")
        if dim is None:
            dim = len(self.lambdas) if kind == "one-hot" else _PUBLISHED_DIM
        if kind != "scalar":
            refuse(count_faults({"code_dim": dim}, least=len(self.lambdas)))  # one per lam
        self.kind: EncodingKind = kind
        self.dim = 1 if kind == "scalar" else plain(dim)
        self.seed = checked_seed(seed)
        self.register_buffer("table", torch.empty(len(self.lambdas), self.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Write the table anew; a random one is drawn from the same seed, so its codes stay what they were."""
        rows = _TABLES[self.kind](self)
        with torch.no_grad():
            self.table.copy_(rows[: len(self.lambdas)])

    def forward(self, lam: Tensor) -> Tensor:
        """Return the codes ``[G, D]`` of ``lam`` ``[G]``.

        Above the largest trained lam the line through the last two codes goes on. Below the smallest its code holds.
        """
        if len(self.lambdas) == 1:
            return self.table.expand(len(lam), -1)
        knots = torch.tensor(self.lambdas, dtype=self.table.dtype, device=self.table.device)
        lam = lam.to(knots)
        upper = torch.searchsorted(knots, lam).clamp(1, len(knots) - 1)
        share = (lam - knots[upper - 1]) / (knots[upper] - knots[upper - 1])
        return torch.lerp(self.table[upper - 1], self.table[upper], share.clamp_min(0).unsqueeze(1))

    def extra_repr(self) -> str:
        """Describe the table in one line."""
        return f"lambdas={self.lambdas}, kind={self.kind!r}, dim={self.dim}"


def _dct(encoding: Encoding) -> Tensor:
    """Row k is ``cos(pi k (n + 1/2) / D)`` over n, divided by its norm."""
    n = torch.arange(encoding.dim, dtype=torch.float64)
    rows: Tensor = torch.cos(math.pi * n.unsqueeze(1) * (n + 0.5) / encoding.dim)
    return F.normalize(rows, dim=1)


def _random_orthogonal(encoding: Encoding) -> Tensor:
    generator = torch.Generator().manual_seed(encoding.seed)
    gaussian = torch.randn(encoding.dim, encoding.dim, dtype=torch.float64, generator=generator)
    orthogonal: Tensor = torch.linalg.qr(gaussian).Q
    return orthogonal


_TABLES: dict[str, Callable[[Encoding], Tensor]] = {
    "scalar": lambda encoding: torch.tensor(encoding.lambdas, dtype=torch.float64).unsqueeze(1),
    "one-hot": lambda encoding: torch.eye(encoding.dim, dtype=torch.float64),
    "dct": _dct,
    "random-orthogonal": _random_orthogonal,
}
