"""What a training step costs: as the work grows, in memory, and beside what the machine's convolutions could do.

    python -m benchmarks.scaling             # all of it: 11 minutes on two cores, nothing else running
    python -m benchmarks.scaling growth      # 6 minutes; likewise memory (2 minutes), roofline (3 minutes)

A step is one of PGD-7 on random images, in float32 with channels last (first over widths), on WRN-16-2 with dropout 0.3
at batch 64, where nothing else is said.

``growth``: seconds, FLOPs and memory over batch, lams, widths (all in every step, the widest always among them) and
depth. "exponent" is the slope in log-log: 1 in proportion, 0 where the size does not matter. Then what bends the line:
of the straight line of least relative residuals, where it starts (as a share of the cost at the smallest size), and by
how much, and where, the cost is farthest from it. What bends as GFLOP do is the arithmetic: of k lams one is 0, for
which nothing is attacked; each further width is narrower; the stem has no depth.

``memory``: MB (1e6 bytes) of tensors. "held" lies there between two steps: weights, gradients, the optimizer's state,
what is kept to go back to, images. "peak" is the most at any time of a step, "above" what of it is not held: on a
processor added up from all allocations that torch's profiler sees, on a GPU the allocator's own account. A step drops
the gradients of the one before, early or late, and "above" depends on when; "activations" is the same with gradients
left in place. The system agrees: VmHWM of a process of its own rose by 186.8 MB for 186.8 above (oat, WRN-16-2) and by
187.0 for 186.8 (plain), after writing 5 to /proc/self/clear_refs; with MALLOC_MMAP_THRESHOLD_=65536, without which
malloc keeps what was freed, and little shows.

``roofline``: the convolutions of a step are taken again alone, each as often and on tensors of the same shape, layout
and type: this is the machine's rate, in all and by kind. "fraction" is FLOPs / (seconds * that rate), the share of a
step that its convolutions would take; a little too small, as equal ones take the same tensors, which caches may hold.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from art.defences.trainer import AdversarialTrainerMadryPGD
from torch import nn
from torch.nn import functional as F

from art_oat import PGD
from art_oat.contexts import borrowed_generators
from benchmarks.cost import DEVICE, Action, Arithmetic, arithmetic_of, gradients_in_place, memory_of
from benchmarks.steps import StepSettings, batch, plain_classifier, plain_network, sgd, step_of
from benchmarks.study import Found, run
from benchmarks.tables import Row
from benchmarks.timing import take_turns

Rows = list[Row]

PLAIN, PRODUCT = "plain PGD-AT", "a matrix product"
WIDTHS = (0.25, 0.5, 0.75, 1.0)
PRODUCT_SIZE = 2048


@dataclass(frozen=True)
class Subject:
    """A step to measure: its network, by a name of ``steps.py``, the size of its batch, and how it is done."""

    network: str
    nb_samples: int
    settings: StepSettings

    def plain_network(self) -> nn.Module:
        network = plain_network(self.network).to(DEVICE)
        layout = torch.channels_last if self.settings.is_channels_last else torch.contiguous_format
        return network.to(memory_format=layout)  # type: ignore[call-overload]

    def action(self) -> Action:
        return partial(step_of(self.plain_network(), self.settings), *batch(self.nb_samples, DEVICE))


LAST = StepSettings(is_channels_last=True)
SMALL, WIDE = Subject("wrn-10-1", 6, LAST), Subject("wrn-16-2", 64, LAST)
RESNET, WIDEST = Subject("resnet-34", 16, LAST), Subject("wrn-16-8", 12, LAST)


def plain_action(subject: Subject) -> Action:
    """Train the plain network on the attacked batch alone, as Madry et al. 2018 do; only PGD itself is ours.

    As theirs and ART's do, this drops the gradients of the step before after the attack.
    """
    network, (x, y) = subject.plain_network(), batch(subject.nb_samples, DEVICE)
    x = x.contiguous(memory_format=torch.channels_last)
    optimizer = sgd(network)
    attack = PGD()

    def step() -> None:
        x_adv = attack(network.eval(), x, y, clip_values=(0, 1))
        optimizer.zero_grad()
        F.cross_entropy(network.train()(x_adv), y).backward()
        optimizer.step()

    return step


def art_action(subject: Subject) -> Action:
    """Fit one batch by ART's Madry trainer."""
    network, (x, y) = subject.plain_network(), (part.numpy() for part in batch(subject.nb_samples))
    classifier = plain_classifier(network)
    attack = PGD()
    steps = {"eps": attack.eps, "eps_step": attack.step, "max_iter": attack.nb_steps}
    return partial(AdversarialTrainerMadryPGD(classifier, 1, subject.nb_samples, **steps).fit, x, y)


