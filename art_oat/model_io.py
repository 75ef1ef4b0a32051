"""Models on disk: weights as safetensors, and a JSON that rebuilds the network around them."""

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
from art_oat.model import OATModel
from art_oat.network_kinds import check_model
from art_oat.storage import replaced, write_json
from art_oat.surgery import to_conditional
from art_oat.surgery.convert import check_network

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
_FORMAT = 1
_MAX_REASON = 300
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Architecture:
    """How to build a plain network of :mod:`art_oat.models`.

    Args:
        name: Name of a class or function there, such as ``"SmallCNN"`` or ``"resnet18"``.
        arguments: What it is called with; must survive JSON.

    Raises:
        ValueError: If there is none of that name.
    """

    name: str
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.name not in models.__all__:
            raise ValueError(f"architecture must be one of {models.__all__}, got {self.name!r}.")

    def kind(self) -> str:
        """Return the name of the class that is built."""
        with torch.device("meta"):
            return type(self.build()).__name__

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

    Raises:
        TypeError: If ``model`` is not an ``OATModel``.
    """
    check_model(model)
    folder = Path(folder)
    with replaced(folder / WEIGHTS) as partial:
        safetensors.torch.save_model(model, str(partial))
    description = {
        "format": _FORMAT,
        "class": type(model.network).__name__,
        "architecture": None if architecture is None else asdict(architecture),
        "conversion": model.conversion,
        "default_point": asdict(model.default_point),
        "is_lam_named": model.is_lam_named,
        "dtype": str(model.encoding.table.dtype).removeprefix("torch."),
    }
    write_json(folder / DESCRIPTION, description)


def load_model(folder: str | Path, network: nn.Module | None = None) -> OATModel:
    """Return the model that :func:`save_model` wrote, on the CPU, in evaluation mode.

    Args:
        folder: Holds ``model.safetensors`` and ``model.json``.
        network: A plain network of the saved class; None where the architecture was saved, too. Nothing that the
            files name is imported or run.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a network is needed, a file is damaged or of another version, or the weights do not fit.
    """
    folder = Path(folder)
    if missing := [name for name in (DESCRIPTION, WEIGHTS) if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"folder must hold what save_model wrote, but {' and '.join(missing)} cannot be found in {folder}."
        )
    description = _description(folder / DESCRIPTION)
    saved = description["class"]
    if network is None:
        if description["architecture"] is None:
            raise ValueError(f"network must be a {saved}: its architecture was not saved in {folder}.")
        network = Architecture(**description["architecture"]).build()
    check_network(network)
    try:
        model = to_conditional(network, **description["conversion"]).to(_DTYPES[description["dtype"]])
        _load_weights(model, folder / WEIGHTS)
    except (RuntimeError, ValueError, safetensors.SafetensorError) as error:
        given, reason = type(network).__name__, " ".join(str(error).split())
        raise ValueError(
            f"network must be the {saved} that was saved in {folder}, got a {given} that the weights do not fit: "
            f"{reason[:_MAX_REASON]}"
        ) from error
    initial = model.default_point
    model.default_point = model.point(**description["default_point"])
    model.is_lam_named = description.get("is_lam_named", model.default_point.lam != initial.lam)  # older files: no word
    return model.eval()


def _load_weights(model: OATModel, path: Path) -> None:
    """Load a file; modules are told that it is of their own version, which safetensors does not keep.

    Raises:
        ValueError: If the file lacks a tensor that no other name stands for, or has one that the model lacks.
    """
    saved, state = safetensors.torch.load_file(path), model.state_dict()
    found = {state[name].data_ptr() for name in saved.keys() & state.keys()}
    missing = [name for name in state.keys() - saved.keys() if state[name].data_ptr() not in found]
    if missing or saved.keys() - state.keys():
        unexpected = sorted(saved.keys() - state.keys())
        raise ValueError(f"missing are {sorted(missing)}, unexpected {unexpected}.")
    for name in state.keys() - saved.keys():
        del state[name]
    state.update(saved)
    model.load_state_dict(state, strict=False)


def _description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        found = description.get("format")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} must be what save_model wrote, but cannot be read: {error}") from error
    if found != _FORMAT:
        raise ValueError(f"{path} must have format {_FORMAT}, got {found}.")
    return dict(description)
