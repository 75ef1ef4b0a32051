"""What a training step costs with each neighbor: AWP, TRADES, MART, one-step training, and its guard.

    python -m benchmarks.step_time                   # 10 minutes on one core, nothing else running
    python -m benchmarks.step_time --official DIR    # the published code's PGD-7 step beside, see official.py

All steps take the same random batch, in turns, see ``timing.py``; ratios are medians over rounds. Below each network,
the cost of an epoch of 4,000 images by one step, the guard's attacks on 128 held-out images included.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from art_oat import NFGSM, PGD, MARTLoss, TRADESLoss, WeightPerturbation
from art_oat.attacks import bind
from art_oat.contexts import borrowed_generators
from art_oat.training.guard import NB_HELD_OUT, Guard
from benchmarks.official import Settings, contestants
from benchmarks.steps import StepSettings, batch, plain_network, step_of
from benchmarks.study import Found, run
from benchmarks.tables import Row
from benchmarks.timing import Turns, take_turns

PUBLISHED, OURS, ONE_STEP, GUARD = "published code, PGD-7", "oat, PGD-7", "n-fgsm", "guard, once an epoch"
EPOCH = 4000
BATCH_SIZE = 64
AWP = {"weight_perturbation": WeightPerturbation()}
TRADES = {"loss": TRADESLoss()}
STEPS = {
    OURS: StepSettings(),
    "oat, PGD-7, awp": StepSettings(method=AWP),
    "trades": StepSettings(PGD(objective="kl"), method=TRADES),
    "trades, awp": StepSettings(PGD(objective="kl"), method=TRADES | AWP),
    "mart": StepSettings(method={"loss": MARTLoss()}),
    ONE_STEP: StepSettings(NFGSM()),
    f"{ONE_STEP}, channels last": StepSettings(NFGSM(), is_channels_last=True),
    f"{ONE_STEP}, channels last, bf16": StepSettings(NFGSM(), is_channels_last=True, method={"precision": "bf16"}),
}


def rows(network: str, folder: Path | None, nb_rounds: int, batch_size: int) -> list[Row]:
    """Time every step on one network, a name of ``steps.py``."""
    with borrowed_generators(seed=0):
        own = {name: step_of(plain_network(network), settings) for name, settings in STEPS.items()}
    classifier = own[ONE_STEP].classifier
    held_out = batch(NB_HELD_OUT, classifier.device)
    x, y = (part[:batch_size] for part in held_out)
    guard = Guard(classifier, bind(NFGSM(), classifier), bind(PGD(), classifier), *held_out, 0)
    actions: dict[str, Callable[[], object]] = {}
    if folder is not None:
        settings = Settings(network=network, batch_size=batch_size)
        actions[PUBLISHED] = partial(contestants(folder, settings, 0).published_step(settings, 0), x, y)
    actions |= {name: partial(step, x, y) for name, step in own.items()}
    with borrowed_generators(x.device, 0):
        turns = take_turns(actions | {GUARD: guard.has_collapsed}, nb_rounds, network)
    found = [_row(network, name, turns, turns.median(name), turns.ratio(name, OURS)) for name in actions]
    guarded = turns.median(ONE_STEP) + turns.median(GUARD) / math.ceil(EPOCH / batch_size)
    return [*found, _row(network, f"{ONE_STEP}, with its guard", turns, guarded, guarded / turns.median(OURS))]


def _row(network: str, name: str, turns: Turns, seconds: float, ratio: float) -> Row:
    row: Row = {"network": network, "step": name, "seconds per step": f"{seconds:.4f}", "ratio to oat": f"{ratio:.3f}"}
    if PUBLISHED in turns.seconds:
        row["ratio to published"] = f"{ratio * turns.ratio(OURS, PUBLISHED):.3f}"
    return row | {"rounds": turns.nb_rounds, "rounds dropped": turns.nb_dropped, "batch": BATCH_SIZE}


def measure(given: argparse.Namespace) -> Found:
    networks, *size = (["wrn-10-1"], 1, 8) if given.smoke else (given.networks, given.nb_rounds, BATCH_SIZE)
    return Found({"step_time": [row for network in networks for row in rows(network, given.official, *size)]}, [0])


OPTIONS = {
    "--official": {"type": Path, "metavar": "DIR", "help": "checkout of the published code"},
    "--networks": {"nargs": "+", "default": ["wrn-10-1", "wrn-16-2"], "help": "names of steps.py"},
    "--nb-rounds": {"type": int, "default": 15},
}

if __name__ == "__main__":
    run("step_time", __doc__, measure, OPTIONS)
