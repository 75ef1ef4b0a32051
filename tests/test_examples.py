import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.trained import is_same

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs_and_says_what_it_found(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # what an example writes goes where it is run
    monkeypatch.setattr(sys, "argv", [str(path), "--smoke"])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} >= {
        "adaptive_policy",
        "fine_tune",
        "imagenet",
        "own_network",
        "server",
        "slim_and_select",
        "torchattacks_trainer",
        "train_and_dial",
        "transfer",
        "vision_transformer",
    }


def in_two_processes(out: Path) -> subprocess.Popen[bytes]:
    """Start the smoke of examples/imagenet.py by torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    example = str(Path(__file__).parent.parent / "examples" / "imagenet.py")
    return subprocess.Popen(
        [*launcher, example, "--smoke", "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_two_processes_that_load_their_own_images_go_on_to_the_bit_where_they_were_killed(tmp_path):
    assert in_two_processes(tmp_path / "whole").wait() == 0
    launcher, state = in_two_processes(tmp_path / "cut"), tmp_path / "cut" / "state.pt"
    while not state.exists():
        assert launcher.poll() is None
        time.sleep(0.005)
    for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text(encoding="ascii").split():
        os.kill(int(child), signal.SIGKILL)
    assert launcher.wait() != 0
    assert in_two_processes(tmp_path / "cut").wait() == 0
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut")]
    assert is_same(*weights)
