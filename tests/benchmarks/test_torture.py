"""Torture finds no fault at its smallest size, and would find one; the page shows what was measured."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from art_oat.storage import read_rows
from benchmarks.pages import marked
from benchmarks.tables import DOCS, RESULTS
from benchmarks.torture.page import table
from benchmarks.torture.tally import Tally

ROOT = Path(__file__).parents[2]
PAGE = (DOCS / "reliability.md").read_text(encoding="utf-8")
ROWS = read_rows(RESULTS / "torture.csv")


def test_the_page_shows_what_was_measured():
    assert marked("table", table()) in PAGE


def test_every_part_was_measured_without_a_fault():
    measured = " ".join(row["what"] for row in ROWS)
    for what in (
        "SIGKILL",
        "death before",
        "flipped bit",
        "cut off",
        "no room",
        "at once",
        "stopped",
        "children after",
    ):
        assert what in measured
    for row in ROWS:
        counts = {name: int(row[name]) for name in ("trials", "right", "refused", "faults")}
        assert counts["trials"] == counts["right"] + counts["refused"] > 0
        assert not counts["faults"]


def test_a_trial_counts_once_and_a_fault_as_neither_right_nor_refused():
    tally = Tally("it", "that")
    tally.add("", 3)
    tally.add_refusal("")
    tally.add("wrong")
    tally.add_refusal("names no file")
    assert tally.row() == {"what": "it", "of": "that", "trials": 6, "right": 3, "refused": 1, "faults": 2}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs fork, and a limit of file sizes")
@pytest.mark.parametrize("part", ["kills", "deaths", "flips", "full", "orphans"])
def test_a_few_trials_of_each_part_find_no_fault(part):
    command = [sys.executable, "-m", "benchmarks.torture", "--smoke", "--only", part]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "faults" in done.stdout


IN_A_PROCESS = """
import contextlib, os, signal, sys
from pathlib import Path
from benchmarks.torture.processes import Child
from benchmarks.torture.deaths import Operations
folder = Path(sys.argv[1])

def write():
    (folder / "a").write_text("1")
    (folder / "a").replace(folder / "b")
    (folder / "b").unlink()

def dying(number):
    return Operations(folder, lambda count, *_: count == number and os.kill(os.getpid(), signal.SIGKILL)).install

for number in range(1, 5):
    print(Child(write, dying(number)).wait().is_killed, sorted(path.name for path in folder.iterdir()))
    for path in folder.iterdir():
        path.unlink()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
def test_death_comes_just_before_each_file_operation(tmp_path):
    command = [sys.executable, "-c", IN_A_PROCESS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True []", "True ['a']", "True ['b']", "False []"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_damage_is_one_bit_or_a_shorter_file(seed):
    from benchmarks.torture.flips import cut, flipped

    random, whole = np.random.default_rng(seed), bytes(range(256))
    other = flipped(whole, random)
    difference = np.frombuffer(whole, np.uint8) ^ np.frombuffer(other, np.uint8)
    assert int(np.unpackbits(difference).sum()) == 1
    shorter = cut(whole, random)
    assert len(shorter) < len(whole)
    assert whole.startswith(shorter)
