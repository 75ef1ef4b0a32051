"""Fields of dataclasses that are options of the command line."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def described(text: str, *, default: Any = None, **limits: int) -> Any:
    """Return a field that is an option of the command line, which shows this text.

    Args:
        text: One sentence.
        default: Of the field; what is made anew for each instance is a ``default_factory``, and no matter of this.
        **limits: ``min`` and ``max``, which the command line refuses to pass.
    """
    return field(default=default, metadata={"help": text, **limits})
