"""The two files of a model, as they lie in a folder: weights in safetensors, and a signed JSON that describes them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from art_oat.checks import one_line
from art_oat.storage import SIGNATURE, digest, plain_digest, read_json, write_bytes, write_json

WEIGHTS = "model.safetensors"
DESCRIPTION = "config.json"
FORMAT = 1
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_EARLIER = "model.json"  # what the description was called before it was called as others call theirs
_NEXT = ".model.next.json"
_NB_TRIES = 3
_FIELDS: dict[str, Any] = {
    "class": str,
    "architecture": dict | None,
    "conversion": dict,
    "default_point": dict,
    "dtype": str,
}
_UNCHECKED = "load_model(..., check=False) takes it all the same."


def write_model(folder: Path, weights: bytes, description: Mapping[str, Any]) -> None:
    """Write encoded weights and their description, signed; a reader finds both of before, or both of now."""
    unsigned = {name: value for name, value in description.items() if name != SIGNATURE}
    signed = unsigned | {SIGNATURE: {"weights": digest(weights), "description": plain_digest(unsigned)}}
    write_json(folder / _NEXT, signed)  # what a reader goes by if this process dies between the next two lines
    write_bytes(folder / WEIGHTS, weights)
    write_json(folder / DESCRIPTION, signed)
    (folder / _EARLIER).unlink(missing_ok=True)
    (folder / _NEXT).unlink(missing_ok=True)


def described_by(folder: Path) -> Path:
    """Return the description in a folder: under its name of today, or of before, if it has only that."""
    path, earlier = folder / DESCRIPTION, folder / _EARLIER
    return earlier if earlier.is_file() and not path.is_file() else path


def encoded(state: Mapping[str, Tensor]) -> bytes:
    """Return tensors as safetensors that say they are torch's, one that has several names by its first one."""
    names: dict[Any, str] = {}
    for name, tensor in state.items():
        place = tensor.data_ptr() if tensor.numel() else name
        names.setdefault((place, tensor.dtype, tensor.shape, tensor.stride()), name)
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in names.values()}
    return safetensors.torch.save(tensors, {"format": "pt"})  # transformers and others refuse what does not say so


def read_model(folder: Path, *, check: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description, with what older ones lack, and the weights that it describes.

    Raises:
        FileNotFoundError: If one is missing.
        ValueError: If the description is none, or a digest is another.
    """
    if missing := [path.name for path in (described_by(folder), folder / WEIGHTS) if not path.is_file()]:
        raise FileNotFoundError(
            f"folder must hold what save_model wrote, but {' and '.join(missing)} cannot be found in {folder}."
        )
    for _ in range(_NB_TRIES):  # another process may be between its two files
        weights = (folder / WEIGHTS).read_bytes()
        paths = [path for path in (described_by(folder), folder / _NEXT) if path.is_file()]
        found = [_description(path, check=check) for path in paths]
        for description in found:
            if description[SIGNATURE].get("weights") == digest(weights):
                return description, _decoded(folder / WEIGHTS, weights)
    if not check:
        return found[0], _decoded(folder / WEIGHTS, weights)
    raise ValueError(
        f"{folder / WEIGHTS} must be what save_model wrote with {described_by(folder).name}, but its SHA-256 "
        f"is another: it is damaged, or was changed. {_UNCHECKED}"
    )


def _description(path: Path, *, check: bool) -> dict[str, Any]:
    """Read a description, with what older ones lack.

    Raises:
        ValueError: If it is none, of another version, or not what was written.
    """
    description = read_json(path)
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} must have format {FORMAT}, got {found}.")
    faulty = [name for name, kind in _FIELDS.items() if not isinstance(description.get(name), kind)]
    signature = description.pop(SIGNATURE, {})
    actual = plain_digest(description)
    description = {"other_dtypes": {}, **description}
    if faulty or not isinstance(signature, dict) or not isinstance(description["other_dtypes"], dict):
        raise ValueError(f"{path} must be what save_model wrote, but {', '.join(faulty) or SIGNATURE} in it is not.")
    if unknown := {description["dtype"], *map(str, description["other_dtypes"].values())} - DTYPES.keys():
        raise ValueError(f"{path} must name dtypes of {tuple(DTYPES)}, got {', '.join(sorted(unknown))}.")
    if check and not signature:
        raise ValueError(f"{path} must hold the SHA-256 of the model, but is of an earlier version. {_UNCHECKED}")
    if check and signature.get("description") != actual:
        raise ValueError(f"{path} must be as save_model wrote it, but is damaged, or was changed. {_UNCHECKED}")
    return description | {SIGNATURE: signature}


def _decoded(path: Path, weights: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(weights)
    except Exception as error:  # whatever the library raises
        raise ValueError(f"{path} must hold safetensors, but cannot be read: {one_line(error)}") from error


def form_faults(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Say which tensors that both have are of another dtype or shape than expected."""
    pairs = {name: (found[name], expected[name]) for name in sorted(found.keys() & expected.keys())}
    return [
        f"{name} must be {_kind(own)}, got {_kind(it)}."
        for name, (it, own) in pairs.items()
        if (it.dtype, it.shape) != (own.dtype, own.shape)
    ]


def value_faults(tensors: Mapping[str, Tensor], parameters: Container[str]) -> list[str]:
    """Say which tensors hold NaN, which weights and statistics infinity, and which variances are negative."""
    faults = []
    for name, tensor in tensors.items():
        is_statistic = name.endswith(("running_mean", "running_var"))
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if bool(tensor.isnan().any()):
            faults.append(f"{name} must hold numbers, got NaN.")
        elif (is_statistic or name in parameters) and not bool(tensor.isfinite().all()):  # masks may be infinite
            faults.append(f"{name} must be finite, got infinity.")
        elif name.endswith("running_var") and bool((tensor < 0).any()):
            faults.append(f"{name} must be at least 0, got {float(tensor.min()):g}.")
    return faults


def dtype_name(dtype: torch.dtype) -> str:
    """Return such as "float32"."""
    return str(dtype).removeprefix("torch.")


def _kind(tensor: Tensor) -> str:
    return f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
