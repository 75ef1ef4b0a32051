"""How many lams are trained at equal cost, how they are coded, and how many epochs come without attack.

The published method has six lams and random orthogonal codes (arXiv:2010.11828). With a linear FiLM all orthonormal
codes train alike, so that only those of other forms are compared.
"""

from collections.abc import Sequence

from art_oat.layers import DEFAULT_LAMBDAS
from art_oat.layers.encoding import EncodingKind
from benchmarks.neighbors.neighbor import Neighbor

_PGD_PASSES = 8
"""Passes of a sample that is attacked by PGD-7 and learned from, beside the clean one."""


def cost(lambdas: Sequence[float]) -> float:
    """Return the passes, forward and backward, that a sample takes in an epoch on average."""
    return 1 + _PGD_PASSES * (1 - 1 / len(lambdas))


def equal_share(lambdas: Sequence[float], clean_share: float = 0.0) -> float:
    """Return how many times the epochs of six lams without clean ones cost the same."""
    return cost(DEFAULT_LAMBDAS) / (clean_share + (1 - clean_share) * cost(lambdas))


def _lams(*lambdas: float) -> Neighbor:
    what = f"{len(lambdas)} lams: {', '.join(f'{lam:g}' for lam in lambdas)}"
    return Neighbor(what, "arXiv:2010.11828", {"lambdas": lambdas}, epochs=equal_share(lambdas))


def _codes(kind: EncodingKind, film: str) -> Neighbor:
    return Neighbor(f"codes {kind}, FiLM {film}", "arXiv:2010.11828", {"film": film}, {"encoding": kind})


def _clean_first(share: float) -> Neighbor:
    what = f"the first {100 * share:g}% of the epochs without attack, at equal cost"
    epochs = equal_share(DEFAULT_LAMBDAS, share)
    return Neighbor(what, "arXiv:2002.04237", {"clean_share": share}, epochs=epochs)


NEIGHBORS = {
    "2 lams": _lams(0.0, 1.0),
    "3 lams": _lams(0.0, 0.3, 1.0),
    "11 lams": _lams(*(k / 10 for k in range(11))),
    "scalar codes": _codes("scalar", "two-layer"),
    "DCT codes": _codes("dct", "two-layer"),
    "random codes": _codes("random-orthogonal", "two-layer"),
    "one-hot codes, two layers": _codes("one-hot", "two-layer"),
    "scalar codes, linear": _codes("scalar", "linear"),
    "clean first, 25%": _clean_first(0.25),
    "clean first, 50%": _clean_first(0.5),
}
