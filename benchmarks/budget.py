"""How much time a command has: what fits into the rest of it, and an end that comes by itself."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SHORTEST = 1e-3  # an alarm in no time would be none


class OutOfTime(BaseException):
    """The time is up; like an interrupt from the keyboard, it passes by whatever handles errors."""


class Budget:
    """A number of seconds that starts to run when it is made; the clock tells seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.end = clock() + seconds

    def left(self) -> float:
        """Return the seconds that are left, 0 where there are none."""
        return max(self.end - self.clock(), 0.0)

    def fits(self, seconds: float) -> bool:
        """Whether something that takes so long ends in time."""
        return seconds < self.left()

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Raise :class:`OutOfTime` in the block when the time is up; in the main thread alone.

        It is raised between two instructions of Python. So what is written whole or not at all stays whole.
        """

        def stop(*_: Any) -> None:
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, stop)
        alarm = signal.setitimer(signal.ITIMER_REAL, max(self.left(), _SHORTEST))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            signal.setitimer(signal.ITIMER_REAL, *alarm)
