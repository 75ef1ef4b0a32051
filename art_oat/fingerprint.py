"""Fingerprints: plain values that say whether two runs are the same, and where they differ."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any, overload

import numpy as np
import torch

from art_oat.storage import digest

Plain = None | bool | int | float | str | list[Any] | dict[str, Any]
"""What JSON can hold."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")
_NB_SHOWN = 5
_MISSING = "not there"
_CLASS, _UNSAID = "class", "unsaid"  # no field of a dataclass is called class


@overload
def fingerprint(part: Mapping[str, Any]) -> dict[str, Plain]: ...
@overload
def fingerprint(part: Any) -> Plain: ...
def fingerprint(part: Any) -> Plain:
    """Return plain values that tell a part of a run from others, the same in every process.

    Attacks and preprocessing of ART are known by their parameters, dataclasses by the fields that ``repr`` shows,
    functions by their code, arrays and tensors by their digest, estimators by their class, all else by a ``__repr__``
    of its own. What has none, and a function with a closure, does not say all: see :func:`unsaid`.
    """
    if isinstance(part, np.generic) or (isinstance(part, np.ndarray) and part.dtype.hasobject):
        part = part.tolist()
    if part is None or isinstance(part, bool | int | float | str):
        return repr(part) if isinstance(part, float) and not math.isfinite(part) else part
    if isinstance(part, Mapping):
        return {str(name): fingerprint(value) for name, value in part.items()}
    if isinstance(part, list | tuple | set | frozenset):
        values = [fingerprint(value) for value in part]
        return sorted(values, key=repr) if isinstance(part, set | frozenset) else values
    if isinstance(part, np.ndarray | torch.Tensor):
        return f"{part.dtype} {[*part.shape]} {digest(part)}"
    if isinstance(part, FunctionType | MethodType | functools.partial):
        return _of_function(part)
    return _of_object(part)


def _of_function(part: FunctionType | MethodType | functools.partial[Any]) -> Plain:
    if isinstance(part, MethodType):
        return fingerprint({_CLASS: "method", "of": part.__self__, "function": part.__func__})
    if isinstance(part, functools.partial):
        return fingerprint({_CLASS: "partial", "function": part.func, "arguments": [part.args, part.keywords]})
    defaults = fingerprint([part.__defaults__, part.__kwdefaults__])
    is_unsaid = {_UNSAID: True} if part.__closure__ else {}
    return {_CLASS: f"function {_name(part)}", "code": _of_code(part.__code__), "defaults": defaults, **is_unsaid}


def _of_object(part: Any) -> Plain:
    if isinstance(part, type):
        return _name(part)
    names = getattr(part, "attack_params", getattr(part, "params", None))  # of ART's attacks and preprocessing
    if dataclasses.is_dataclass(part):
        names = [field.name for field in dataclasses.fields(part) if field.repr]
    elif hasattr(part, "estimator_params"):  # an estimator, whose weights count apart
        names = []
    if isinstance(names, list | tuple):
        return {_CLASS: _name(type(part)), **{name: fingerprint(getattr(part, name, None)) for name in names}}
    if type(part).__repr__ is object.__repr__:  # type: ignore[comparison-overlap]
        return {_CLASS: _name(type(part)), _UNSAID: True}
    return _ADDRESS.sub("", repr(part))


def _name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _of_code(code: CodeType) -> str:
    constants = [_of_code(it) if isinstance(it, CodeType) else fingerprint(it) for it in code.co_consts]
    return digest(repr([code.co_code, constants, code.co_names]).encode())


def unsaid(mark: Plain) -> list[str]:
    """Return the classes of the parts in a fingerprint that do not say all their settings."""
    if isinstance(mark, dict) and _UNSAID in mark:
        return [_shown(mark)]
    parts = mark.values() if isinstance(mark, dict) else mark if isinstance(mark, list) else []
    return [name for part in parts for name in unsaid(part)]


def differences(kept: Mapping[str, Plain], asked: Mapping[str, Plain]) -> str:
    """Say where two fingerprints of runs differ, such as ``"attack.eps was 0.1, is 0.2"``; ``""`` for the same run."""
    found = list(_differing("", kept, asked))
    rest = f"; and {len(found) - _NB_SHOWN} more" if len(found) > _NB_SHOWN else ""
    return "; ".join(found[:_NB_SHOWN]) + rest


def _differing(name: str, kept: Any, asked: Any) -> Iterator[str]:
    if isinstance(kept, Mapping) and isinstance(asked, Mapping) and kept.get(_CLASS) == asked.get(_CLASS):
        for part in {**asked, **kept}:
            whole = f"{name}.{part}" if name else part
            yield from _differing(whole, kept.get(part, _MISSING), asked.get(part, _MISSING))
    elif _are_alike(kept, asked):
        for number, parts in enumerate(zip(kept, asked, strict=True)):
            yield from _differing(f"{name}.{number}", *parts)
    elif kept != asked:
        yield f"{name} was {_shown(kept)}, is {_shown(asked)}"


def _are_alike(kept: Any, asked: Any) -> bool:
    """Whether two are lists whose parts are compared one by one; numbers are shown together."""
    are_lists = isinstance(kept, list) and isinstance(asked, list) and len(kept) == len(asked)
    return are_lists and all(isinstance(part, dict | list) for part in [*kept, *asked])


def _shown(mark: Any) -> str:
    if isinstance(mark, Mapping) and _CLASS in mark:
        return str(mark[_CLASS]).rpartition(".")[2]
    return _DIGEST.sub(r"\1", str(mark))
