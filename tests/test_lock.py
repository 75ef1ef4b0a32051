import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from art_oat.lock import LOCK, OWNER, STALE_AFTER, Owner, StaleLockWarning, locked, locked_file

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from art_oat.lock import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def write_owner(folder: Path, age: float, **changes) -> Owner:
    """Leave a mark as another process would."""
    owner = replace(Owner.this_process(), **changes)
    (folder / OWNER).write_text(json.dumps(asdict(owner)))
    moment = time.time() - age
    os.utime(folder / OWNER, (moment, moment))
    return owner


@pytest.mark.slow(seconds=1)
def test_a_folder_that_another_process_works_in_is_refused_with_who_it_is_and_since_when(tmp_path, holder):
    said = rf"one process at a time may work in .*, but process {holder.pid} on .* since .*last sign of life \d s ago"
    with pytest.raises(RuntimeError, match=said), locked(tmp_path):
        pytest.fail("two processes hold it")


def test_a_folder_is_held_once_in_a_process_too_and_free_afterwards(tmp_path):
    for _ in range(2):
        with locked(tmp_path), pytest.raises(RuntimeError, match="one process at a time"), locked(tmp_path):
            pytest.fail("held twice")
    assert not (tmp_path / OWNER).exists()


@pytest.mark.slow(seconds=1)
def test_the_folder_of_a_killed_process_is_taken_over_and_that_is_said(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    said: list[str] = []
    with locked(tmp_path, said.append) as held:
        held.check()
    (line,) = said
    assert f"from process {holder.pid} on" in line
    write_owner(tmp_path, 0)
    with pytest.warns(StaleLockWarning, match="Taking over"), locked(tmp_path):
        pass


@pytest.mark.parametrize(("age", "is_alive"), [(1, True), (STALE_AFTER + 60, False)])
def test_where_each_machine_locks_for_itself_signs_of_life_decide(tmp_path, age, is_alive):
    write_owner(tmp_path, age, host="another")
    said: list[str] = []
    if is_alive:
        with pytest.raises(RuntimeError, match="on another"), locked(tmp_path, said.append):
            pytest.fail("the other machine holds it")
    else:
        with locked(tmp_path, said.append):
            pass
    assert len(said) == (not is_alive)


def test_who_has_lost_the_folder_notices(tmp_path):
    with locked(tmp_path) as held:
        other = write_owner(tmp_path, 0, host="another")
        with pytest.raises(RuntimeError, match=r"process .* on another .* has taken it over"):
            held.check()
        (tmp_path / OWNER).unlink()
        with pytest.raises(RuntimeError, match="somebody deleted its mark"):
            held.check()
        (tmp_path / OWNER).write_text(json.dumps(asdict(other)))
    assert (tmp_path / OWNER).exists()  # it is the other's


def test_of_a_block_that_wrote_nothing_no_folder_is_left(tmp_path):
    with locked(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "c").touch()
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {LOCK, "c"}


def test_a_file_is_held_once_beside_others_and_what_marks_it_is_gone_afterwards(tmp_path):
    path = tmp_path / "state.pt"
    with locked_file(path), locked_file(tmp_path / "other.pt"):
        said = rf"may write .*state\.pt, but process {os.getpid()} on .*, or name another one"
        with pytest.raises(RuntimeError, match=said), locked_file(path):
            pytest.fail("held twice")
    with locked_file(tmp_path / "a" / "b" / "state.pt"):
        pass
    assert not list(tmp_path.iterdir())  # nor a folder that was made for it


@pytest.mark.parametrize("path", ["state.pt", "a/b/state.pt"])
def test_within_a_folder_that_is_held_its_files_are_held_with_it(tmp_path, path):
    with locked(tmp_path), locked_file(tmp_path / path):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, OWNER}


def test_another_thread_does_not_have_what_this_one_has(tmp_path):
    """Which folders are held is known of the thread that holds them."""
    found: list[str] = []

    def write() -> None:
        with locked_file(tmp_path / "state.pt"):
            found.extend(path.name for path in tmp_path.iterdir())

    with locked(tmp_path):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert f".state.pt{LOCK}" in found


@pytest.mark.slow(seconds=1)
def test_the_file_of_a_process_that_died_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    path = tmp_path / "state.pt"
    write_owner(tmp_path, 5)
    (tmp_path / OWNER).rename(tmp_path / f".state.pt{OWNER}")
    with pytest.warns(StaleLockWarning, match=r"Taking over .*state\.pt from"), locked_file(path):
        pass


def test_a_warning_of_a_takeover_that_is_made_an_error_comes_once(tmp_path):
    write_owner(tmp_path, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StaleLockWarning, match="Taking over"), locked(tmp_path):
            pytest.fail("held in spite of the error")
        with locked(tmp_path):
            pass
