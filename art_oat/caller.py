"""Owns warnings that are told to whoever called the library, at the line where it was called."""

from __future__ import annotations

import sys
import warnings

_INNER = ("art_oat", "art")
"""Packages that call each other on the way."""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is neither of this library nor of ART."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INNER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
