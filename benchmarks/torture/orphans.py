"""The parent of an evaluation with workers killed at a random moment, and what lives on."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from art_oat.leftovers import is_alive
from benchmarks.torture.cases import FOLDER, MEASURING
from benchmarks.torture.processes import in_processes
from benchmarks.torture.tally import Tally

_WORDS = f"evaluate {FOLDER} --attack pgd-4000 --nb-robust 200 --shard-size 50 --nb-workers 2"
_LATEST = 10.0
"""Seconds after the start; both workers are at work by then."""
_PATIENCE = 10.0
"""Seconds after the death of the parent in which everything that it started must have ended."""


def orphans(nb_kills: int, seed: int) -> Iterator[Tally]:
    """Kill so often by each signal, and look for processes of the group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        tally = Tally(f"children after {number.name}", "art-oat evaluate --nb-workers 2")
        for fault in in_processes(partial(_fault, number, [seed, number, each]) for each in range(nb_kills)):
            tally.add(fault)
            yield tally


def _fault(number: signal.Signals, seed: list[int]) -> str:
    with MEASURING.folder() as folder:
        words = [str(folder) if word == FOLDER else word for word in shlex.split(_WORDS)]
        command = [sys.executable, "-c", "from art_oat.cli import app; app()", *words]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload]  # noqa: S603
        moment = float(np.random.default_rng(seed).uniform(0, _LATEST))
        time.sleep(moment)
        process.send_signal(number)
        code = process.wait()
        try:
            return _waited(process.pid, moment) or ("" if code in {-number, 128 + number} else f"exit code {code}")
        finally:
            if is_alive(-process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def _waited(group: int, moment: float) -> str:
    """Say whether processes of a group live on for too long."""
    until = time.monotonic() + _PATIENCE
    while is_alive(-group):
        if time.monotonic() > until:
            return f"killed after {moment:.1f} s, processes live on {_PATIENCE:g} s later"
        time.sleep(0.05)
    return ""
