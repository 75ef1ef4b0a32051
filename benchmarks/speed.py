"""What a conditional network costs: training steps, predictions, attacks and imports, each against the usual way.

    python -m benchmarks.speed --official DIR           # all rows: 20 minutes on two cores, nothing else running
    python -m benchmarks.speed --only predict fold      # rows whose name begins so; the others stay as they were
    python -m benchmarks.speed --official DIR --check   # fails from 10% above what docs/results.md promises on

Both sides of a row run in turns in one process (A B A B ...), see ``timing.py``: the ratio is the median over rounds of
their times; rounds in which another process took more than a tenth of a core are dropped and counted. Both have torch's
default number of threads. Rows against the published code need ``--official``, a checkout of it, see ``official.py``;
without it they are left out. "channels last" is the memory layout of our side alone: a user chooses it, as
``model.to(memory_format=torch.channels_last)``; the other side runs as its users run it.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from art_oat import NFGSM
from art_oat.contexts import borrowed_generators
from benchmarks import pairs
from benchmarks.pairs import LAST, Given, Pair
from benchmarks.steps import StepSettings
from benchmarks.study import Found, run
from benchmarks.tables import Row, text
from benchmarks.timing import take_turns

TOLERANCE = 1.1


@dataclass(frozen=True)
class Comparison:
    """One comparison.

    Attributes:
        name: What is timed; words from general to special.
        against: With what.
        goal: Of the ratio of times, as set before anything was measured.
        promise: Of docs/results.md, as measured; ``--check`` allows a tenth more.
        pair: Builds both sides.
        nb_rounds: How many rounds are wanted.
    """

    name: str
    against: str
    goal: float | None
    promise: float
    pair: Callable[[Given], Pair]
    nb_rounds: int = 9

    @property
    def is_against_published(self) -> bool:
        return self.against == PUBLISHED


PUBLISHED = "the published code's step"
BF16 = replace(LAST, method={"precision": "bf16"})
BF16_ATTACK = replace(LAST, method={"attack_precision": "bf16"})


def published(
    what: str, goal: float | None, promise: float, nb_samples: int, settings: StepSettings = LAST
) -> Comparison:
    """Return a row against the published step; ``what`` begins with the network."""
    pair = pairs.against_published(what.split(",", maxsplit=1)[0], nb_samples, settings)
    return Comparison(f"step {what}", PUBLISHED, goal, promise, pair)


def trainer(name: str, promise: float, pair: Callable[[Given], Pair]) -> Comparison:
    """Return a row against one of ART's trainers."""
    return Comparison("train wrn-16-2, channels last", f"ART's {name} trainer", promise, promise, pair, 5)


ART = "ART's plain classifier"
ONE_THREAD = "one thread"
UNCOMPILED = "the same step, not compiled"
PLAIN = "a step of plain adversarial training"
ROWS = (
    published("wrn-16-2", None, 0.88, 64, StepSettings()),
    published("wrn-16-2, channels last", 0.72, 0.82, 64),
    published("resnet-34, channels last", 0.85, 0.98, 16),
    published("wrn-16-8, channels last", 0.92, 0.95, 12),
    published("wrn-16-2, attack in bf16", None, 0.6, 64, BF16_ATTACK),
    published("wrn-16-2, bf16", 0.45, 0.5, 64, BF16),
    published("resnet-34, bf16", 0.6, 0.6, 16, BF16),
    published("wrn-16-2, n-fgsm, bf16", 0.22, 0.27, 64, replace(BF16, attack=NFGSM())),
    Comparison("step convnext", PLAIN, 1.05, 1.05, pairs.against_plain("convnext"), 9),
    Comparison("step vit", PLAIN, 1.05, 1.05, pairs.against_plain("vit"), 9),
    Comparison("step wrn-16-2, compiled attack", UNCOMPILED, None, 1.0, pairs.compiled_attack(pairs.wide)),
    trainer("Madry", 0.63, pairs.against_art(pairs.madry)),
    trainer("TRADES", 0.54, pairs.against_art(pairs.trades)),
    trainer("AWP", 0.55, pairs.against_art(pairs.awp)),
    Comparison("step of three widths", "a step of each of three networks", 0.95, 1.05, pairs.widths_together, 7),
    Comparison("predict, batch 128", ART, 1.0, 1.0, pairs.predictions(128), 15),
    Comparison("predict, batch 1", ART, 1.05, 1.1, pairs.predictions(1), 15),
    Comparison("predict by 16 threads, wrn-16-2, batch 1", ONE_THREAD, 1.0, 1.0, pairs.at_once("wrn-16-2"), 15),
    Comparison("predict by 16 threads, small, batch 1", ONE_THREAD, 1.0, 1.0, pairs.at_once("small-16-32-64"), 15),
    Comparison("predict first at a point, batch 32", ART, 1.5, 1.1, pairs.first_prediction),
    Comparison("ART's PGD on at(lam)", "ART's PGD on a plain classifier", 0.75, 0.75, pairs.attacks),
    Comparison("fold", "the plain network", 1.0, 1.0, pairs.folded, 15),
    Comparison("loop of a training on digits", "its steps alone", 1.05, 1.05, pairs.loops, 1),
    Comparison("import", "import of art and torchattacks", 1.1, 1.13, pairs.imports),
)


def measured(row: Comparison, given: Given) -> Row:
    """Time one row."""
    with borrowed_generators(seed=0):
        own, other = row.pair(given)
        turns = take_turns({"own": own, "other": other}, 1 if given.is_smoke else row.nb_rounds, row.name)
    low, high = turns.spread("own", "other")
    return {
        "what": row.name,
        "against": row.against,
        "ratio": f"{turns.ratio('own', 'other'):.3f}",
        "quartiles": f"{low:.3f} to {high:.3f}",
        "goal": "" if row.goal is None else row.goal,
        "promise": row.promise,
        "seconds": f"{turns.median('own'):.4g}",
        "seconds of the other": f"{turns.median('other'):.4g}",
        "rounds": turns.nb_rounds,
        "rounds dropped": turns.nb_dropped,
    }


def broken(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which ratios lie above what was promised, plus a tenth."""
    return [
        f"{row['what']} must take at most {row['promise']} times as long as {row['against']}, plus 10%, took "
        f"{row['ratio']}."
        for row in table
        if float(row["ratio"]) > TOLERANCE * float(row["promise"])
    ]


def measure(given: argparse.Namespace) -> Found:
    rows = [row for row in ROWS if given.official is not None or not row.is_against_published]
    if given.only:
        rows = [row for row in rows if row.name.startswith(tuple(given.only))]
    if not rows:
        sys.exit(f"--only must begin the name of a row that can be measured: {', '.join(row.name for row in ROWS)}.")
    if given.official is None:
        print("Rows against the published code are left out: they need --official DIR.")
    table = []
    for row in rows:
        table.append(measured(row, Given(given.official, given.smoke)))
        print(text(table[-1:]).splitlines()[-1], flush=True)
    if given.check and (faults := broken(table)):
        sys.exit("\n".join(faults))
    return Found({"speed": table}, [0], key=("what", "against"), is_kept=not given.check)


OPTIONS = {
    "--official": {"type": Path, "metavar": "DIR", "help": "checkout of the published code"},
    "--only": {"nargs": "+", "metavar": "NAME", "help": "rows whose name begins so; the others stay as they were"},
    "--check": {"action": "store_true", "help": "fail where a promise is broken; nothing is written"},
}


def main(words: Sequence[str] | None = None) -> None:
    run("speed", __doc__, measure, OPTIONS, words)


if __name__ == "__main__":
    main()
