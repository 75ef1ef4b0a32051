"""Files that are written whole or not at all, and fingerprints that say whether two runs are the same."""

from __future__ import annotations

import csv
import dataclasses
import errno
import functools
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, TextIO, TypeVar, overload

import numpy as np
import torch

from art_oat.leftovers import beside, remove_leftovers

Parsed = TypeVar("Parsed")
Plain = None | bool | int | float | str | list[Any] | dict[str, Any]
"""What JSON can hold."""
SIGNATURE = "sha256"
"""Under which name a file holds the digest of the rest of it."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")
_NB_SHOWN = 5
_MISSING = "not there"
_CLASS, _UNSAID = "class", "unsaid"  # no field of a dataclass is called class


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, and put the file in place of ``path`` when the block ends well.

    Folders on the way are made. The temporary path is this call's own. The file is on the disk, not only in the memory
    of the system, before it gets its name. Whatever goes wrong, an older file stays as it was.

    Raises:
        OSError: If it cannot be written; names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    partial = beside(path)
    try:
        yield partial
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
