"""Owns how warnings are issued: they point to the line outside of this package that led to them."""

from __future__ import annotations

import inspect
import warnings

_PACKAGE = __name__.partition(".")[0]


class StatisticsWarning(UserWarning):
    """Norms learn their statistics from so few values that the network may answer otherwise than it was trained to."""


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn, and blame the innermost caller that is not of this package."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
