"""Two commands in one folder at the same time: every pair, in both orders."""

import functools
import itertools
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from art_oat.lock import OWNER
from benchmarks.torture.cases import EVALUATE, MEASURING, TRAIN, TRAINING, Case, complete, content
from benchmarks.torture.processes import Child, Ended, in_processes
from benchmarks.torture.tally import Tally, refusal_fault

STOPPED, AT_ONCE, DEAD = "the second while the first is stopped", "both at once", "the second after the first's death"
_PATIENCE = 60.0


def _trained(folder: Path) -> None:
    complete(TRAINING, folder)


ANOTHER = Case("train", f"{TRAIN} --seed 1 --overwrite", _trained)
MEASURE = Case("evaluate", EVALUATE, _trained)
DEMO = Case("demo", "demo --out FOLDER --nb-epochs 1 --nb-robust 10 --attack pgd-1 --overwrite", _trained)
COMMANDS = (ANOTHER, MEASURE, DEMO)


def pairs(nb_moments: int, seed: int, names: Sequence[str]) -> Iterator[Tally]:
    """Try every pair of commands of these names at so many moments; the demo takes seconds, and is tried once."""
    for first, second in itertools.product([case for case in COMMANDS if case.name in names], repeat=2):
        orders = [[first, second], [second, first]]
        expected = [_after(tuple(cases)) for cases in ([first], *orders)]
        _seconds(first)  # known before processes are forked that go by it
        count = 1 if DEMO in (first, second) else nb_moments
        for kind, trial in ((STOPPED, _while_stopped), (AT_ONCE, _at_once)):
            tally = Tally(kind, f"{first.name}, {second.name}")
            seeds = ([seed, *kind.encode(), *tally.of.encode(), number] for number in range(count))
            for is_refused, fault in in_processes(partial(trial, first, second, expected, each) for each in seeds):
                tally.add_refusal(fault) if is_refused else tally.add(fault)
                yield tally
    for case in (TRAINING, MEASURING):
        assert case.expected
        _seconds(case)
        tally = Tally(DEAD, f"{case.name}, the same")
        seeds = ([seed, *case.name.encode(), number] for number in range(nb_moments))
        for fault in in_processes(partial(_after_death, case, each) for each in seeds):
            tally.add(fault)
            yield tally


@functools.cache
def _after(cases: tuple[Case, ...]) -> dict[str, Any]:
    """Return what a folder holds after commands, one after the other."""
    with cases[0].folder() as folder:
        for case in cases:
            complete(case, folder)
        return content(folder)


@functools.cache
def _seconds(case: Case) -> float:
    with case.folder() as folder:
        child, started = _holding(case, folder), time.monotonic()
        child.wait()
        return time.monotonic() - started


def _holding(case: Case, folder: Path) -> Child:
    """Start a command, and wait until it holds the folder."""
    child, until = case.start(folder), time.monotonic() + _PATIENCE
    while not (folder / OWNER).exists() and not child.is_over() and time.monotonic() < until:
        time.sleep(0.001)
    return child


def _while_stopped(first: Case, second: Case, expected: list[Any], seed: list[int]) -> tuple[bool, str]:
    """Stop the first at a random moment, and run the second meanwhile; say whether that was refused, and a fault."""
    with first.folder() as folder:
        holder = _holding(first, folder)
        time.sleep(np.random.default_rng(seed).uniform(0, _seconds(first)))
        holder.send(signal.SIGSTOP)
        ended = second.start(folder).wait()
        holder.send(signal.SIGCONT)
        undisturbed = holder.wait()
        if undisturbed.code:
            return False, f"the first was disturbed: {undisturbed}"
        if not ended.code:  # the first had left the folder already
            return False, _difference(folder, [expected[1]])
        fault = refusal_fault(ended, [f"process {holder.pid} on"]) or _difference(folder, [expected[0]])
        return True, fault or _second_again(second, folder, [expected[1]])


def _at_once(first: Case, second: Case, expected: list[Any], seed: list[int]) -> tuple[bool, str]:
    """Start both, one of them a moment later; say whether one was refused, and a fault."""
    with first.folder() as folder:
        children = {first.start(folder): first}
        time.sleep(np.random.default_rng(seed).uniform(0, 0.05))
        children[second.start(folder)] = second
        ended = {child: child.wait() for child in children}
        refused = [child for child in children if ended[child].code]
        if len(refused) > 1:
            return True, f"both failed: {'; '.join(map(str, ended.values()))}"
        if not refused:
            return False, _difference(folder, expected[1:])
        (other,) = children.keys() - set(refused)
        fault = refusal_fault(ended[refused[0]], [f"process {other.pid} on", "but another process does"])
        return True, fault or _second_again(children[refused[0]], folder, expected[1:])


def _second_again(case: Case, folder: Path, expected: list[Any]) -> str:
    """Run what was refused when the folder is free."""
    ended = case.start(folder).wait()
    return f"cannot be gone on with: {ended}" if ended.code else _difference(folder, expected)


def _difference(folder: Path, expected: list[Any]) -> str:
    found = content(folder)
    if any(found == each for each in expected):
        return ""
    names = sorted(name for name in found | expected[0] if found.get(name) != expected[0].get(name))
    return f"other than one after the other: {', '.join(names)}"


def _after_death(case: Case, seed: list[int]) -> str:
    """Kill the holder, and run the same command; say what is wrong."""
    with case.folder() as folder:
        holder = _holding(case, folder)
        time.sleep(np.random.default_rng(seed).uniform(0, 0.8 * _seconds(case)))
        holder.send(signal.SIGKILL)
        is_killed, is_left = holder.wait().is_killed, (folder / OWNER).exists()
        ended: Ended = case.start(folder).wait()
        if is_killed and is_left and f"Taking over {folder} from process {holder.pid}" not in ended.said:
            return f"not said that it takes over: {ended.said}"
        return f"cannot be gone on with: {ended}" if ended.code else case.fault_of(folder)
