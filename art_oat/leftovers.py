"""Temporary files beside those that they become, and what processes leave that are killed meanwhile."""

from __future__ import annotations

import glob
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_AFTER = 3600.0  # seconds; no file takes that long to be written
_GONE = ".gone"
_OF_PROCESS = re.compile(r"-(\d+)-[0-9a-f]{8}\.part(\.[^.]*)?$")


def beside(path: Path) -> Path:
    """Return a path for a temporary file, which says whose it is: this call's alone."""
    return path.with_name(f".{path.stem}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part{path.suffix}")


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def remove_leftovers(path: Path) -> None:
    """Remove temporary files for a path that processes left that were killed while they wrote."""
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}.*-*.part{glob.escape(path.suffix)}"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _AFTER:
                leftover.unlink()


def remove_leftovers_of_the_dead(folder: Path) -> None:
    """Remove folders that are half removed in one that is held, and temporary files of processes that are no more."""
    for gone in folder.glob(f".*{_GONE}"):
        shutil.rmtree(gone, ignore_errors=True)
    if os.name != "posix":  # elsewhere nobody can ask whether a process lives
        return
    for leftover in folder.glob(f".*.{_host()}-*-*.part*"):
        if (found := _OF_PROCESS.search(leftover.name)) and not is_alive(int(found[1])):
            with suppress(OSError):
                leftover.unlink()


def is_alive(pid: int) -> bool:
    """Whether a process lives; for a number below 0, whether any of the group of that number does. POSIX only."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of somebody else
        pass
    return True


def remove_folders(folders: Iterable[Path]) -> None:
    """Remove folders; half of one, left by a process that is killed here, passes for none, and goes with leftovers."""
    for folder in folders:
        if folder.exists():
            gone = folder.with_name(f".{folder.name}{_GONE}")
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone)
