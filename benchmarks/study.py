"""The runner of all studies: the command line, a folder for a smoke run, and what is shown and written in the end."""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from art_oat.storage import write_json
from benchmarks.tables import RESULTS, Rows, environment, text, write

Options = Mapping[str, Mapping[str, Any]]
"""Arguments of the command line, by name: keywords of ``add_argument``."""

PLACES = {"official": "DIR", "data_folder": "FOLDER", "out": "OUT", "runs": "RUNS"}
"""What a kept command has in place of folders that only one machine knows."""


@dataclass(frozen=True)
class Found:
    """What a study found.

    Attributes:
        tables: By name of the CSV in ``results``.
        seeds: Of all trainings.
        figures: By file, what draws it.
        key: Columns by which rows replace their like in a kept table, whose others stay; none to write it anew.
        is_kept: Whether all was asked for, so that results and figures are written.
    """

    tables: Mapping[str, Rows]
    seeds: Sequence[int] = ()
    figures: Mapping[Path, Callable[[Path], object]] = field(default_factory=dict)
    key: Sequence[str] = ()
    is_kept: bool = True


def data_options(runs: str, data: str = "digits") -> Options:
    """Return the options of studies that train on one data set or the other, and keep what is finished in a folder."""
    return {
        "--data": {"choices": ("cifar10", "digits"), "default": data},
        "--data-folder": {"help": "where CIFAR-10 lies"},
        "--runs": {"type": Path, "default": Path("runs") / runs, "help": "keeps what is finished"},
    }


def parser(description: str | None, options: Options) -> argparse.ArgumentParser:
    """Return a parser of what a study takes; all of them take ``--smoke``."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, keywords in options.items():
        result.add_argument(name, **keywords)
    result.add_argument("--smoke", action="store_true", help="as small as can be; writes nothing")
    return result


def command(study: str, given: argparse.Namespace, words: Sequence[str]) -> str:
    """Return the command that was given, without what only this machine knows."""
    places = {str(getattr(given, name)): place for name, place in PLACES.items() if getattr(given, name, None)}
    return shlex.join(["python", "-m", f"benchmarks.{study}", *(places.get(word, word) for word in words)])


def kept(path: Path, settings: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """Return what a file holds of the same settings, or make it; plain values alone.

    Raises:
        ValueError: If it holds what was made by other settings.
    """
    plain = json.loads(json.dumps(settings))
    if not path.exists():
        write_json(path, {"settings": plain, "found": make()})
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["settings"] != plain:
        raise ValueError(f"{path} must hold what the same settings give, but has others. Name another --runs.")
    return found["found"]


def run(
    study: str,
    description: str | None,
    measure: Callable[[argparse.Namespace], Found],
    options: Options,
    words: Sequence[str] | None = None,
) -> None:
    """Run a study from the command line.

    Args:
        study: Name of its module.
        description: For ``--help``.
        measure: Does the work; in a smoke run its ``runs`` are a folder that is gone afterwards.
        options: What the command line takes.
        words: The command line; None for that of the process.
    """
    words = sys.argv[1:] if words is None else words
    given = parser(description, options).parse_args(words)
    made_by = command(study, given, words)
    with tempfile.TemporaryDirectory() as scratch:
        if given.smoke:
            given.runs = Path(scratch)
        found = measure(given)
        for rows in found.tables.values():
            print(text(rows), end="\n\n", flush=True)
        if given.smoke or not found.is_kept:
            return
    for name, rows in found.tables.items():
        write(RESULTS / f"{name}.csv", rows, environment(made_by, found.seeds), found.key)
    for path, draw in found.figures.items():
        draw(path)
