"""What results of a folder depend on: with the same, they are reused."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from art_oat.data import Dataset
from art_oat.experiment.build import weights_file
from art_oat.experiment.recipe import Recipe
from art_oat.storage import digest


def training_identity(recipe: Recipe, data: Dataset) -> dict[str, Any]:
    """Everything that weights depend on."""
    settings: dict[str, Any] = {
        "recipe": recipe.as_values(),
        "data": {"train": data.train.digest(), "validation": data.validation.digest()},
        "version": version("art-oat"),
    }
    if recipe.pretrained is not None:
        settings["pretrained"] = digest(weights_file(recipe.pretrained))
    return settings


def regardless_of_divergence(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without what follows where a training diverges: what was trained so far has not."""
    recipe = settings["recipe"]
    method = {name: value for name, value in recipe["method"].items() if name != "on_nan"}
    return {**settings, "recipe": {**recipe, "method": method}}


def machine() -> str:
    """Return what latencies depend on."""
    return f"{platform.platform()}, {platform.processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
