"""Death just before each file operation of a command, and the command again."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.torture.cases import CASES, Case, complete
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
        import sys

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
        for number, (name, path) in list(enumerate(listed(case), 1))[::every]:
            fault = _fault_after(case, number)
            tally.add(f"before {name} {Path(path).name}, operation {number}: {fault}" if fault else "")
            yield tally


def _fault_after(case: Case, number: int) -> str:
    def die(current: int, *_: str) -> None:
        if current == number:
            os.kill(os.getpid(), signal.SIGKILL)

    with case.folder() as folder:
        ended = case.start(folder, Operations(folder, die).install).wait()
        if not ended.is_killed:
            return f"must have died, but: {ended}"
        try:
            complete(case, folder)
        except RuntimeError as error:
            return str(error)
        return case.fault_of(folder)
