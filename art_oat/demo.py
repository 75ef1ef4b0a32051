"""Owns the demo: what it trains on scikit-learn's digits, and what it measures."""

from __future__ import annotations

from art_oat.recipe import Recipe
from art_oat.run import Measurement

RECIPE = Recipe(
    data="digits",
    network="small-16-32-64",
    attack="pgd-7",
    eps=0.2,
    eps_step=0.05,
    weight_of_one=3.3,
    nb_epochs=60,
    learning_rate=0.2,
    weight_decay=3e-3,
    exempt=(),
)
"""Chosen on validation data, see ``benchmarks/demo_recipe.py``."""

MEASUREMENT = Measurement(attacks=("pgd-20", "autoattack"), nb_robust=150)
