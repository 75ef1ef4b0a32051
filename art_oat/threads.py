"""What keeps threads out of each other's way: a place to compute in."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class Places:
    """Lets a few threads compute at once, and the others wait.

    More threads than cores gain nothing and cost much: torch gives Python's interpreter lock away at every layer, and
    each of them wants it back at every layer. Nothing can hang by it: a thread that has waited in vain goes on.

    Args:
        nb_places: How many compute at once.
        patience: How long a thread waits, in seconds.
    """

    def __init__(self, nb_places: int, patience: float = 1.0) -> None:
        self._nb_places, self._patience = nb_places, patience
        self._clear()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._clear)  # the threads that were at work are not in the copy

    def _clear(self) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(self._nb_places):
            self._free.put(None)

    def compute(self, function: Callable[[], Result]) -> Result:
        """Return what a function returns, once there is a place for it."""
        try:
            self._free.get(timeout=self._patience)
        except queue.Empty:  # many long answers, or one within another
            return function()
        try:
            return function()
        finally:
            self._free.put(None)


def nb_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
