"""Baselines: the plain network trained for one lam by what others published, with the data and schedule of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from art_oat.checks import refuse
from art_oat.experiment.recipe import Recipe
from art_oat.numbers import is_name_in
from art_oat.training import Method
from art_oat.training.method import METHODS

_OF_THE_DIAL = ("lambdas", "statistics", "sampling", "loss")
"""What a baseline says itself: how lams share a network, and what is minimized."""
_USUAL = {"statistics": "dual", "eps_warmup": 0.0}
"""What the command line gives also where nobody said so."""
_OF_ATTACKS = ("weight_perturbation", "fallback", "clean_share", "eps_warmup")


@dataclass(frozen=True)
class Baseline:
    """A training of the plain network.

    Its attack is that of the dial, PGD-7 (Wang et al. 2020), unless another is named, so that what differs from a dial
    is the objective alone. TRADES and AWP were published with PGD-10.

    Attributes:
        lam: Its one lam: 1 for a training on attacked inputs, 0 for one on clean inputs.
        parts: Fields of the method that make it.
        fixed: Fields that are no longer it when they are changed.
    """

    lam: float
    parts: Mapping[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = _OF_THE_DIAL


BASELINES: Mapping[str, Baseline] = {
    "natural": Baseline(0.0, fixed=(*_OF_THE_DIAL, *_OF_ATTACKS)),
    "pgd-at": Baseline(1.0),
    "trades": Baseline(1.0, {"loss": "trades"}),
    "awp": Baseline(1.0, {"weight_perturbation": 0.01}),
}
"""By name.

``natural``: cross-entropy of clean inputs. ``pgd-at``: cross-entropy of attacked inputs (Madry et al. 2018,
arXiv:1706.06083). ``trades``: with beta 6 (Zhang et al. 2019, arXiv:1901.08573). ``awp``: ``pgd-at`` at perturbed
weights, gamma 0.01 (Wu et al. 2020, arXiv:2004.05884).
"""


def recipe_named(name: str, recipe: Mapping[str, Any], method: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a named method, or of a baseline.

    Args:
        name: One of :data:`~art_oat.training.METHODS` or of :data:`BASELINES`.
        recipe: Fields of the recipe that are given.
        method: Fields of its method that are given.

    Raises:
        ValueError: If there is none of that name, a baseline is to be what it is not, or a value is wrong.
    """
    if not is_name_in(name, (*METHODS, *BASELINES)):
        raise ValueError(f"recipe must be one of {(*METHODS, *BASELINES)}, got {name!r}.")
    if name not in BASELINES:
        method = {"clean_share": 0.0, **method} if "pretrained" in recipe else method
        return Recipe(**recipe, method=Method.named(name, **method))
    baseline, given = BASELINES[name], {**recipe, **method}
    what = f"{name} trains the plain network at lam {baseline.lam:g} alone, by an objective of its own"
    said = [one for one in baseline.fixed if one in given and given[one] != _USUAL.get(one)]
    refuse([f"{one} must be left out: the recipe {what}." for one in said])
    plain: dict[str, Any] = {"film": None, "statistics": "single", "lambdas": (baseline.lam,)}
    return Recipe(**{**recipe, **plain}, method=Method(**{**baseline.parts, **method}))
