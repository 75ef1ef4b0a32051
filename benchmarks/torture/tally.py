"""What came of the trials of one kind: right, refused, or a fault, which there must not be."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.tables import Row
from benchmarks.torture.processes import Ended

REFUSED = (1, 2)
"""Exit codes of what is said in one message, see ``art-oat --help``: of a wrong moment, and of wrong input."""


@dataclass
class Tally:
    """Counts trials.

    Attributes:
        kind: What is done to it.
        of: To what.
        nb_right: Trials with the result of an undisturbed run, or with an equal content.
        nb_refused: Trials that were refused in one line that names the file or the holder.
        faults: What went wrong in the others.
    """

    kind: str
    of: str
    nb_right: int = 0
    nb_refused: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, fault: str, count: int = 1) -> None:
        """Count trials that came out right, or with a fault."""
        if fault:
            self.faults += [fault] * count
        else:
            self.nb_right += count

    def add_refusal(self, fault: str) -> None:
        """Count a trial that was refused, well or with a fault."""
        if fault:
            self.faults.append(fault)
        else:
            self.nb_refused += 1

    def row(self) -> Row:
        nb_trials = self.nb_right + self.nb_refused + len(self.faults)
        counts = {"right": self.nb_right, "refused": self.nb_refused, "faults": len(self.faults)}
        return {"what": self.kind, "of": self.of, "trials": nb_trials, **counts}


def refusal_fault(ended: Ended, names: Iterable[str | Path]) -> str:
    """Say why a process did not refuse in one line that holds one of these names; empty if it did."""
    if ended.code not in REFUSED or not ended.refusal:
        return f"no refusal, but {ended}"
    if "\n" in ended.refusal:
        return f"several lines: {ended.refusal!r}"
    return "" if any(str(name) in ended.refusal for name in names) else f"names no file: {ended.refusal}"


def fault_lines(tallies: Sequence[Tally]) -> list[str]:
    """Say every fault once."""
    return list(dict.fromkeys(f"{it.kind}, {it.of}: {fault}" for it in tallies for fault in it.faults))
