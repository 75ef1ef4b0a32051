import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from art_oat.launch import check_alone, is_follower, nb_here, nb_launched

NB_CUTS = int(os.environ.get("NB_CUTS", "3"))


@pytest.mark.parametrize(
    ("told", "nb", "follows"),
    [
        ({}, 1, False),
        ({"WORLD_SIZE": "4"}, 1, False),  # told by something else, without a number of its own
        ({"RANK": "0", "WORLD_SIZE": "1"}, 1, False),
        ({"RANK": "0", "WORLD_SIZE": "4"}, 4, False),
        ({"RANK": "3", "WORLD_SIZE": "4"}, 4, True),
    ],
)
def test_a_process_knows_from_its_launcher_how_many_there_are_and_whether_it_follows(told, nb, follows, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert (nb_launched(), is_follower()) == (nb, follows)
    if nb == 1:
        check_alone("art-oat demo")
    else:
        with pytest.raises(RuntimeError, match="art-oat demo must be started once, without torchrun"):
            check_alone("art-oat demo")


TRAIN = (
    "train --data digits --nb-train 240 --nb-epochs 40 --network small-8-8-8 --batch-size 60 --attack pgd-2 --eps 0.1 "
    "--ema 0.9 --on-nan restore --checkpoint-steps 1 --device cpu --out"
)


def test_a_process_knows_how_many_are_on_its_machine(monkeypatch):
    for name, value in {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert nb_here() == 8
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert nb_here() == 1


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start two processes that train together."""
    return together(*TRAIN.split(), str(folder), *more)


def together(*command: str) -> subprocess.Popen[str]:
    """Start two processes of a command."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, "-m", "art_oat", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers(launcher: subprocess.Popen[str]) -> list[int]:
    """The two processes, or fewer while they are not yet started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text(encoding="ascii").split()
    own = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [int(pid) for pid, command in own.items() if b"art_oat" in command]


def cut(launcher: subprocess.Popen[str], chance: random.Random, state: Path) -> str:
    """Kill one of the processes at a random moment, mostly while it trains, and return what they said in the end."""
    before = state.stat().st_mtime_ns if state.exists() else 0
    is_early, end = chance.random() < 0.2, time.monotonic() + 60
    while True:
        found = workers(launcher)
        is_training = state.exists() and state.stat().st_mtime_ns > before
        if len(found) == 2 and (is_early or is_training):
            break
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 0.5))
    with suppress(ProcessLookupError):
        os.kill(chance.choice(found), signal.SIGKILL)
    said = launcher.communicate(timeout=60)[0]
    assert not any(Path(f"/proc/{pid}").exists() for pid in found)
    return said


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found by what Linux says of them")
def test_a_process_killed_at_any_moment_ends_all_and_the_training_goes_on_to_the_same_bits(tmp_path):
    whole = started(tmp_path / "whole")
    said = whole.communicate(timeout=120)[0]
    assert whole.returncode == 0, said
    assert said.count("Done in") == said.count("Training one network") == 1  # one of them speaks
    chance, state = random.Random(0), tmp_path / "cut" / "training-state.pt"
    for _ in range(NB_CUTS):
        launcher = started(tmp_path / "cut")
        said = cut(launcher, chance, state)
        assert launcher.returncode == 0 or "Signal 9 (SIGKILL)" in said, said
    last = started(tmp_path / "cut")
    said = last.communicate(timeout=120)[0]
    assert last.returncode == 0, said
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


ATTACK = "--attack pgd-20x2 --nb-robust 300 --shard-size 25 --device cpu"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found by what Linux says of them")
def test_an_evaluation_cut_at_two_processes_and_gone_on_with_by_one_gives_the_report_of_one(tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    train = [*TRAIN.replace("--nb-epochs 40", "--nb-epochs 3").split(), str(run)]
    subprocess.run([sys.executable, "-m", "art_oat", *train], check=True, capture_output=True)
    shutil.copytree(run, whole)
    evaluate = [sys.executable, "-m", "art_oat", "evaluate"]
    subprocess.run([*evaluate, str(whole), *ATTACK.split()], check=True, capture_output=True)
    launcher = together("evaluate", str(run), *ATTACK.split())
    end = time.monotonic() + 60
    while len(list(run.glob("evaluation-*/shard-*.npz"))) < 4:
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(workers(launcher)[1], signal.SIGKILL)
    said = launcher.communicate(timeout=60)[0]
    assert "Signal 9 (SIGKILL)" in said, said
    assert not (run / "samples.csv").exists()
    again = subprocess.run([*evaluate, str(run), *ATTACK.split()], check=True, capture_output=True, text=True)
    assert "Going on attacking" in again.stdout
    assert (run / "samples.csv").read_bytes() == (whole / "samples.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--batch-size", "1"), ("--nb-train", "241")])
def test_what_is_refused_to_all_is_said_once(more, tmp_path):
    launcher = started(tmp_path / "run", *more)
    said = launcher.communicate(timeout=60)[0]
    assert launcher.returncode
    assert said.count("--batch-size must be") + said.count("a batch must hold an attacked sample") == 1, said
    assert not (tmp_path / "run" / "model.safetensors").exists()
