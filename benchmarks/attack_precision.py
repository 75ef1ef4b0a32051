"""Whether the attack of the training is as strong in bfloat16 as in float32, on networks that were trained robust.

    python -m benchmarks.attack_precision --data digits                          # 3 minutes on one core
    python -m benchmarks.attack_precision --data cifar10 --data-folder FOLDER    # some 15 minutes on one core

The one networks of ``tradeoff.py`` (trained if --runs does not hold them) are attacked at every lam above 0 by the
attack they were trained with, PGD-7, in float32 and under autocast in bfloat16, from the same random starts, on up to
1,000 test images of each part. What comes out is answered in float32. Differences are bfloat16 minus float32, paired by
image, with a 95% bootstrap interval over images; "noise" is the same between two sets of starts, both in float32.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from art_oat import PGD
from benchmarks.arms import one_network
from benchmarks.configs import Config, Part, asked
from benchmarks.statistics import interval
from benchmarks.study import Found, data_options, run
from benchmarks.tables import Row

NB_STARTS = 3
NB_IMAGES = 1000
Answers = NDArray[np.float64]
KINDS = {"float32": (False, 0), "bf16": (True, 0), "again": (False, NB_STARTS)}


def answered(config: Config, part: Part, runs: Path, *, is_bf16: bool, first_start: int) -> Answers:
    """Return loss and correctness of every attacked test image, means over starts: ``[2, lams above 0, N]``."""
    _, classifier = one_network(config, runs, part)
    classifier.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, y = classifier.as_tensors(*(values[:NB_IMAGES] for values in part.data.test))
    method = config.recipe.method
    attack = PGD(method.eps, method.eps_step, norm=method.norm)
    found = []
    for lam in config.recipe.lambdas[1:]:
        network = classifier.at(lam).as_module()
        answers = []
        for start in range(first_start, first_start + NB_STARTS):
            generator = torch.Generator().manual_seed(start)
            with torch.autocast(x.device.type, torch.bfloat16) if is_bf16 else nullcontext():
                x_adv = attack(network, x, y, clip_values=classifier.clip_values, generator=generator)
            with torch.no_grad():
                scores = network(x_adv)
            answers.append(torch.stack([F.cross_entropy(scores, y, reduction="none"), (scores.argmax(1) == y).float()]))
        found.append(torch.stack(answers).mean(dim=0).double().cpu().numpy())
    return np.stack(found, axis=1)


def row_of(lam: str, answers: dict[str, Answers]) -> Row:
    row: Row = {"lam": lam}
    for index, (what, factor) in enumerate((("loss", 1.0), ("robust", 100.0))):
        reference = factor * answers["float32"][index]
        row |= {f"{what} float32": f"{reference.mean():.4f}"}
        for name, column in (("bf16", "difference"), ("again", "noise")):
            difference = factor * answers[name][index] - reference
            low, high = interval(difference)
            row |= {f"{what} {column}": f"{difference.mean():+.4f}"}
            row |= {f"{what} {column} 95%": f"{low:+.4f} to {high:+.4f}"}
    return row | {"answers": len(answers["float32"][0])}


def measure(given: argparse.Namespace) -> Found:
    """Compare at every lam, and in the mean over lams, over all parts."""
    config, runs, answers = asked(given), given.runs / f"{given.data}-small", {}
    for name, (is_bf16, start) in KINDS.items():
        by_part = [answered(config, part, runs, is_bf16=is_bf16, first_start=start) for part in config.parts()]
        answers[name] = np.concatenate(by_part, axis=2)
    lams = {f"{lam:g}": slice(index, index + 1) for index, lam in enumerate(config.recipe.lambdas[1:])}
    rows = [
        row_of(lam, {name: values[:, chosen].mean(axis=1) for name, values in answers.items()})
        for lam, chosen in ({"mean": slice(None)} | lams).items()
    ]
    return Found({f"attack_precision_{given.data}": rows}, config.seeds)


if __name__ == "__main__":
    run("attack_precision", __doc__, measure, data_options("tradeoff"))
