"""Whether the tests pass with another Python, another torch, or other versions of what else is pinned; run by hand.

    python -m benchmarks.versions --python python3.12 --torch 2.9.1
    python -m benchmarks.versions --python python3.13 --pin numpy==2.3.5 --tests tests/layers tests/surgery

Makes an environment from ``constraints.txt`` with these pins changed, runs the tests that are not slow in it, and adds
a row to ``results/versions.csv`` and to ``docs/reliability.md``. Other builds of torch weigh gigabytes.
"""

import argparse
import datetime as dt
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from art_oat.storage import read_rows, write_rows
from benchmarks import pages
from benchmarks.tables import DOCS, RESULTS, Row, commit

ROOT = Path(__file__).parents[1]
TABLE = RESULTS / "versions.csv"
COLUMNS = ("date", "Python", "torch", "ART", "numpy", "tests", "outcome", "failures")
_ASK = """
import json, platform
from importlib.metadata import version
names = {"torch": "torch", "ART": "adversarial-robustness-toolbox", "numpy": "numpy"}
print(json.dumps({"Python": platform.python_version()} | {key: version(name) for key, name in names.items()}))
"""
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--python": {"default": sys.executable, "help": "interpreter of the environment"},
    "--torch": {"help": "its version, such as 2.9.1; torchvision follows"},
    "--pin": {"nargs": "+", "default": [], "metavar": "NAME==VERSION", "help": "further pins to change"},
    "--unpin": {"nargs": "+", "default": [], "metavar": "NAME", "help": "packages to take in any version"},
    "--tests": {"nargs": "+", "default": ["tests", "art_oat"], "help": "which tests; all if not given"},
    "--folder": {"type": Path, "help": "of the environment, which is kept there; a passing one if not given"},
}


def changed(constraints: str, pins: Sequence[str], unpinned: Sequence[str]) -> str:
    """Return constraints with some pins changed, and some dropped."""
    dropped = {_normal(name) for name in (*unpinned, *(pin.partition("==")[0] for pin in pins))}
    lines = [line for line in constraints.splitlines() if _normal(line.partition("==")[0]) not in dropped]
    return "\n".join([*lines, *pins, ""])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def outcome(report: str) -> Row:
    """Return what a JUnit report of pytest says: counts, and the failing tests by name."""
    suite = ET.fromstring(report).find("testsuite")  # noqa: S314 - our own pytest wrote it
    assert suite is not None
    failed = [it for it in suite.iter("testcase") if it.find("failure") is not None or it.find("error") is not None]
    nb_skipped = int(suite.attrib["skipped"])
    nb_passed = int(suite.attrib["tests"]) - len(failed) - nb_skipped
    names = sorted({f"{it.attrib['classname']}::{it.attrib['name'].partition('[')[0]}" for it in failed})
    text = f"{nb_passed} passed, {len(failed)} failed, {nb_skipped} skipped"
    return {"outcome": text, "failures": " ".join(names)}


def table() -> str:
    """Return what was tried in Markdown, the last first."""
    return pages.markdown(read_rows(TABLE)[::-1], COLUMNS, nb_words=len(COLUMNS))


def tried(given: argparse.Namespace, folder: Path) -> Row:
    """Make the environment in a folder, and run the tests in it."""
    torch = [] if given.torch is None else [f"torch=={given.torch}"]
    pins, unpinned = [*torch, *given.pin], [*given.unpin, *["torchvision"] * bool(torch)]
    constraints, report = folder / "constraints.txt", folder / "report.xml"
    _run([given.python, "-m", "venv", str(folder)])
    own = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    constraints.write_text(changed(own, pins, unpinned), encoding="utf-8")
    python = str(folder / "bin" / "python")
    versions: Row = {"date": f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}"}
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), "--editable", ".[dev]"]
    installed = _run(install)
    versions |= (
        _versions(python) if installed.returncode == 0 else {"Python": Path(given.python).name, "torch": given.torch}
    )
    versions |= {"tests": " ".join(given.tests)}
    if installed.returncode != 0:
        return {**versions, "outcome": "could not be installed", "failures": installed.stdout.strip().splitlines()[-1]}
    started = time.perf_counter()
    tests = [python, "-m", "pytest", "-m", "not slow", "-p", "no:cacheprovider", f"--junitxml={report}", *given.tests]
    done = _run(tests)
    found = outcome(report.read_text(encoding="utf-8")) if report.exists() else _crash(done)
    if report.exists() and done.returncode > 1:  # neither all passed nor some failed
        found["outcome"] = f"{found['outcome']}, then stopped"
    return {**versions, **found, "seconds": round(time.perf_counter() - started)}


def _versions(python: str) -> Row:
    found: Row = json.loads(_run([python, "-c", _ASK]).stdout)
    return found


def _crash(done: subprocess.CompletedProcess[str]) -> Row:
    """Name the test in which the interpreter died, as faulthandler tells."""
    found = re.findall(r"File \"[^\"]*?(tests/[^\"]*)\", line \d+ in (test_\w+)", done.stdout)
    names = " ".join(dict.fromkeys(f"{file}::{name}" for file, name in found))
    return {"outcome": f"the interpreter died ({done.returncode})", "failures": names or "not known which"}


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, check=False, **pipes)  # noqa: S603


def main() -> None:
    """Try the versions of the command line, and keep what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, keywords in OPTIONS.items():
        parser.add_argument(name, **keywords)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        row = tried(given, given.folder or Path(scratch))
    print(json.dumps(row, indent=2))
    places = {given.python: Path(given.python).name, str(given.folder): "FOLDER"}
    words = ["python", "-m", "benchmarks.versions", *(places.get(word, word) for word in sys.argv[1:])]
    row |= {"commit": commit(ROOT), "command": shlex.join(words)}
    write_rows(TABLE, [*(read_rows(TABLE) if TABLE.exists() else ()), row])
    pages.write_tables(DOCS / "reliability.md", {"versions": table()})


if __name__ == "__main__":
    main()
