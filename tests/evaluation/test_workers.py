import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from art_oat.leftovers import is_alive
from tests.evaluation.subjects import logged

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs groups of processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_an_evaluation_outlives_the_one_that_is_killed(tmp_path, number):
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.evaluation.killed", "without end", str(tmp_path), str(log)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        while len(logged(log)) < 2:  # both work
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait() == -number
        ends = time.monotonic() + 20
        while is_alive(-process.pid) and time.monotonic() < ends:
            time.sleep(0.05)
        assert not is_alive(-process.pid)
    finally:
        if is_alive(-process.pid):
            os.killpg(process.pid, signal.SIGKILL)
