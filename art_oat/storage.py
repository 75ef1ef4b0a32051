"""Files that are written whole or not at all, and digests of what is in them."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np
import torch

from art_oat.leftovers import beside, remove_leftovers

Parsed = TypeVar("Parsed")
SIGNATURE = "sha256"
"""Under which name a file holds the digest of the rest of it."""


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, and put the file in place of ``path`` when the block ends well.

    Folders on the way are made. The temporary path is this call's own. The file is on the disk, not only in the memory
    of the system, before it gets its name. Whatever goes wrong, an older file stays as it was. Who may read the new one
    is what the umask says, as of any file that ``open`` makes, whatever wrote it and whatever the older one had.

    Raises:
        OSError: If it cannot be written; names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    partial = beside(path)
    try:
        usual = _usual_mode(partial)
        yield partial
        if stat.S_IMODE(partial.stat().st_mode) != usual:  # safetensors, tempfile and others keep theirs to the owner
            partial.chmod(usual)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error  # a full disk has no name
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _usual_mode(path: Path) -> int:
    """Return what a file gets here that ``open`` makes; the umask itself cannot be asked for without changing it."""
    path.touch(exist_ok=False)
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()  # a writer that puts its file elsewhere must not leave an empty one here
    return mode


def writing_fault(path: Path) -> str | None:
    """Say why a file could not be written; None if it could. An empty one is tried where its folder is, or will be."""
    try:
        if path.is_dir():
            return "it is a folder"
        folder = next(each for each in path.absolute().parents if each.exists())
        probe = folder / beside(path).name
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # such as no permission; a name with a null byte
        return str(getattr(error, "strerror", None) or error)
    return None


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, too, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # of file systems that cannot
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: Path, *content: bytes) -> None:
    """Write a file, of one part or several, whole or not at all, and as :func:`replaced` does."""
    with replaced(path) as partial, partial.open("wb") as file:
        file.writelines(content)


@contextmanager
def write_whole(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing that appears under its name when it is complete."""
    with replaced(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_json(path: Path, content: Any) -> None:
    """Write plain values as JSON."""
    with write_whole(path) as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it holds no JSON; names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no text, or lists in lists without end
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} must hold JSON, but cannot be read: {reason}.") from error


def write_rows(
    path: Path, rows: Iterable[Mapping[str, Any]], last: Sequence[str] = (), *, is_signed: bool = False
) -> None:
    """Write rows as CSV: the columns in the order in which they first occur, but ``last`` ones at the end.

    Signed ones have a column more, the last: the same digest of all rows in each, by which :func:`parse_csv` knows
    whether anything was changed.
    """
    text = _as_csv(list(rows), last)
    if is_signed:
        plain = list(csv.DictReader(io.StringIO(text, newline="")))
        text = _as_csv([{**row, SIGNATURE: plain_digest(plain)} for row in plain])
    with write_whole(path) as file:
        file.write(text)


def _as_csv(rows: Sequence[Mapping[str, Any]], last: Sequence[str] = ()) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=lambda name: name in last)  # stable
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def parse_csv(path: Path, parse: Callable[[list[dict[str, str]]], Parsed]) -> Parsed:
    """Return what a function makes of the rows of a CSV that a ``to_csv`` wrote.

    Raises:
        ValueError: If it is no CSV, is signed but was changed, or the function fails on what a file of another kind
            lacks.
    """
    try:
        if not (rows := read_rows(path)):
            raise ValueError("it holds no row")
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row holds more or fewer values than there are columns")
        signatures = {row.pop(SIGNATURE) for row in rows if SIGNATURE in row}
        if not signatures or signatures == {plain_digest(rows)}:
            return parse(rows)
        raise ValueError(f"it is damaged, or was changed; without its column {SIGNATURE}, it is read all the same")
    except (KeyError, TypeError, IndexError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} must be a CSV that to_csv wrote, but reading it failed: {error!r}.") from error


def digest(*parts: Any) -> str:
    """Return the SHA-256 of arrays and tensors (kind, shape and content), bytes, iterators of them, and files."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray | torch.Tensor):
            found.update(f"{part.dtype}{tuple(part.shape)}".encode())
            tensor = part if isinstance(part, torch.Tensor) else None
            array = part if tensor is None else tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            found.update(np.ascontiguousarray(array).data)
        else:
            for it in part if isinstance(part, Iterator) else [part.read_bytes() if isinstance(part, Path) else part]:
                found.update(it)
    return found.hexdigest()


def plain_digest(content: Any) -> str:
    """Return the SHA-256 of what JSON can hold, whatever the order of names."""
    return digest(json.dumps(content, sort_keys=True).encode())
