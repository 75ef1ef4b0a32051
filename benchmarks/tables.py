"""Results as tables: for people, and as CSV whose every row says what made it."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import art
import numpy as np
import torch

from art_oat.storage import read_rows, write_rows

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
Row = dict[str, object]
Rows = Sequence[Mapping[str, Any]]


def environment(command: str, seeds: Sequence[int] = ()) -> Row:
    """Say what a result was made by, and where."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "command": command,
        **({"seeds": " ".join(map(str, seeds))} if seeds else {}),
        "commit": commit(Path(__file__).parent),
        "torch": torch.__version__,
        "art": art.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{device}, {os.cpu_count()} cores",
    }


def commit(folder: Path) -> str:
    """Return the commit that a folder is at, with a plus where files differ from it; "unknown" outside of git."""
    try:
        head = _git(folder, "rev-parse", "--short", "HEAD")
        return head + "+" * bool(_git(folder, "status", "--porcelain", "--untracked-files=no", "--", "*.py"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603


def write(path: Path, rows: Rows, made_by: Mapping[str, object], key: Sequence[str] = ()) -> None:
    """Write rows as CSV, with the same last columns in each: what made it.

    Args:
        path: Of the file.
        rows: Without what made them.
        made_by: What did.
        key: Columns by which rows replace their like in the file, whose others stay; none to write it anew.
    """
    made = [{**row, **made_by} for row in rows]
    if key and path.exists():
        every = {tuple(row[name] for name in key): row for row in [*read_rows(path), *made]}
        made = list(every.values())
    write_rows(path, made, last=[*made_by])


def text(rows: Rows) -> str:
    """Write rows as a table for people."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([str(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
