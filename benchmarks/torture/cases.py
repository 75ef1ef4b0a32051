"""What is tortured: a command, the folder that it starts in, and what it must come to."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from art_oat.lock import LOCK
from art_oat.storage import digest, read_rows
from benchmarks.torture.processes import Child, Ended, do_nothing, run_here

FOLDER = "FOLDER"
"""What stands for the folder in the words of a command."""
TRAIN = (
    "train --data digits --network small-4-8 --nb-train 200 --nb-epochs 3 --lambdas 0 1 --attack pgd-1 --eps 0.2 "
    "--out FOLDER"
)
EVALUATE = "evaluate FOLDER --attack pgd-1 --nb-robust 40 --shard-size 10 --nb-workers 1"
_TIMES = {"training.csv": ("seconds", "validation_seconds"), "tradeoff.csv": ("latency", "sha256")}
"""Columns that say how long something took, or depend on that."""


@dataclass(frozen=True)
class Case:
    """A command, and where it starts.

    Attributes:
        name: For the table.
        words: The command, with ``FOLDER`` in it.
        before: Makes a folder what it is before; is given its path.
    """

    name: str
    words: str
    before: Callable[[Path], object]

    def start(self, folder: Path, prepare: Callable[[], object] = do_nothing) -> Child:
        """Start the command in a folder."""
        return Child(partial(self.run_here, folder), prepare)

    def run_here(self, folder: Path) -> None:
        """Run the command in a folder, and in this process."""
        run_here([str(folder) if word == FOLDER else word for word in self.words.split()])

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Have a folder as it is before, for a while."""
        with scratch_folder() as scratch:
            folder = Path(scratch) / "run"
            if (kept := _begun(self)).exists():
                shutil.copytree(kept, folder)
            yield folder

    @functools.cached_property
    def expected(self) -> dict[str, Any]:
        """What the folder holds after the command, undisturbed."""
        with self.folder() as folder:
            complete(self, folder)
            return content(folder)

    def fault_of(self, folder: Path) -> str:
        """Say in what a folder differs from what must come out; empty if it does not."""
        found, expected = content(folder), self.expected
        names = sorted(name for name in found | expected if found.get(name) != expected.get(name))
        return f"other than undisturbed: {', '.join(names)}" if names else ""


def complete(case: Case, folder: Path) -> Ended:
    """Let a command come to its end.

    Raises:
        RuntimeError: If it fails.
    """
    ended = case.start(folder).wait()
    if ended.code:
        raise RuntimeError(f"{case.words} must work undisturbed, but: {ended}")
    return ended


def content(folder: Path) -> dict[str, Any]:
    """Return what lies in a folder by name, without its lock and without how long things took."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: _timeless(path) for name, path in found.items() if name != LOCK}


def _timeless(path: Path) -> Any:
    if path.name in _TIMES:
        return [{name: it for name, it in row.items() if name not in _TIMES[path.name]} for row in read_rows(path)]
    if path.name == "run.json":
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept.pop("sha256", None)  # of all that follows
        kept.get("measurement", {}).pop("sha256", None)  # of files that say how long something took
        return kept
    return digest(path)


def scratch_folder() -> TemporaryDirectory[str]:
    """Return a folder in memory where there is such a thing, as fsync takes no time there: no power cut is tried."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder below it has a name of its own
    return TemporaryDirectory(prefix="torture-", dir=memory if memory.is_dir() else None)


@functools.cache
def _begun(case: Case) -> Path:
    """Return a folder as it is before a case; it is made once."""
    scratch = scratch_folder()
    _KEPT.append(scratch)
    folder = Path(scratch.name) / "run"
    case.before(folder)
    return folder


_KEPT: list[TemporaryDirectory[str]] = []
"""Folders that go when this process ends."""


def _trained(folder: Path) -> None:
    complete(TRAINING, folder)


def _of_another(folder: Path) -> None:
    """Have another training in a folder, measured."""
    complete(Case("another", f"{TRAIN} --seed 1", do_nothing_with), folder)
    complete(MEASURING, folder)


def do_nothing_with(folder: Path) -> None:
    """Leave a folder missing."""
    del folder


TRAINING = Case("art-oat train", TRAIN, do_nothing_with)
_SHORT = TRAIN.replace("--nb-epochs 3", "--nb-epochs 2")
STEPPED = Case("art-oat train --checkpoint-steps 2", f"{_SHORT} --batch-size 32 --checkpoint-steps 2", do_nothing_with)
REPLACING = Case("art-oat train --overwrite, over another", f"{_SHORT} --overwrite", _of_another)
MEASURING = Case("art-oat evaluate", EVALUATE, _trained)
CASES = (TRAINING, STEPPED, REPLACING, MEASURING)
