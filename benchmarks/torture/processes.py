"""Commands of art-oat in processes of their own, which are forked from one that has imported everything."""

import os
import pickle
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

# imported here, so that no process that is forked has to wait for it
import typer

import art_oat.evaluation.plots
import art_oat.experiment.options
import art_oat.experiment.run  # noqa: F401
from art_oat.cli import app

_COMMAND = typer.main.get_command(app)
_UNEXPECTED = 70
_ERROR = "Error: "
_AT_ONCE = 2
Value = TypeVar("Value")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; a signal's number, negative, where it was killed.
        said: All that it showed.
        refusal: The message of what it refused; empty if it refused nothing.
        value: What its function returned.
    """

    code: int
    said: str
    refusal: str = ""
    value: Any = None

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
        (said, say), (answered, answer) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.dup2(say, 1)
            os.dup2(say, 2)
            _run(call, prepare, answer)
        os.close(say)
        os.close(answer)
        self._said, self._answered = said, answered

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def is_over(self) -> bool:
        """Whether it has ended, without waiting."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> Ended:
        """Wait for its end."""
        said, answered = _read(self._said).decode(errors="replace"), _read(self._answered)
        refusal, value = pickle.loads(answered) if answered else ("", None)  # noqa: S301 - of this program itself
        _, status = os.waitpid(self.pid, 0)
        # of a wrong moment, not of wrong input, a command shows one such line
        errors = [line for line in said.splitlines() if line.startswith(_ERROR)]
        return Ended(os.waitstatus_to_exitcode(status), said, refusal or "\n".join(errors), value)

    def killed_after(self, seconds: float) -> Ended:
        """Wait for its end, but kill it after a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.is_over():
            time.sleep(min(left, 0.01))
        if not self.is_over():
            self.send(signal.SIGKILL)
        return self.wait()


def run_here(words: Sequence[str]) -> None:
    """Run a command of art-oat, such as ``["train", "--data", "digits"]``, in this process.

    Raises:
        SystemExit: With its exit code, if that is another than 0.
    """
    if code := _COMMAND.main([*words], standalone_mode=False):
        raise SystemExit(code)


def in_processes(tasks: Iterable[Callable[[], Value]]) -> Iterator[Value]:
    """Give what functions return, each called in a process of its own, two at a time.

    Raises:
        RuntimeError: If one fails.
    """
    running: deque[Child] = deque()
    waiting = iter(tasks)
    while True:
        while len(running) < _AT_ONCE and (task := next(waiting, None)) is not None:
            running.append(Child(task))
        if not running:
            return
        ended = running.popleft().wait()
        if ended.code:
            raise RuntimeError(f"a trial must come to an end, but: {ended.said}")
        yield ended.value


def _run(call: Callable[[], object], prepare: Callable[[], object], answer: int) -> None:
    """Call, in the process that was forked, and end it."""
    code, answered = _UNEXPECTED, ("", None)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    try:
        prepare()
        code, answered = 0, ("", call())
    except typer.TyperException as refusal:
        code, answered = getattr(refusal, "exit_code", 1), (message_of(refusal), None)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - what a user would see as a traceback
        traceback.print_exc()
        code = _UNEXPECTED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(answer, pickle.dumps(answered))
        os._exit(code)


def message_of(refusal: Exception) -> str:
    """Return what the command line shows of a refusal."""
    return str(getattr(refusal, "format_message", refusal.__str__)())


def _read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()
