"""The commands that make a run again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from art_oat.experiment.baselines import BASELINES, recipe_named
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.options import arguments
from art_oat.experiment.recipe import Recipe
from art_oat.models.registry import network_kind
from art_oat.training.method import METHODS


def commands(folder: Path, recipe: Recipe, measurement: Measurement | None) -> list[str]:
    """Return the commands that train, measure and show a run, as a shell takes them.

    Paths are written as ``run.json`` has them, and say nothing of the user. What a recipe has that no option says, such
    as another form of FiLM, stands in ``run.json`` alone.
    """
    run = folder.name if folder.is_absolute() else str(folder)  # where it lies on this machine is of no use elsewhere
    trust = [] if network_kind(recipe.network).is_trusted else ["--trust-network"]
    found = [["train", "--data", recipe.data, *recipe_words(recipe), "--out", run]]
    if measurement is not None:
        found.append(["evaluate", run, *arguments(measurement, Measurement()), *trust])
    found.append(["report", run, *trust])
    shown = recipe.as_values()
    paths = {getattr(recipe, name): shown[name] for name in ("data", "data_folder", "pretrained")}
    return [shlex.join(["art-oat", *(paths.get(word, word) for word in words)]) for words in found]


def recipe_words(recipe: Recipe) -> list[str]:
    """Return the options that make a recipe, from the named method that is nearest to it; all but ``--data``."""
    candidates = []
    for name in (*METHODS, *BASELINES):
        usual = recipe_named(name, {"data": recipe.data}, {})
        words = [*([] if name == "dial" else ["--recipe", name]), *arguments(recipe, usual)]
        is_unsaid = recipe.method.sampling != usual.method.sampling and "--weight-of-one" not in words
        is_unsaid |= recipe.film != usual.film or _is_another_baseline(name, recipe, usual)
        candidates.append((is_unsaid, len(words), words))
    return min(candidates, key=lambda candidate: candidate[:2])[2]


def _is_another_baseline(name: str, recipe: Recipe, usual: Recipe) -> bool:
    """Whether a recipe differs from that of a baseline in what makes the baseline."""
    fixed = BASELINES[name].fixed if name in BASELINES else ()
    return any(
        getattr(recipe if hasattr(recipe, it) else recipe.method, it)
        != getattr(usual if hasattr(usual, it) else usual.method, it)
        for it in fixed
    )


def measurement_of(settings: dict[str, Any]) -> Measurement | None:
    """Return the measurement that ``run.json`` tells of; None where it tells of none, or of one of another version."""
    try:
        return Measurement.from_values(settings) if settings else None
    except (TypeError, ValueError):
        return None
