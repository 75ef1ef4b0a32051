"""How studies take times: in turns within one process (A B A B ...), without the rounds that others disturbed."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm

SHORTEST = 0.2
"""Seconds that a turn takes at least: a quick action is repeated within its turn."""

MOST_OF_OTHERS = 0.1
"""Share of a core that other processes may take in a turn; a round in which they took more is dropped."""

_IDLE = (3, 4)  # columns of /proc/stat that are nobody's work: idle, waiting
_GUESTS = (8, 9)  # counted among the others already
_PATIENCE = 3
_SLOW = 5.0


@dataclass
class Turns:
    """Seconds of each action in each round that was kept.

    Attributes:
        seconds: By action, one value per round, of one call.
        nb_dropped: Rounds in which other processes took more than a tenth of a core.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    nb_dropped: int = 0

    @property
    def nb_rounds(self) -> int:
        return len(next(iter(self.seconds.values())))

    def median(self, name: str) -> float:
        """Return the median seconds of an action."""
        return statistics.median(self.seconds[name])

    def ratios(self, name: str, other: str) -> list[float]:
        """Return how many times as long one action took as another, round by round."""
        return [mine / theirs for mine, theirs in zip(self.seconds[name], self.seconds[other], strict=True)]

    def ratio(self, name: str, other: str) -> float:
        """Return the median of :meth:`ratios`."""
        return statistics.median(self.ratios(name, other))

    def spread(self, name: str, other: str) -> tuple[float, float]:
        """Return the quartiles of :meth:`ratios`."""
        ratios = self.ratios(name, other)
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return low, high


def take_turns(actions: Mapping[str, Callable[[], object]], nb_rounds: int, title: str = "") -> Turns:
    """Time actions in turns; a first round is not counted.

    Args:
        actions: By name; every one is repeated until its turn has taken :data:`SHORTEST` seconds.
        nb_rounds: How many undisturbed rounds are wanted. After three times as many there are fewer; if there is none,
            the disturbed ones count, and ``nb_dropped`` is as large as ``nb_rounds``.
        title: For the progress bar.
    """
    calls = {name: _calls_per_turn(action) for name, action in actions.items()}
    kept, disturbed = [], []
    with tqdm(total=nb_rounds, desc=title, leave=False) as bar:
        while len(kept) < nb_rounds and len(kept) + len(disturbed) < _PATIENCE * nb_rounds:
            turns = {name: _turn(action, calls[name]) for name, action in actions.items()}
            is_quiet = all(others <= MOST_OF_OTHERS for _, others in turns.values())
            (kept if is_quiet else disturbed).append({name: seconds for name, (seconds, _) in turns.items()})
            bar.update(is_quiet)
    rounds = kept or disturbed
    return Turns({name: [seconds[name] for seconds in rounds] for name in actions}, len(disturbed))


def _calls_per_turn(action: Callable[[], object]) -> int:
    """Warm up, and see how often an action fits into the shortest turn."""
    seconds, _ = _turn(action, 1)
    if seconds < _SLOW:  # the first call of a quick one may be the slowest by far
        seconds, _ = _turn(action, 1)
    return max(1, round(SHORTEST / seconds))


def _turn(action: Callable[[], object], nb_calls: int) -> tuple[float, float]:
    """Return the seconds of one call, and the cores that others took meanwhile."""
    others, started = _others(), time.perf_counter()
    for _ in range(nb_calls):
        action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - started
    return elapsed / nb_calls, (_others() - others) / elapsed


def _others() -> float:
    """Seconds of processor that were neither this process's nor its children's nor idle; time stolen counts, too.

    Where the system does not say (outside Linux), 0.
    """
    statistics_file = Path("/proc/stat")
    if not statistics_file.exists():
        return 0.0
    columns = [int(value) for value in statistics_file.read_text().splitlines()[0].split()[1:]]
    busy = sum(value for column, value in enumerate(columns) if column not in (*_IDLE, *_GUESTS))
    own = os.times()
    return busy / os.sysconf("SC_CLK_TCK") - (own.user + own.system + own.children_user + own.children_system)
