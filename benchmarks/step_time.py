"""What a training step costs with each neighbor: AWP, TRADES, MART, one-step training, and its guard.

    python -m benchmarks.step_time                   # 10 minutes on one core, nothing else running
    python -m benchmarks.step_time --official DIR    # the published code's PGD-7 step beside, see official.py
    python -m benchmarks.step_time --smoke           # two rounds of a small network; writes nothing

All steps take the same random batch, in turns in one process (A B C A B C ...), the first round not counted; ratios are
those of medians over rounds. Processor seconds of one thread on a CPU, wall seconds on a GPU. Below each network, the
cost of an epoch of 4,000 images by one step, the guard's attacks on 128 held-out images included.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn, optim

from art_oat import (
    NFGSM,
    PGD,
    MARTLoss,
    OATClassifier,
    StratifiedSampling,
    TRADESLoss,
    WeightPerturbation,
    hybrid_loss,
    to_conditional,
)
from art_oat.attack import aim
from art_oat.randomness import borrowed_generators
from art_oat.training.guard import NB_HELD_OUT, Guard
from art_oat.training.step import Method, Step
from benchmarks import record
from benchmarks.official import Settings, contestants, plain_network

PUBLISHED, OURS, ONE_STEP, GUARD = "published code, PGD-7", "oat, PGD-7", "n-fgsm", "guard, once an epoch"
EPOCH = 4000
BATCH_SIZE = 64
_SHAPE, _NB_CLASSES = (3, 32, 32), 10


def classifier_of(network: nn.Module, *, is_channels_last: bool) -> OATClassifier:
    model = to_conditional(network)
    model = model.to(memory_format=torch.channels_last) if is_channels_last else model  # type: ignore[call-overload]
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return OATClassifier(model, nn.CrossEntropyLoss(), _SHAPE, _NB_CLASSES, optimizer, clip_values=(0, 1))


def own_steps(build: Callable[[], nn.Module]) -> dict[str, Step]:
    """Return a step of each kind, of a network of its own."""
    awp = {"weight_perturbation": WeightPerturbation()}
    kinds = {
        OURS: (PGD(), hybrid_loss, {}),
        "oat, PGD-7, awp": (PGD(), hybrid_loss, awp),
        "trades": (PGD(objective="kl"), TRADESLoss(), {}),
        "trades, awp": (PGD(objective="kl"), TRADESLoss(), awp),
        "mart": (PGD(), MARTLoss(), {}),
        ONE_STEP: (NFGSM(), hybrid_loss, {}),
        f"{ONE_STEP}, channels last": (NFGSM(), hybrid_loss, {}),
        f"{ONE_STEP}, channels last, bf16": (NFGSM(), hybrid_loss, {"precision": "bf16"}),
    }
    steps = {}
    for name, (attack, loss, options) in kinds.items():
        classifier = classifier_of(build(), is_channels_last="channels last" in name)
        method = Method(aim(attack, classifier), StratifiedSampling(), loss, **options)
        steps[name] = Step(classifier, method, torch.Generator().manual_seed(0))
        steps[name].start_epoch(1)
    return steps


def medians(actions: Mapping[str, Callable[[], object]], nb_rounds: int) -> dict[str, float]:
    """Return the median seconds of each action, in turns."""
    is_on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if is_on_gpu else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(nb_rounds + 1):
        for name, action in actions.items():
            started = clock()
            action()
            if is_on_gpu:
                torch.cuda.synchronize()
            seconds[name].append(clock() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def rows(network: str, folder: Path | None, nb_rounds: int) -> list[dict[str, object]]:
    """Time every step on one network, a name of ``official.py``."""
    settings = Settings(network=network, batch_size=BATCH_SIZE)
    with borrowed_generators(seed=0):
        steps: dict[str, Callable[[Tensor, Tensor], None]] = dict(own_steps(lambda: plain_network(settings)))
    if folder is not None:
        steps = {PUBLISHED: contestants(folder, settings, 0).published_step(settings, 0), **steps}
    classifier = steps[ONE_STEP].classifier  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(NB_HELD_OUT, *_SHAPE, generator=generator).to(classifier.device)
    y = torch.randint(_NB_CLASSES, (NB_HELD_OUT,), generator=generator).to(x.device)
    guard = Guard(classifier, aim(NFGSM(), classifier), aim(PGD(), classifier), x, y, 0)
    actions: dict[str, Callable[[], object]] = {
        name: lambda step=step: step(x[:BATCH_SIZE], y[:BATCH_SIZE]) for name, step in steps.items()
    }
    with borrowed_generators(x.device, 0):
        seconds = medians({**actions, GUARD: guard.has_collapsed}, nb_rounds)
    nb_steps = math.ceil(EPOCH / BATCH_SIZE)
    per_epoch = {name: nb_steps * value for name, value in seconds.items() if name != GUARD}
    per_epoch[f"{ONE_STEP}, with its guard"] = per_epoch[ONE_STEP] + seconds[GUARD]
    return [_row(network, name, value, per_epoch, nb_steps) for name, value in per_epoch.items()]


def _row(network: str, name: str, value: float, per_epoch: Mapping[str, float], nb_steps: int) -> dict[str, object]:
    row: dict[str, object] = {"network": network, "step": name, "seconds per step": f"{value / nb_steps:.4f}"}
    row["ratio to oat"] = f"{value / per_epoch[OURS]:.3f}"
    return row | ({"ratio to published": f"{value / per_epoch[PUBLISHED]:.3f}"} if PUBLISHED in per_epoch else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, metavar="DIR", help="checkout of the published code")
    parser.add_argument("--networks", nargs="+", default=["wrn-10-1", "wrn-16-2"], help="names of official.py")
    parser.add_argument("--nb-rounds", type=int, default=15)
    parser.add_argument("--smoke", action="store_true", help="two rounds of a small network, nothing written")
    given = parser.parse_args()
    networks, nb_rounds = (["wrn-10-1"], 1) if given.smoke else (given.networks, given.nb_rounds)
    table = [row for network in networks for row in rows(network, given.official, nb_rounds)]
    print(record.text(table))
    if not given.smoke:
        command = "python -m benchmarks.step_time" + " --official DIR" * (given.official is not None)
        clock = {"clock": "wall" if torch.cuda.is_available() else "processor", "batch": BATCH_SIZE}
        record.write(record.RESULTS / "step_time.csv", table, record.environment(command, [0]) | clock)


if __name__ == "__main__":
    main()
