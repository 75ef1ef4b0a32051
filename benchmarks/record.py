"""How studies write what they measured: a table whose every row says what made it."""

import csv
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import art
import numpy as np
import torch

from art_oat.storage import write_whole

RESULTS = Path(__file__).parent / "results"


def environment(command: str, seeds: Sequence[int] = ()) -> dict[str, object]:
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


def write(path: Path, rows: Sequence[Mapping[str, Any]], made_by: Mapping[str, object]) -> None:
    """Write rows as CSV, with the same last columns in each: what made it."""
    columns = list(dict.fromkeys(name for row in rows for name in (*row, *made_by)))
    columns.sort(key=lambda name: name in made_by)  # stable: these go last
    with write_whole(path) as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **made_by} for row in rows)


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as a table for people."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([str(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def read(path: Path) -> list[dict[str, str]]:
    """Read what :func:`write` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
