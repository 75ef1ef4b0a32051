"""Owns how an attack is told apart from others by its settings, in whatever process."""

from __future__ import annotations

import hashlib
import re
from types import FunctionType
from typing import Any

import numpy as np
from art.attacks.attack import EvasionAttack
from art.estimators.estimator import BaseEstimator

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def described(attack: Any) -> str | None:
    """Return what tells an attack apart from others, the same in every process; None where it does not say.

    Attacks of ART are known by their parameters, functions without a closure by their code, all else by a ``__repr__``
    of its own.
    """
    if isinstance(attack, EvasionAttack):
        parameters = {name: _value(getattr(attack, name, None)) for name in sorted(attack.attack_params)}
        return f"{type(attack).__name__} {parameters}"
    if isinstance(attack, FunctionType):
        return None if attack.__closure__ else f"{attack.__qualname__} {_digest(attack.__code__.co_code)}"
    is_silent = type(attack).__repr__ is object.__repr__  # type: ignore[comparison-overlap]
    return None if is_silent else without_addresses(repr(attack))


def without_addresses(text: str) -> str:
    """Leave out where objects lie in memory, which is elsewhere in another process."""
    return _ADDRESS.sub("", text)


def _value(value: Any) -> str:
    if isinstance(value, EvasionAttack):
        return str(described(value))
    if isinstance(value, list | tuple):
        return str([_value(part) for part in value])
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape} {_digest(np.ascontiguousarray(value).tobytes())}"
    return type(value).__name__ if isinstance(value, BaseEstimator) else without_addresses(repr(value))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
