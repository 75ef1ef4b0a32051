"""Models on disk: weights as safetensors, and a JSON that rebuilds the network around them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_oat import models
from art_oat.checks import one_line, path_faults, refuse
from art_oat.contexts import borrowed_generators
from art_oat.model import OATModel
from art_oat.model_files import (
    DTYPES,
    FORMAT,
    WEIGHTS,
    described_by,
    dtype_name,
    encoded,
    form_faults,
    read_model,
    value_faults,
    write_model,
)
from art_oat.models.registry import network_kind
from art_oat.network_kinds import check_model
from art_oat.numbers import KindFault, is_name_in, shown
from art_oat.storage import digest
from art_oat.surgery import to_conditional
from art_oat.surgery.convert import check_network

_BUILDERS = tuple(name for name in models.__all__ if name not in ("ImageTask", "Logits", "register_network"))

_LARGE = 2**24
"""Numbers that a description may ask memory for, 64 MiB in float32, where the weights do not say how many."""


@dataclass(frozen=True)
class Architecture:
    """How to build a plain network of :mod:`art_oat.models`.

    Args:
        name: Name of a class or function there, such as ``"SmallCNN"`` or ``"resnet18"``.
        arguments: What it is called with; must survive JSON.

    Raises:
        TypeError: If ``arguments`` is no mapping.
        ValueError: If there is none of that name.
    """

    name: str
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        faults = []
        if not is_name_in(self.name, _BUILDERS):
            faults.append(f"architecture must be one of {_BUILDERS}, got {shown(self.name)}.")
        if not isinstance(self.arguments, Mapping):
            faults.append(KindFault(f"arguments must be a mapping of names to values, got {shown(self.arguments)}."))
        refuse(faults)

    @property
    def is_trusted(self) -> bool:
        """Whether it may be built because a file says so: whether that imports no code of the file's choice."""
        return self.name != "network_named" or network_kind(self.arguments["name"]).is_trusted

    def kind(self) -> str:
        """Return the name of the class that is built."""
        # a factory of the caller's may read numbers off tensors, which have none on the device "meta"
        device = "meta" if self.is_trusted else torch.get_default_device()
        with borrowed_generators(torch.get_default_device()), torch.device(device):
            return type(self.build()).__name__

    def build(self) -> nn.Module:
        """Return a fresh network."""
        network: nn.Module = getattr(models, self.name)(**self.arguments)
        return network


def save_model(model: OATModel, folder: str | Path, architecture: Architecture | None = None) -> None:
    """Write weights, statistics and codes, and how the network was converted; the same model gives the same bytes.

    Killed at any moment, it leaves the old model or the new one. The JSON holds the SHA-256 of the weights and its own.

    Args:
        model: Any conditional network.
        folder: Gets ``model.safetensors`` and ``config.json``; made where it is missing.
        architecture: Lets :func:`load_model` rebuild the plain network; None where the caller of it supplies one.

    Raises:
        TypeError: If ``model`` is not an ``OATModel``, ``folder`` no path, or ``architecture`` none.
        ValueError: If ``folder`` is too long, or a tensor of the model could not be loaded again: NaN, an infinite
            weight, a negative variance.
        OSError: If a file cannot be written; names it.
    """
    _check_target(model, folder, architecture)
    state = model.state_dict()
    refuse(value_faults(state, dict(model.named_parameters())))
    dtype = model.encoding.table.dtype
    others = {name: it.dtype for name, it in state.items() if it.is_floating_point() and it.dtype != dtype}
    description = {
        "format": FORMAT,
        "class": type(model.network).__name__,
        "architecture": None if architecture is None else asdict(architecture),
        "conversion": model.conversion,
        "default_point": asdict(model.default_point),
        "is_lam_named": model.is_lam_named,
        "dtype": dtype_name(dtype),
        "other_dtypes": {name: dtype_name(other) for name, other in others.items()},
    }
    write_model(Path(folder), encoded(state), description)


def _check_target(model: OATModel, folder: str | Path, architecture: Architecture | None) -> None:
    check_model(model)
    faults = path_faults({"folder": folder})
    if not isinstance(architecture, Architecture | None):
        faults.append(KindFault(f"architecture must be an Architecture, or None, got {shown(architecture)}."))
    refuse(faults)


def _as_folder(folder: str | Path) -> Path:
    refuse(path_faults({"folder": folder}))
    return Path(folder)


def weights_digest(model: OATModel) -> str:
    """Return the SHA-256 of the ``model.safetensors`` that :func:`save_model` writes."""
    return digest(encoded(model.state_dict()))