def memory(is_smoke: bool) -> dict[str, Rows]:
    """Compare what our step needs with adversarial training of the plain network."""
    return {"scaling_memory": [row for it in ([SMALL] if is_smoke else [WIDE, RESNET]) for row in memory_rows(it)]}


def memory_rows(subject: Subject) -> Rows:
    builds = {PLAIN: partial(plain_action, subject), "ART's Madry trainer": partial(art_action, subject)}
    builds["oat"] = subject.action
    found = {name: memory_of(build) for name, build in builds.items()}
    with gradients_in_place():
        activations = {name: memory_of(build).above for name, build in builds.items()}
    return [
        {
            "network": subject.network,
            "batch": subject.nb_samples,
            "step": name,
            "MB held": f"{held / 1e6:.2f}",
            "MB above": f"{above / 1e6:.2f}",
            "MB peak": f"{(held + above) / 1e6:.2f}",
            "MB activations": f"{activations[name] / 1e6:.2f}",
            "ratio of peak": f"{(held + above) / sum(found[PLAIN]):.3f}",
            "ratio of activations": f"{activations[name] / activations[PLAIN]:.3f}",
        }
        for name, (held, above) in found.items()
    ]


def roofline(is_smoke: bool) -> dict[str, Rows]:
    """Measure what share of a step its convolutions would take."""
    subjects = [SMALL] if is_smoke else [WIDE, RESNET, WIDEST]
    return {"scaling_roofline": [roofline_row(it, name, is_smoke) for it in subjects for name in ("float32", "bf16")]}


def roofline_row(subject: Subject, precision: str, is_smoke: bool) -> Row:
    step = replace(subject, settings=replace(LAST, method={"precision": precision})).action()
    arithmetic = arithmetic_of(step)
    alone = {kind: arithmetic.again(kind) for kind in Arithmetic.KINDS}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    factors = torch.randn(2, *[64 if is_smoke else PRODUCT_SIZE] * 2, dtype=dtype, device=DEVICE)
    actions = {"step": step, **alone, PRODUCT: partial(torch.mm, *factors)}
    turns = take_turns(actions, 1 if is_smoke else 3, f"{subject.network} {precision}")
    seconds = {name: turns.median(name) for name in actions}
    gflop = {name: arithmetic_of(action).flops / 1e9 for name, action in actions.items()}
    rates = {"convolutions": sum(map(gflop.__getitem__, alone)) / sum(map(seconds.__getitem__, alone))}
    rates |= {name: gflop[name] / seconds[name] for name in actions}
    return {
        "network": subject.network,
        "batch": subject.nb_samples,
        "precision": precision,
        "GFLOP": f"{gflop['step']:.4g}",
        "seconds": f"{seconds['step']:.4g}",
        "fraction": f"{rates['step'] / rates['convolutions']:.3f}",
        **{f"GFLOP/s, {name}": f"{rates[name]:.3g}" for name in ("step", "convolutions", *alone, PRODUCT)},
        "rounds": turns.nb_rounds,
        "rounds dropped": turns.nb_dropped,
    }


class Axis(NamedTuple):
    """What grows: through which sizes, and what a step becomes by it."""

    sizes: Sequence[int]
    at: Callable[[Subject, int], Subject]


