"""Owns models on disk: weights as safetensors, and a JSON that rebuilds the network around them; and the best epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from art_oat import models
from art_oat.model import OATModel, check_model
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


@dataclass(frozen=True)
class Checkpoint:
    """Where the best epoch of a training is saved.

    Args:
        folder: Gets what :func:`save_model` writes; made where it is missing.
        architecture: As :func:`save_model` takes it.

    Raises:
        TypeError: If an argument is of another kind.
    """

    folder: str | Path
    architecture: Architecture | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str | Path):
            raise TypeError(f"folder must be a path, got {type(self.folder).__name__}.")
        if not isinstance(self.architecture, Architecture | None):
            raise TypeError(f"architecture must be an Architecture or None, got {type(self.architecture).__name__}.")

    def faults(self, model: OATModel) -> list[str]:
        """Say why a model cannot be saved here."""
        faults = []
        if any(path.is_file() for path in (Path(self.folder), *Path(self.folder).parents)):
            faults.append(f"checkpoint must name a folder, got {str(self.folder)!r}, where a file is in the way.")
        expected = type(model.network).__name__
        if self.architecture is not None and (built := self.architecture.kind()) != expected:
            faults.append(f"the checkpoint's architecture must be a {expected}, as is trained, got a {built}.")
        return faults


class BestEpoch:
    """Holds on to the epoch with the largest area; of equal ones to the first.

    Args:
        model: Is looked at when it is kept, so it must then hold the weights that were measured.
        checkpoint: Where it is saved, if anywhere.
        is_restored: Whether its weights and statistics are remembered, to be put back.
    """

    def __init__(self, model: OATModel, checkpoint: Checkpoint | None, *, is_restored: bool) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.is_restored = is_restored
        self.area = -math.inf
        self.epoch: int | None = None
        self._state: dict[str, torch.Tensor] = {}

    def is_beaten_by(self, area: float) -> bool:
        """Whether an area is larger than that of any epoch kept so far; NaN is not."""
        return area > self.area

    def keep(self, epoch: int, area: float) -> None:
        """Take the model as it is now."""
        self.epoch, self.area = epoch, area
        if self.is_restored:
            self._state = {name: tensor.detach().clone() for name, tensor in _tensors(self.model)}
        if self.checkpoint is not None:
            save_model(self.model, self.checkpoint.folder, self.checkpoint.architecture)

    def restore(self) -> None:
        """Put back what was remembered, if anything was."""
        with torch.no_grad():
            for name, tensor in _tensors(self.model) if self._state else ():
                tensor.copy_(self._state[name])

    def state_dict(self) -> dict[str, Any]:
        """Return which epoch is kept, and its weights where they are remembered."""
        return {"area": self.area, "epoch": self.epoch, "state": self._state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold on to what :meth:`state_dict` returned; what is saved in the folder is left alone."""
        self.area, self.epoch = state["area"], state["epoch"]
        self._state = state["state"]


def _tensors(model: OATModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


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
