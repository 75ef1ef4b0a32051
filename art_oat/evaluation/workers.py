"""Processes that work for an evaluation, and end with it."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.managers import SyncManager
from typing import Any

_LOOK_EVERY = 0.5


@functools.cache
def end_with(owner: int) -> None:
    """Have this process end within a second after the one that it works for, however that ends, SIGKILL included.

    Args:
        owner: The id of the process that started this one; in a process that another one started, nothing happens.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == owner:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    if parent.sentinel is None:  # of joblib's processes, where there are no handles of processes
        while os.getppid() == parent.pid:
            time.sleep(_LOOK_EVERY)
    else:
        wait([parent.sentinel])
    os._exit(1)


def manager() -> SyncManager:
    """Return what shares queues with other processes, and ends with this one."""
    shared = SyncManager()
    shared.start(end_with, (os.getpid(),))
    return shared
