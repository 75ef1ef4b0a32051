"""What a training step costs with each neighbor: AWP, TRADES, MART, one-step training, and its guard.

    python -m benchmarks.step_time                   # 10 minutes on one core, nothing else running
    python -m benchmarks.step_time --official DIR    # the published code's PGD-7 step beside, see official.py
    python -m benchmarks.step_time --smoke           # two rounds of a small network; writes nothing

All steps take the same random batch, in turns, see ``turns.py``; ratios are medians over rounds. Below each network,
the cost of an epoch of 4,000 images by one step, the guard's attacks on 128 held-out images included.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from art_oat import NFGSM, PGD, MARTLoss, TRADESLoss, WeightPerturbation
from art_oat.attacks import bind
from art_oat.contexts import borrowed_generators
from art_oat.training.guard import NB_HELD_OUT, Guard
from art_oat.training.step import Step
from benchmarks import record
from benchmarks.official import Settings, contestants, plain_network
from benchmarks.steps import StepSettings, batch, step_of
from benchmarks.timing import Turns, take_turns

PUBLISHED, OURS, ONE_STEP, GUARD = "published code, PGD-7", "oat, PGD-7", "n-fgsm", "guard, once an epoch"
EPOCH = 4000
BATCH_SIZE = 64


def own_steps(build: Callable[[], nn.Module]) -> dict[str, Step]:
    """Return a step of each kind, of a network of its own."""
    awp = {"weight_perturbation": WeightPerturbation()}
    trades = PGD(objective="kl")
    kinds = {
        OURS: StepSettings(),
        "oat, PGD-7, awp": StepSettings(method=awp),
        "trades": StepSettings(trades, method={"loss": TRADESLoss()}),
        "trades, awp": StepSettings(trades, method={"loss": TRADESLoss(), **awp}),
        "mart": StepSettings(method={"loss": MARTLoss()}),
        ONE_STEP: StepSettings(NFGSM()),
        f"{ONE_STEP}, channels last": StepSettings(NFGSM(), is_channels_last=True),
        f"{ONE_STEP}, channels last, bf16": StepSettings(NFGSM(), is_channels_last=True, method={"precision": "bf16"}),
    }
    return {name: step_of(build(), settings) for name, settings in kinds.items()}


def rows(network: str, folder: Path | None, nb_rounds: int, batch_size: int) -> list[dict[str, object]]:
    """Time every step on one network, a name of ``official.py``."""
    settings = Settings(network=network, batch_size=batch_size)
    with borrowed_generators(seed=0):
        own = own_steps(lambda: plain_network(settings))
    classifier = own[ONE_STEP].classifier
    held_out = batch(NB_HELD_OUT, classifier.device)
    x, y = (part[:batch_size] for part in held_out)
    guard = Guard(classifier, bind(NFGSM(), classifier), bind(PGD(), classifier), *held_out, 0)
    actions: dict[str, Callable[[], object]] = {}
    if folder is not None:
        actions[PUBLISHED] = partial(contestants(folder, settings, 0).published_step(settings, 0), x, y)
    actions |= {name: partial(step, x, y) for name, step in own.items()}
    with borrowed_generators(x.device, 0):
        turns = take_turns(actions | {GUARD: guard.has_collapsed}, nb_rounds, network)
    found = [_row(network, name, turns, turns.median(name), turns.ratio(name, OURS)) for name in actions]
    share = turns.median(GUARD) / math.ceil(EPOCH / batch_size)
    guarded = turns.median(ONE_STEP) + share
    return [*found, _row(network, f"{ONE_STEP}, with its guard", turns, guarded, guarded / turns.median(OURS))]


def _row(network: str, name: str, turns: Turns, seconds: float, ratio: float) -> dict[str, object]:
    row: dict[str, object] = {"network": network, "step": name, "seconds per step": f"{seconds:.4f}"}
    row["ratio to oat"] = f"{ratio:.3f}"
    if PUBLISHED in turns.seconds:
        row["ratio to published"] = f"{ratio * turns.ratio(OURS, PUBLISHED):.3f}"
    return row | {"rounds": turns.nb_rounds, "rounds dropped": turns.nb_dropped}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, metavar="DIR", help="checkout of the published code")
    parser.add_argument("--networks", nargs="+", default=["wrn-10-1", "wrn-16-2"], help="names of official.py")
    parser.add_argument("--nb-rounds", type=int, default=15)
    parser.add_argument("--smoke", action="store_true", help="two rounds of a small network, nothing written")
    given = parser.parse_args()
    networks, *size = (["wrn-10-1"], 1, 8) if given.smoke else (given.networks, given.nb_rounds, BATCH_SIZE)
    table = [row for network in networks for row in rows(network, given.official, *size)]
    print(record.text(table))
    if not given.smoke:
        command = "python -m benchmarks.step_time" + " --official DIR" * (given.official is not None)
        record.write(record.RESULTS / "step_time.csv", table, record.environment(command, [0]) | {"batch": BATCH_SIZE})


if __name__ == "__main__":
    main()
