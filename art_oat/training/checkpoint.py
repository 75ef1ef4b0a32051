"""Owns models on disk: weights as safetensors, and a JSON that rebuilds the network around them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from art_oat import models
from art_oat.files import replaced, write_whole
from art_oat.model import OATModel
from art_oat.surgery import to_conditional

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
_FORMAT = 1
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Architecture:
    """How to build a plain network of :mod:`art_oat.models`.

    Args:
        name: Name of a class there, such as ``"SmallCNN"``.
        arguments: What it is called with; must survive JSON.

    Raises:
        ValueError: If there is no such class.
    """

    name: str
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.name not in models.__all__:
            raise ValueError(f"architecture must be one of {models.__all__}, got {self.name!r}.")

    def build(self) -> nn.Module:
        """Return a fresh network."""
        network: nn.Module = getattr(models, self.name)(**self.arguments)
        return network


def save_model(model: OATModel, folder: str | Path, architecture: Architecture | None = None) -> None:
    """Write weights, statistics and codes, and how the network was converted; each file whole or not at all.

    Args:
        model: Any conditional network.
        folder: Gets ``model.safetensors`` and ``model.json``; made where it is missing.
        architecture: Lets :func:`load_model` rebuild the plain network; None where the caller of it supplies one.
    """
    folder = Path(folder)
    with replaced(folder / WEIGHTS) as partial:
        safetensors.torch.save_model(model, str(partial))
    description = {
        "format": _FORMAT,
        "class": type(model.network).__name__,
        "architecture": None if architecture is None else asdict(architecture),
        "conversion": model.conversion,
        "default_point": asdict(model.default_point),
        "dtype": str(model.encoding.table.dtype).removeprefix("torch."),
    }
    with write_whole(folder / DESCRIPTION) as file:
        json.dump(description, file, indent=2)
        file.write("\n")


def load_model(folder: str | Path, network: nn.Module | None = None) -> OATModel:
    """Return the model that :func:`save_model` wrote, on the CPU, in evaluation mode.

    Args:
        folder: Holds ``model.safetensors`` and ``model.json``.
        network: A plain network of the saved class; None where the architecture was saved, too. Nothing that the
            files name is imported or run.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a network is needed, or the weights do not fit it.
    """
    folder = Path(folder)
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if description.get("format") != _FORMAT:
        raise ValueError(f"{folder / DESCRIPTION} must have format {_FORMAT}, got {description.get('format')}.")
    if network is None:
        if description["architecture"] is None:
            raise ValueError(f"network must be a {description['class']}: its architecture was not saved in {folder}.")
        network = Architecture(**description["architecture"]).build()
    model = to_conditional(network, **description["conversion"]).to(_DTYPES[description["dtype"]])
    try:
        safetensors.torch.load_model(model, str(folder / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"the weights in {folder} must fit {type(network).__name__}, but: {error}") from error
    model.default_point = model.point(**description["default_point"])
    return model.eval()
