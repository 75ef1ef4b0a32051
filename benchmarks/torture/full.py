"""No room on the disk from some file on, for each file that a command writes."""

import os
import re
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from art_oat.storage import digest
from benchmarks.torture.cases import CASES, Case, complete
from benchmarks.torture.deaths import Operations, listed
from benchmarks.torture.processes import in_processes
from benchmarks.torture.tally import Tally, refusal_fault

FULL = "no room from this file on"
_PART = re.compile(r"^\.(.*)\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.part(\.[^.]*)?$")


def full(every: int) -> Iterator[Tally]:
    """Leave no room from every so-many-th written file on; the system then takes no byte more (RLIMIT_FSIZE)."""
    tallies: dict[str, Tally] = {}
    for case in CASES:
        assert case.expected  # known before processes are forked that compare with it
        written = _written(case)[::every]
        faults = in_processes(partial(_fault_from, case, number) for number, _ in written)
        for (number, path), fault in zip(written, faults, strict=True):
            name = re.sub(r"\d+", "N", path.name)
            tally = tallies.setdefault(name, Tally(FULL, name))
            tally.add_refusal(f"{case.name}, operation {number}: {fault}" if fault else "")
            yield tally


def _written(case: Case) -> list[tuple[int, Path]]:
    """Return the files that a command writes: the number of the operation that opens it first, and its path."""
    opened: dict[str, list[tuple[int, Path]]] = {}
    for number, (name, path) in enumerate(listed(case), 1):
        if name == "open" and (target := _target(path)) is not None:
            opened.setdefault(path, []).append((number, target))
    return [times[0] for times in opened.values() if len(times) > 1]  # once: an empty one, tried and removed


def _target(path: str) -> Path | None:
    """Return the file that a temporary one becomes."""
    part = _PART.match(Path(path).name)
    return None if part is None else Path(path).with_name(part[1] + (part[2] or ""))


def _fault_from(case: Case, number: int) -> str:
    reader, writer = os.pipe()
    with case.folder() as folder:
        ended = case.start(folder, Operations(folder, _filling(number, writer)).install).wait()
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as file:
            name, before = file.read().split("\0")
        target = Path(name)
        if fault := refusal_fault(ended, [target]):
            return fault
        if left := [path.name for path in folder.rglob("*.part*")]:
            return f"left {left}"
        if _mark(target) != before:
            return "the older file is not as it was"
        try:
            complete(case, folder)
        except RuntimeError as error:
            return f"cannot be gone on with: {error}"
        return case.fault_of(folder)


def _filling(number: int, writer: int) -> Callable[[int, str, str], None]:
    """Return what fills the disk before an operation, and writes down which file that meets, and how that is."""

    def fill(current: int, _: str, path: str) -> None:
        if current == number and (target := _target(path)) is not None:
            os.write(writer, f"{target}\0{_mark(target)}".encode())
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return fill


def _mark(path: Path) -> str:
    return digest(path) if path.exists() else "none"
