"""Owns how files are written, whole or not at all, and how tables are read back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

Parsed = TypeVar("Parsed")


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


def parse_csv(path: Path, parse: Callable[[list[dict[str, str]]], Parsed]) -> Parsed:
    """Return what a function makes of the rows of a CSV that a ``to_csv`` wrote.

    Raises:
        ValueError: If the function fails on what a file of another kind lacks.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return parse(rows)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} must be a CSV that to_csv wrote, but reading it failed: {error!r}.") from error