def with_lams(subject: Subject, nb_lams: int) -> Subject:
    """Spread the lams evenly over [0, 1], 0 and 1 among them."""
    return replace(subject, settings=replace(LAST, lambdas=[index / (nb_lams - 1) for index in range(nb_lams)]))


def with_widths(subject: Subject, nb_widths: int) -> Subject:
    """Train the largest widths, all of them in every step; not with channels last, see ``layout_faults``."""
    settings = StepSettings(widths=WIDTHS[-nb_widths:], method={"width_sampling": "all"})
    return replace(subject, settings=settings)


def with_depth(subject: Subject, depth: int) -> Subject:
    """Take a wide residual network of another depth."""
    return replace(subject, network=f"wrn-{depth}-{subject.network.rpartition('-')[2]}")


AXES = {
    "batch": Axis((16, 32, 64, 128, 256, 512), lambda subject, size: replace(subject, nb_samples=size)),
    "lams": Axis((2, 6, 16, 32), with_lams),
    "widths": Axis((1, 2, 3, 4), with_widths),
    "depth": Axis((10, 16, 22, 28, 40), with_depth),
}


def growth(is_smoke: bool) -> dict[str, Rows]:
    """Measure along every axis, and fit."""
    points, slopes = [], []
    for name in ("lams", "widths") if is_smoke else AXES:
        axis = AXES[name]
        sizes, subject = (axis.sizes[:2], SMALL) if is_smoke else (axis.sizes, WIDE)
        found = points_along(name, {size: axis.at(subject, size) for size in sizes}, 1 if is_smoke else 2)
        points += found
        for cost in ("seconds", "GFLOP", "MB above"):
            slopes.append({"axis": name, "of": cost, **fit(sizes, [float(str(point[cost])) for point in found])})
    return {"scaling_points": points, "scaling_slopes": slopes}


def points_along(name: str, subjects: Mapping[int, Subject], nb_rounds: int) -> Rows:
    memories = {size: memory_of(subject.action) for size, subject in subjects.items()}
    steps = {str(size): subject.action() for size, subject in subjects.items()}
    gflop = {size: arithmetic_of(steps[str(size)]).flops / 1e9 for size in subjects}
    turns = take_turns(steps, nb_rounds, name)
    return [
        {
            "axis": name,
            "size": size,
            "seconds": f"{turns.median(str(size)):.4g}",
            "GFLOP": f"{gflop[size]:.5g}",
            "GFLOP/s": f"{gflop[size] / turns.median(str(size)):.3g}",
            "MB held": f"{memories[size].held / 1e6:.2f}",
            "MB above": f"{memories[size].above / 1e6:.2f}",
            "rounds": turns.nb_rounds,
            "rounds dropped": turns.nb_dropped,
        }
        for size in subjects
    ]


def fit(sizes: Sequence[float], costs: Sequence[float]) -> dict[str, str]:
    """Say how costs grow, as the head of this file explains."""
    size, cost = np.asarray(sizes, float), np.asarray(costs, float)
    exponent = np.polyfit(np.log(size), np.log(cost), 1)[0]
    per_size, start = np.polyfit(size, cost, 1, w=1 / cost)
    deviations = cost / (start + per_size * size) - 1
    farthest = np.abs(deviations).argmax()
    return {
        "exponent": f"{exponent:.3f}",
        "start": f"{start / cost[size.argmin()]:.3f}",
        "largest deviation": f"{deviations[farthest]:+.3f}",
        "at": f"{size[farthest]:g}",
    }


STUDIES = {"growth": growth, "memory": memory, "roofline": roofline}


def measure(given: argparse.Namespace) -> Found:
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would tell its own stages
    tables: dict[str, Rows] = {}
    for study in STUDIES if given.study == "all" else [given.study]:
        with borrowed_generators(DEVICE, 0):
            tables |= STUDIES[study](given.smoke)
    return Found(tables, [0])


OPTIONS = {"study": {"nargs": "?", "choices": [*STUDIES, "all"], "default": "all"}}


def main(words: Sequence[str] | None = None) -> None:
    run("scaling", __doc__, measure, OPTIONS, words)


if __name__ == "__main__":
    main()
