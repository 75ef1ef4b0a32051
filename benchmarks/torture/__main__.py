"""Whether anything is lost or goes unnoticed: kills, deaths, flipped bits, a full disk, two processes in one folder.

    python -m benchmarks.torture                              # all of it, minutes on two cores
    python -m benchmarks.torture --only deaths --every 5      # parts of it

Networks are tiny, data are scikit-learn's digits, and processes are forked from one that has imported all, so that
moments are of work and not of imports. A trial is right where its result is that of an undisturbed run, bit by bit, but
for how long things took; or it is refused, in one line that names the file or the holder. Anything else is a fault:
faults are listed, nothing is written, and the command fails.
"""

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, Mapping

import torch
from tqdm.auto import tqdm

from benchmarks.study import Found, run
from benchmarks.tables import DOCS
from benchmarks.torture.deaths import deaths
from benchmarks.torture.flips import flips
from benchmarks.torture.full import full
from benchmarks.torture.kills import kills
from benchmarks.torture.orphans import orphans
from benchmarks.torture.page import write_table
from benchmarks.torture.pairs import pairs
from benchmarks.torture.tally import Tally, fault_lines

PARTS: Mapping[str, Callable[[argparse.Namespace], Iterator[Tally]]] = {
    "kills": lambda given: kills(given.nb_kills, given.seed),
    "deaths": lambda given: deaths(given.every),
    "flips": lambda given: flips(given.nb_flips, -(-given.nb_flips // 5), given.seed),
    "full": lambda given: full(given.every),
    "pairs": lambda given: pairs(given.nb_moments, given.seed, given.commands),
    "orphans": lambda given: orphans(given.nb_moments, given.seed),
}
_SMOKE = {"nb_kills": 2, "every": 120, "nb_flips": 2, "nb_moments": 1}

_COMMANDS = ("train", "evaluate", "demo")

OPTIONS = {
    "--only": {"nargs": "+", "choices": tuple(PARTS), "default": tuple(PARTS), "help": "parts; all if not given"},
    "--nb-kills": {"type": int, "default": 20, "help": "kills of each command"},
    "--nb-flips": {"type": int, "default": 100, "help": "flipped bits of each kind of file; a fifth as many cuts"},
    "--every": {"type": int, "default": 1, "help": "die before, or have no room from, every so-many-th file operation"},
    "--nb-moments": {"type": int, "default": 5, "help": "at which each pair meets, and parents of workers die"},
    "--commands": {"nargs": "+", "choices": _COMMANDS, "default": _COMMANDS, "help": "of which each pair meets"},
    "--seed": {"type": int, "default": 0, "help": "of moments and bits"},
}


def measure(given: argparse.Namespace) -> Found:
    """Torture, part by part."""
    tqdm.monitor_interval = 0  # a thread that would be forked
    torch.set_num_threads(1)
    gc.freeze()  # pages that are not touched are not copied for each process
    if given.smoke:
        vars(given).update(_SMOKE)
    tallies: dict[tuple[str, str], Tally] = {}
    for name in given.only:
        with tqdm(desc=name, unit="trial") as bar:
            for tally in PARTS[name](given):
                tallies[tally.kind, tally.of] = tally
                bar.set_postfix_str(tally.of, refresh=False)
                bar.update()
    rows = [tally.row() for tally in tallies.values()]
    if faults := fault_lines([*tallies.values()]):
        sys.exit("\n".join(faults))
    return Found({"torture": rows}, [given.seed], {DOCS / "reliability.md": write_table}, key=("what", "of"))


if __name__ == "__main__":
    run("torture", __doc__, measure, OPTIONS)
