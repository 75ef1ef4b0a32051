"""Death just before each file operation of a command, and the command again."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.torture.cases import CASES, Case, complete
from benchmarks.torture.processes import Ended, in_processes
from benchmarks.torture.tally import Tally

DEATHS = "death before each file operation"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.utime", "os.truncate", "os.link", "os.symlink"}


class Operations:
    """Hears of every operation that changes files below a folder, just before it is done.

    These are what Python's audit events tell (open for writing, remove, rename, mkdir, rmdir, utime, locks), and fsync.

    Args:
        folder: Operations elsewhere do not count.
        hear: Is told the number of an operation, from 1 on, its name, and the file's.
    """

    def __init__(self, folder: Path, hear: Callable[[int, str, str], object]) -> None:
        self.folder, self.hear = str(folder.parent), hear
        self.count = 0

    def install(self) -> None:
        """Listen, until the process ends."""
        fsync = os.fsync

        def heard_fsync(descriptor: int) -> None:
            self._next("fsync", "")
            fsync(descriptor)

        os.fsync = heard_fsync
        sys.addaudithook(self._heard)

    def _heard(self, event: str, values: tuple[Any, ...]) -> None:
        if event == "fcntl.flock":
            self._next("lock", "")
        elif event in _CHANGES or (event == "open" and values[2] & _WRITING):
            path = os.fspath(values[0]) if isinstance(values[0], str | os.PathLike) else ""
            if path.startswith(self.folder) or (path and not os.path.isabs(path)):  # noqa: PTH117
                self._next(event, path)

    def _next(self, name: str, path: str) -> None:
        self.count += 1
        self.hear(self.count, name, path)


def listed(case: Case) -> list[tuple[str, str]]:
    """Return the file operations of a command, undisturbed: what, and the file."""
    reader, writer = os.pipe()

    def note(_: int, name: str, path: str) -> None:
        os.write(writer, f"{name}\0{path}\n".encode())

    with case.folder() as folder:
        child = case.start(folder, Operations(folder, note).install)
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as file:
            lines = file.read().splitlines()
        child.wait()
    return [(name, path) for name, _, path in (line.partition("\0") for line in lines)]


def deaths(every: int) -> Iterator[Tally]:
    """Kill each command before every so-many-th operation, and see what the same command makes of it."""
    for case in CASES:
        tally = Tally(DEATHS, case.name)
        assert case.expected  # known before processes are forked that compare with it
        operations = list(enumerate(listed(case), 1))[::every]
        faults = in_processes(partial(_fault_after, case, number) for number, _ in operations)
        for (number, (name, path)), fault in zip(operations, faults, strict=True):
            tally.add(f"before {name} {Path(path).name}, operation {number}: {fault}" if fault else "")
            yield tally


def died_before(case: Case, folder: Path, is_last: Callable[[int, str, str], bool]) -> Ended:
    """Run a command in a folder that dies before an operation, as ``hear`` of :class:`Operations` is told of it."""

    def die(number: int, name: str, path: str) -> None:
        if is_last(number, name, path):
            os.kill(os.getpid(), signal.SIGKILL)

    return case.start(folder, Operations(folder, die).install).wait()


def _fault_after(case: Case, number: int) -> str:
    with case.folder() as folder:
        ended = died_before(case, folder, lambda current, *_: current == number)
        if not ended.is_killed:
            return f"must have died, but: {ended}"
        try:
            complete(case, folder)
        except RuntimeError as error:
            return str(error)
        return case.fault_of(folder)
