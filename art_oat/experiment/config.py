"""Settings read back from a file: what ``run.json`` holds, or a recipe or a measurement alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from art_oat.checks import refuse
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.recipe import Recipe
from art_oat.storage import SIGNATURE, read_json
from art_oat.training import Method

_PARTS = {"recipe", "begun", "training", "measurement", SIGNATURE}
"""What ``run.json`` holds; a file without any of these is taken for settings alone."""

_FOUND = {"model", "data", "machine"}
"""What ``run.json`` says of a measurement beside its settings."""


def recipe_in(path: Path) -> Recipe:
    """Return the recipe in a ``run.json``, or in a file that holds one alone; what it does not say is the default.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds none, or a name or a value is wrong; names every one.
    """
    values = _settings(path, "recipe")
    method = values.pop("method", {})
    faults = _faults(Recipe, values)
    if isinstance(method, dict):
        weights = method.pop("sampling", {})
        faults += _faults(Method, method, "method.")
    else:
        method, weights, faults = {}, {}, [*faults, f"method must hold settings by name, got {method!r}."]
    _refuse(path, faults)
    try:
        return Recipe.from_values({**values, "method": {**method, "sampling": weights}})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def measurement_in(path: Path) -> Measurement:
    """Return the measurement in a ``run.json``, or in a file that holds one alone.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds none, or a name or a value is wrong; names every one.
    """
    values = {name: it for name, it in _settings(path, "measurement").items() if name not in _FOUND}
    _refuse(path, _faults(Measurement, values))
    return Measurement.from_values(values)


def _settings(path: Path, part: str) -> dict[str, Any]:
    try:
        held = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON: {error}") from error
    if isinstance(held, dict) and not (_PARTS & held.keys()):
        return dict(held)
    entry = held.get(part) if isinstance(held, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("settings"), dict):
        raise ValueError(f"{path} must hold a {part}, as run.json does once there is one.")
    return dict(entry["settings"])


def _refuse(path: Path, faults: list[str]) -> None:
    refuse([f"{path}: {fault}" for fault in faults])


def _faults(owner: type, values: Mapping[str, Any], prefix: str = "") -> list[str]:
    hints, known = get_type_hints(owner), {field.name: field for field in fields(owner)}
    faults = [f"{prefix}{name} is no setting." for name in values if name not in known]
    faults += [
        f"{prefix}{name} must be given."
        for name, field in known.items()
        if name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    return faults + [
        f"{prefix}{name} must be a {_spelled(hints[name])}, got {value!r}."
        for name, value in values.items()
        if name in known and not _fits(value, hints[name])
    ]


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of the kind of a field."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin is tuple:
        return isinstance(value, list) and all(_fits(one, get_args(kind)[0]) for one in value)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return kind in (str, bool, NoneType) and isinstance(value, kind)


def _spelled(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind).replace("typing.", "")
