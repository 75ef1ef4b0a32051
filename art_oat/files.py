"""Owns how files are written: whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, and put the file in place of ``path`` when the block ends well.

    Folders on the way are made. Whatever goes wrong, an older file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def write_whole(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing that appears under its name when it is complete."""
    with replaced(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file
