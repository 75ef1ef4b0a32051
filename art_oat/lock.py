"""A lock on a folder, or on a file: one process works there at a time, says who it is, and is missed when it dies."""

from __future__ import annotations

import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from art_oat.checks import warn_caller
from art_oat.leftovers import remove_leftovers_of_the_dead
from art_oat.storage import read_json, write_json

LOCK, OWNER = ".lock", ".owner.json"
STALE_AFTER = 120.0
"""Seconds without a sign of life after which an owner on another machine counts as dead."""
_SIGN_EVERY = 15.0
_OWN: ContextVar[tuple[Path, ...]] = ContextVar("_OWN", default=())
"""Folders that are held where this is run."""


class StaleLockWarning(UserWarning):
    """A folder was left by a process that died."""


@dataclass(frozen=True)
class Owner:
    """Who works in a folder: a process, since when, and a token that no other has."""

    host: str
    pid: int
    command: str
    since: str
    token: str

    @classmethod
    def this_process(cls) -> Owner:
        """Return a fresh mark of the process that calls."""
        command = " ".join([Path(sys.argv[0] or "python").name, *sys.argv[1:2]])
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(platform.node(), os.getpid(), command, since, secrets.token_hex(8))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command}, since {self.since})"


class Held:
    """A lock that is held; gives signs of life until it is released."""

    def __init__(self, place: Path, mark: Path, owner: Owner) -> None:
        self.place, self.mark, self.owner = place, mark, owner
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._give_signs, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that nobody has taken over what is held.

        Raises:
            RuntimeError: If another process has, as it can where a network folder locks nothing.
        """
        found = _read(self.mark)
        if found != self.owner:
            other = "somebody deleted its mark" if found is None else f"{found} has taken it over"
            raise RuntimeError(f"{self.place} must be this process's alone, but {other}. Nothing more is written.")

    def _give_signs(self) -> None:
        while not self._is_over.wait(_SIGN_EVERY):
            if _read(self.mark) == self.owner:
                with suppress(OSError):
                    os.utime(self.mark)

    def release(self) -> None:
        """End the signs of life, and take the own mark away."""
        self._is_over.set()
        self._thread.join()
        if _read(self.mark) == self.owner:
            self.mark.unlink(missing_ok=True)


def _warn(message: str) -> None:
    warn_caller(message, StaleLockWarning)


@contextmanager
def locked(folder: Path, say: Callable[[str], object] = _warn) -> Iterator[Held]:
    """Have a folder, which is made where it is missing, for this process alone while the block runs.

    The operating system locks ``.lock`` and frees it when the process dies, however it dies. ``.owner.json`` names the
    process. Where a network folder locks for each machine alone, that file is what others go by: its time is renewed
    every 15 s, and after two minutes without that its process counts as dead. Temporary files go that processes of
    this machine left which were killed while they wrote.

    Args:
        folder: What to lock.
        say: Is told where the folder is taken over from a process that died.

    Raises:
        RuntimeError: If another process, or another thread, works there.
    """
    is_new = not folder.exists()
    with _locked(folder, folder / LOCK, folder / OWNER, say) as held:
        remove_leftovers_of_the_dead(folder)
        own = _OWN.set((*_OWN.get(), folder.resolve()))
        try:
            yield held
        finally:
            _OWN.reset(own)
            if is_new and {path.name for path in folder.iterdir()} <= {LOCK, OWNER}:
                (folder / LOCK).unlink()  # nothing came of it


@contextmanager
def locked_file(path: Path, say: Callable[[str], object] = _warn) -> Iterator[None]:
    """Have a file, which need not be there, for this process alone while the block runs; see :func:`locked`.

    What marks it, ``.NAME.lock`` and ``.NAME.owner.json``, is gone afterwards, and so are folders that were made for
    it and hold nothing. Within a folder that is held already, nothing is done.

    Raises:
        RuntimeError: If another process, or another thread, has it.
    """
    folder = path.parent.resolve()
    if any(folder.is_relative_to(own) for own in _OWN.get()):
        yield
        return
    lock, mark = (path.with_name(f".{path.name}{ending}") for ending in (LOCK, OWNER))
    with _locked(path, lock, mark, say, leaves_lock=False):
        yield


@contextmanager
def _locked(
    place: Path, lock: Path, mark: Path, say: Callable[[str], object], *, leaves_lock: bool = True
) -> Iterator[Held]:
    file = FileLock(lock, thread_local=False)
    with _made(lock.parent):
        try:
            file.acquire(timeout=0)
        except Timeout:
            raise _in_use(place, mark) from None
        try:
            held = _taken(place, mark, say)
            try:
                yield held
            finally:
                held.release()
        finally:
            if not leaves_lock:
                with suppress(OSError):  # of a system that keeps what is open
                    lock.unlink()
            file.release()


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Have a folder within the block; what had to be made of it, and holds nothing, is gone afterwards."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in made:
            with suppress(OSError):  # it holds something
                each.rmdir()


def _taken(place: Path, mark: Path, say: Callable[[str], object]) -> Held:
    """Write down that a place is this process's, unless one on another machine is alive."""
    own, left = Owner.this_process(), _read(mark)
    age = 0.0 if left is None else _age(mark)
    if left is not None and left.host != own.host and age < STALE_AFTER:
        raise _in_use(place, mark)
    write_json(mark, asdict(own))
    held = Held(place, mark, own)
    try:
        if left is not None:
            say(f"Taking over {place} from {left}, which ended without a word; last sign of life {age:.0f} s ago.")
    except BaseException:  # such as a warning that is made an error, which comes once
        held.release()
        raise
    return held


def _in_use(place: Path, mark: Path) -> RuntimeError:
    owner = _read(mark)
    who = "another process" if owner is None else f"{owner}, last sign of life {_age(mark):.0f} s ago,"
    work, other = ("work in", "folder") if mark.name == OWNER else ("write", "one")
    return RuntimeError(
        f"one process at a time may {work} {place}, but {who} does. Wait for it, or name another {other}."
    )


def _read(mark: Path) -> Owner | None:
    try:
        return Owner(**read_json(mark))
    except (OSError, ValueError, TypeError):  # none, or of another version
        return None


def _age(path: Path) -> float:
    """Return how old a file is, in seconds by the clock of whoever keeps the folder."""
    probe = path.with_name(f".{secrets.token_hex(8)}.now")
    try:
        probe.touch()
        return max(0.0, probe.stat().st_mtime - path.stat().st_mtime)
    except OSError:
        return 0.0
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
