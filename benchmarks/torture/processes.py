"""Commands of art-oat in processes of their own, which are forked from one that has imported everything."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# imported here, so that no process that is forked has to wait for it
import typer

import art_oat.evaluation.plots
import art_oat.experiment.options
import art_oat.experiment.run  # noqa: F401
from art_oat.cli import app

_COMMAND = typer.main.get_command(app)
_UNEXPECTED = 70
_PIPE = 1 << 20
"""Bytes that a process may say before it waits for a reader."""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; a signal's number, negative, where it was killed.
        said: All that it showed.
        refusal: The message of what it refused; empty if it refused nothing.
    """

    code: int
    said: str
    refusal: str = ""

    @property
    def is_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def __str__(self) -> str:
        return f"exit code {self.code}: {self.refusal or self.said[-500:]}"


def do_nothing() -> None:
    """Prepare nothing."""


class Child:
    """A process that calls a function, and can be waited for, stopped and killed.

    Args:
        call: What it does.
        prepare: Called in it first.
    """

    def __init__(self, call: Callable[[], object], prepare: Callable[[], object] = do_nothing) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        (said, say), (refused, refuse) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.dup2(say, 1)
            os.dup2(say, 2)
            _run(call, prepare, refuse)
        os.close(say)
        os.close(refuse)
        self._said, self._refused = said, refused

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def is_over(self) -> bool:
        """Whether it has ended, without waiting."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> Ended:
        """Wait for its end."""
        said, refusal = _read(self._said), _read(self._refused)
        _, status = os.waitpid(self.pid, 0)
        return Ended(os.waitstatus_to_exitcode(status), said, refusal)

    def killed_after(self, seconds: float) -> Ended:
        """Wait for its end, but kill it after a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.is_over():
            time.sleep(min(left, 0.01))
        if not self.is_over():
            self.send(signal.SIGKILL)
        return self.wait()


def command(words: Sequence[str], prepare: Callable[[], object] = do_nothing) -> Child:
    """Start a command of art-oat, such as ``["train", "--data", "digits"]``."""
    return Child(lambda: _COMMAND.main([*words], standalone_mode=False), prepare)


def _run(call: Callable[[], object], prepare: Callable[[], object], refuse: int) -> None:
    """Call, in the process that was forked, and end it."""
    code = _UNEXPECTED
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    try:
        prepare()
        call()
        code = 0
    except typer.TyperException as refusal:
        message = getattr(refusal, "format_message", refusal.__str__)()
        os.write(refuse, message.encode())
        code = getattr(refusal, "exit_code", 1)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - what a user would see as a traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _read(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode(errors="replace")
