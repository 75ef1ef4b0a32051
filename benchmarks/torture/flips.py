"""One bit of a file flipped, or its end cut off, and what a reader of it says."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import typer

from art_oat import TradeoffCurve, load_model
from art_oat.evaluation import TransferMatrix
from art_oat.lock import OWNER, Held, Owner
from art_oat.model_io import weights_digest
from art_oat.storage import write_json
from benchmarks.torture.cases import MEASURING, TRAINING, Case, complete, content, scratch_folder
from benchmarks.torture.deaths import died_before
from benchmarks.torture.processes import in_processes, message_of
from benchmarks.torture.tally import Tally

FLIPPED, CUT = "a flipped bit", "cut off at a random byte"
Damage = Callable[[bytes, np.random.Generator], bytes]
_BATCH = 10
_REFUSALS = (ValueError, OSError, RuntimeError, typer.TyperException)


def flipped(whole: bytes, random: np.random.Generator) -> bytes:
    """Return bytes with one bit of them flipped."""
    place, bit = int(random.integers(len(whole))), int(random.integers(8))
    return whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]


def cut(whole: bytes, random: np.random.Generator) -> bytes:
    """Return the beginning of bytes, without at least one of them."""
    return whole[: int(random.integers(len(whole)))]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        pattern: Of its path in a folder; also for the table.
        reader: What reads it, for the table.
        make: Makes a folder that holds one.
        read: What a reader in that folder finds; an exception is a refusal.
        is_folder_named: Whether a refusal may name the folder instead, which holds nothing but such files.
    """

    pattern: str
    reader: str
    make: Callable[[Path], object]
    read: Callable[[Path], Any]
    is_folder_named: bool = False

    def path(self, folder: Path) -> Path:
        return next(folder.glob(self.pattern))


def flips(nb_flips: int, nb_cuts: int, seed: int) -> Iterator[Tally]:
    """Damage each kind of file so often, at random places."""
    for kind in KINDS:
        with scratch_folder() as scratch:
            whole = Path(scratch) / "whole"
            kind.make(whole)
            for name, damage, count in ((FLIPPED, flipped, nb_flips), (CUT, cut, nb_cuts)):
                tally = Tally(name, f"{Path(kind.pattern).name}, read by {kind.reader}")
                batches = [range(first, min(first + _BATCH, count)) for first in range(0, count, _BATCH)]
                for found in in_processes(partial(_tried, kind, whole, damage, seed, batch) for batch in batches):
                    for is_refused, fault in found:
                        tally.add_refusal(fault) if is_refused else tally.add(fault)
                        yield tally


def _tried(kind: Kind, whole: Path, damage: Damage, seed: int, numbers: Sequence[int]) -> list[tuple[bool, str]]:
    """Damage a file again and again; say whether that was refused, and what was wrong with that."""
    expected, outcomes = _read(kind, whole, lambda content: content), []
    for number in numbers:
        random = np.random.default_rng([seed, *kind.pattern.encode(), number])
        found = _read(kind, whole, lambda content, random=random: damage(content, random))  # type: ignore[misc]
        if isinstance(found, Exception):
            outcomes.append((True, _refusal_fault(found, kind, whole)))
        else:
            outcomes.append((False, "" if found == expected else "read as something else, without a word"))
    return outcomes


def _read(kind: Kind, whole: Path, damage: Callable[[bytes], bytes]) -> Any:
    """Return what a reader makes of a damaged copy of a folder, or what it raises."""
    with scratch_folder() as scratch, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        folder = shutil.copytree(whole, Path(scratch) / "run")
        path = kind.path(folder)
        path.write_bytes(damage(path.read_bytes()))
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                return kind.read(folder)
        except Exception as error:  # noqa: BLE001 - judged by what it says
            return error


def _refusal_fault(error: Exception, kind: Kind, whole: Path) -> str:
    """Say what is wrong with a refusal: another kind of error, several lines, or no name of the file."""
    path, message = kind.path(whole), message_of(error)
    names = [path.name] + ([path.parent.relative_to(whole).name or "run"] if kind.is_folder_named else [])
    is_well = isinstance(error, _REFUSALS) and "\n" not in message and any(name in message for name in names)
    return "" if is_well else f"{type(error).__name__}: {message}"


def _loaded(folder: Path) -> Any:
    model = load_model(folder)
    return weights_digest(model), model.conversion, model.default_point, model.is_lam_named


def _after(*cases: Case) -> Callable[[Path], Any]:
    """Return what reads by commands, and finds what they leave in the folder."""

    def run(folder: Path) -> Any:
        for case in cases:
            case.run_here(folder)
        return content(folder)

    return run


def _finished(folder: Path) -> None:
    for case in (TRAINING, MEASURING):
        complete(case, folder)


def _cut_training(folder: Path) -> None:
    """Have a training with the state after its second epoch."""
    died_before(TRAINING, folder, _nth_rename("training-state", 3))


def _cut_measuring(folder: Path) -> None:
    """Have a measurement of which three shards of four are done."""
    complete(TRAINING, folder)
    died_before(MEASURING, folder, _nth_rename("shard-00003", 1))


def _nth_rename(name: str, count: int) -> Callable[[int, str, str], bool]:
    heard: list[str] = []

    def is_it(_: int, operation: str, path: str) -> bool:
        if operation == "os.rename" and name in path:
            heard.append(path)
        return len(heard) == count

    return is_it


def _transfer_matrix(folder: Path) -> None:
    right = np.random.default_rng(0).random((4, 2, 20)) < 0.5  # noqa: PLR2004
    TransferMatrix((0.0, 1.0), right, eps=0.1).to_csv(folder / "transfer.csv")


def _matrix(folder: Path) -> Any:
    matrix = TransferMatrix.from_csv(folder / "transfer.csv")
    return {name: str(value) for name, value in vars(matrix).items()}


_HOLDER = Owner("machine", 4711, "art-oat train", "2020-01-01 00:00:00", "0123456789abcdef")


def _marked(folder: Path) -> None:
    write_json(folder / OWNER, asdict(_HOLDER))


def _held(folder: Path) -> Any:
    """What the holder of a folder notices before it writes."""
    held = Held(folder, folder / OWNER, _HOLDER)
    try:
        held.check()
    finally:
        held.release()


KINDS = (
    Kind("model.safetensors", "load_model", _finished, _loaded),
    Kind("config.json", "load_model", _finished, _loaded),
    Kind("training-state.pt", "art-oat train", _cut_training, _after(TRAINING)),
    Kind("run.json", "art-oat train, evaluate", _finished, _after(TRAINING, MEASURING)),
    Kind("evaluation-*/evaluation.json", "art-oat evaluate", _cut_measuring, _after(MEASURING), is_folder_named=True),
    Kind("evaluation-*/shard-00001.npz", "art-oat evaluate", _cut_measuring, _after(MEASURING)),
    Kind("tradeoff.csv", "art-oat evaluate", _finished, _after(MEASURING)),
    Kind("samples.csv", "art-oat evaluate", _finished, _after(MEASURING)),
    Kind("tradeoff.csv", "TradeoffCurve.from_csv", _finished, lambda it: TradeoffCurve.from_csv(it / "tradeoff.csv")),
    Kind("transfer.csv", "TransferMatrix.from_csv", _transfer_matrix, _matrix),
    Kind(OWNER, "the holder of the folder", _marked, _held, is_folder_named=True),
)