def load_model(
    folder: str | Path, network: nn.Module | None = None, *, check: bool = True, trusts_network: bool = False
) -> OATModel:
    """Return the model that :func:`save_model` wrote, on the CPU, in evaluation mode.

    Of what the files name, nothing is imported or run but networks of this library, of timm and of torchvision, unless
    ``trusts_network``. No random number is drawn.

    Args:
        folder: Holds ``model.safetensors`` and ``config.json``.
        network: A plain network of the saved class; None where the architecture was saved, too.
        check: Whether the files must be, by their SHA-256, what :func:`save_model` wrote. False for files of before
            there were digests, and for what you changed yourself. Names, shapes, dtypes and values are checked anyway.
        trusts_network: Whether a network that was saved as ``"package.module:factory"`` is imported and called.

    Raises:
        FileNotFoundError: If a file is missing.
        TypeError: If ``folder`` is no path.
        ValueError: If a network is needed, a file is damaged, was changed or is of another version, or the weights do
            not fit.
    """
    folder = _as_folder(folder)
    description, saved = read_model(folder, check=check)
    with borrowed_generators(torch.get_default_device()):
        if network is None:
            network = _built(description, saved, folder, trusts_network=trusts_network)
        check_network(network)
        try:
            refuse(_size_faults(description["conversion"], saved))
            model = to_conditional(network, **description["conversion"]).to(DTYPES[description["dtype"]])
            _load_weights(model, saved, description["other_dtypes"])
            initial, model.default_point = model.default_point, model.point(**description["default_point"])
        except Exception as error:  # whatever files of another origin make of it
            given, reason = type(network).__name__, one_line(error)
            raise ValueError(
                f"network must be the {description['class']} that was saved in {folder}, got a {given} that the "
                f"weights do not fit: {reason}"
            ) from error
    model.is_lam_named = description.get("is_lam_named", model.default_point.lam != initial.lam)  # older files: no word
    return model.eval()


def _built(
    description: Mapping[str, Any], saved: Mapping[str, Tensor], folder: Path, *, trusts_network: bool
) -> nn.Module:
    """Return the plain network, once it is known to be no larger than the weights in the file.

    Raises:
        ValueError: If the architecture was not saved, cannot be built, or is larger.
    """
    if description["architecture"] is None:
        raise ValueError(f"network must be a {description['class']}: its architecture was not saved in {folder}.")
    nb_saved = sum(tensor.numel() for tensor in saved.values())
    try:
        architecture = Architecture(**description["architecture"])
        if not architecture.is_trusted:
            if trusts_network:
                return architecture.build()
            raise ValueError(
                f"its network is {architecture.arguments['name']}, and loading it would run that code. If you trust "
                "it: load_model(..., trusts_network=True), or art-oat evaluate --trust-network"
            )
        with torch.device("meta"):
            plain = architecture.build()
        if (nb_plain := sum(it.numel() for it in plain.state_dict().values())) <= nb_saved:
            return architecture.build()
    except Exception as error:  # whatever files of another origin make of it
        raise ValueError(f"{described_by(folder)} must describe a network, but: {one_line(error)}") from error
    raise ValueError(
        f"{described_by(folder)} must describe the network in {WEIGHTS}, but that would have {nb_plain} numbers, and "
        f"the file has {nb_saved}."
    )


def _size_faults(conversion: Mapping[str, Any], saved: Mapping[str, Tensor]) -> list[str]:
    """Say which arguments of the conversion ask for much more memory than the weights have."""
    nb_saved = sum(tensor.numel() for tensor in saved.values())
    dim, shape = conversion.get("code_dim"), conversion.get("input_shape") or ()
    is_large = dim is not None and dim * dim > max(nb_saved, _LARGE)
    faults = [f"code_dim must be at most the root of {max(nb_saved, _LARGE)}, got {dim}."] if is_large else []
    if math.prod(shape) > _LARGE:
        faults.append(f"input_shape must hold at most {_LARGE} numbers, got {shape}.")
    return faults


def _load_weights(model: OATModel, saved: dict[str, Tensor], dtypes: Mapping[str, str]) -> None:
    """Load tensors; modules are told that they are of their own version, which safetensors does not keep.

    Raises:
        ValueError: If one is lacking that no other name stands for, is not known, or of another dtype or shape, or
            holds what no model has.
    """
    tensors = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    for name, dtype in dtypes.items():
        tensors[name].data = tensors[name].data.to(DTYPES[dtype])
    state = model.state_dict()
    found = {state[name].data_ptr() for name in saved.keys() & state.keys()}
    missing = sorted(name for name in state.keys() - saved.keys() if state[name].data_ptr() not in found)
    unexpected = sorted(saved.keys() - state.keys())
    faults = [f"missing are {missing}, unexpected {unexpected}."] if missing or unexpected else []
    refuse(faults + form_faults(saved, state) + value_faults(saved, dict(model.named_parameters())))
    for name in state.keys() - saved.keys():
        del state[name]
    state.update(saved)
    model.load_state_dict(state, strict=False)
