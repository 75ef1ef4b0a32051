"""The demo: what it trains on scikit-learn's digits on textured ground, and what it measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from art_oat.experiment.measurement import Measurement
from art_oat.experiment.recipe import Recipe
from art_oat.training import Method, StratifiedSampling

FOLDER = Path("runs/demo")
RECIPE = Recipe(
    data="textured-digits",
    network="small-16-32-64",
    lambdas=(0.0, 0.02, 0.1, 0.3, 1.0),
    method=Method(attack="pgd-3", eps=0.125, sampling=StratifiedSampling({1.0: 4.0})),
    nb_epochs=12,
    learning_rate=0.2,
)
"""Chosen on validation data, see ``benchmarks/demo_recipe.py``."""

MEASUREMENT = Measurement(attacks=("pgd-20", "autoattack"), nb_robust=200, shard_size=100)

SLIM_FOLDER = Path("runs/demo-widths")
SLIM_RECIPE = replace(RECIPE, nb_epochs=2 * RECIPE.nb_epochs)
"""For several widths, of which every step trains one at random: more epochs, but not so many that it takes long."""


def recipe_and_folder(widths: tuple[float, ...]) -> tuple[Recipe, Path]:
    """Return what the demo of some widths trains, and where the files go unless another folder is named.

    Raises:
        ValueError: If widths are not as :class:`Recipe` takes them.
    """
    recipe, folder = (RECIPE, FOLDER) if len(widths) == 1 else (SLIM_RECIPE, SLIM_FOLDER)
    return replace(recipe, widths=widths), folder


def how_to_use(folder: Path, width: float) -> str:
    """Return the lines that ship what the demo trained as a file, load it, and use it at a width."""
    slim = "" if width == 1 else f" --width {width:g}"
    ship = f"  art-oat export {folder} --lam 0.3{slim} --out {folder / 'lam-0.3.onnx'}  # a file that others run\n"
    ship = f"  art-oat report {folder}  # a page for a browser: turn lam by a slider\n{ship}"
    load = f"  model = art_oat.load_model({str(folder)!r});"
    if width == 1:
        return f"{ship}{load} model.pinned(art_oat.OperatingPoint(lam=0.3))(images)"
    return (
        f"{ship}{load} point = art_oat.OperatingPoint(lam=0.3, width={width:g})\n"
        "  model.pinned(point)(images)  # answers with a part of the channels, at less cost\n"
        "  art_oat.fold(model, point)  # an ordinary smaller network, to ship"
    )
