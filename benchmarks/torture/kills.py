"""SIGKILL at random moments, up to twice in a row, and the command again until it gets through."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.torture.cases import CASES, Case, complete
from benchmarks.torture.processes import Ended
from benchmarks.torture.tally import Tally

KILLS = "SIGKILL at a random moment"
_IN_A_ROW = 2


def kills(nb_kills: int, seed: int) -> Iterator[Tally]:
    """Kill each command so often, at moments spread evenly over the time that it takes undisturbed."""
    for case in CASES:
        tally = Tally(KILLS, case.name)
        random = np.random.default_rng([seed, *case.name.encode()])
        seconds = _seconds(case)
        while (left := nb_kills - len(tally.faults) - tally.nb_right) > 0:
            count, fault = _killed_until_through(case, random, seconds, min(left, _IN_A_ROW))
            tally.add(fault, count)
            yield tally


def _killed_until_through(case: Case, random: np.random.Generator, seconds: float, most: int) -> tuple[int, str]:
    """Return how often a command was killed in one folder before it got through, and what was wrong then."""
    with case.folder() as folder:
        for count in range(most):
            ended = case.start(folder).killed_after(random.uniform(0, seconds))
            if not ended.is_killed:
                return count, _fault(case, folder, ended)
        return most, _fault(case, folder, case.start(folder).wait())


def _fault(case: Case, folder: Path, ended: Ended) -> str:
    return f"cannot be gone on with: {ended}" if ended.code else case.fault_of(folder)


def _seconds(case: Case) -> float:
    """Return how long a command takes undisturbed."""
    with case.folder() as folder:
        started = time.monotonic()
        complete(case, folder)
        return time.monotonic() - started
