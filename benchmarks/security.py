"""Does one run of FMN give the accuracy that AutoAttack finds, at every radius, and at what share of its time?

    python -m benchmarks.security                                         # digits
    python -m benchmarks.security --data cifar10 --data-folder FOLDER

A network that comes with the library is judged at every trained lam: by FMN, whose one run gives the accuracy at all
radii, and by AutoAttack at the radius of its training. Then both are timed in turns on fewer images at one lam, with
AutoAttack at six radii from a quarter of that radius to one and a half. Times are processor seconds of one process.

A row is a lam; differences are in points. ``only AutoAttack`` and ``only FMN`` say how many images one breaks at that
radius and the other does not.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from art_oat import AutoAttack, pretrained
from art_oat.attacks import FMN, is_correct
from art_oat.evaluation.tradeoff import subset
from benchmarks.study import Found, run
from benchmarks.tables import Row

SHARES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Radii at which AutoAttack is timed, as shares of that of the training."""

TIMED_LAM = 0.3


def searched(network: nn.Module, x: Tensor, y: Tensor, eps_max: float, counts: tuple[int, int]) -> NDArray[np.float64]:
    """Return how far the nearest errors lie that FMN finds, ``[N]``."""
    nb_steps, nb_runs = counts
    attack = FMN(eps_max, nb_steps=nb_steps, nb_restarts=nb_runs - 1)
    far, _ = attack.nearest(network, x, y, clip_values=(0, 1), generator=torch.Generator().manual_seed(0))
    return far.double().numpy()


def is_robust(network: nn.Module, x: Tensor, y: Tensor, eps: float) -> NDArray[np.bool_]:
    """Return what AutoAttack leaves right, ``[N]``."""
    attack = AutoAttack(eps, notify=lambda _: None)
    right = torch.nonzero(is_correct(network, x, y))[:, 0]  # as evaluate does: none is attacked that is wrong already
    left = np.zeros(len(x), dtype=bool)
    if len(right):
        generator = torch.Generator().manual_seed(0)
        x_adv = attack(network, x[right], y[right], clip_values=(0, 1), generator=generator)
        left[right.numpy()] = is_correct(network, x_adv, y[right]).numpy()
    return left


def timed(action: Callable[..., NDArray], *arguments: object) -> tuple[NDArray, float]:
    started = time.process_time()
    found = action(*arguments)
    return found, time.process_time() - started


def row_of(
    lam: float, eps: float, far: NDArray[np.float64], left: NDArray[np.bool_], seconds: tuple[float, float]
) -> Row:
    kept = far > eps
    row = {
        "lam": f"{lam:g}",
        "eps": f"{eps:.6g}",
        "images": len(far),
        "clean": f"{100 * (far > 0).mean():.1f}",
        "FMN": f"{100 * kept.mean():.1f}",
        "AutoAttack": f"{100 * left.mean():.1f}",
        "difference": f"{100 * (kept.mean() - left.mean()):+.1f}",
        "only AutoAttack": int((kept & ~left).sum()),
        "only FMN": int((~kept & left).sum()),
        "FMN seconds": f"{seconds[0]:.1f}",
        "AutoAttack seconds": f"{seconds[1]:.1f}",
    }
    print(row, flush=True)
    return row


def measure(given: argparse.Namespace) -> Found:
    dial = pretrained(given.data, device_type="cpu")
    recipe = dial.recipe if given.data_folder is None else dial.recipe.changed(data_folder=given.data_folder)
    data = recipe.dataset()
    nb, nb_timed = (4, 2) if given.smoke else (given.nb_robust, given.nb_timed)
    counts = (5, 2) if given.smoke else (given.nb_steps, given.nb_runs)
    index = subset(data.test.y, nb, 0)
    x, y = dial.classifier.as_tensors(data.test.x[index], data.test.y[index])
    eps, rows, times = dial.recipe.method.eps, [], []
    for lam in dial.classifier.model.lambdas[-1:] if given.smoke else dial.classifier.model.lambdas:
        network = dial.classifier.at(lam).as_module()
        far, first = timed(searched, network, x, y, 2 * eps, counts)
        left, second = timed(is_robust, network, x, y, eps)
        rows.append(row_of(lam, eps, far, left, (first, second)))
    network, some = dial.classifier.at(TIMED_LAM).as_module(), slice(nb_timed)
    total = {"FMN": 0.0, "AutoAttack": 0.0}
    for share in SHARES[-1:] if given.smoke else SHARES:  # in turns, as others use the machine, too
        total["FMN"] += timed(searched, network, x[some], y[some], 2 * eps, counts)[1] / len(SHARES)
        total["AutoAttack"] += timed(is_robust, network, x[some], y[some], share * eps)[1]
    ratio = total["FMN"] / total["AutoAttack"]
    seconds = {f"{name} seconds": f"{it:.1f}" for name, it in total.items()}
    attack = "FMN-{} x{}".format(*counts)
    times = [{"attack": attack, "lam": TIMED_LAM, "images": nb_timed, **seconds, "ratio of times": f"{ratio:.3f}"}]
    rows = [{"data": given.data, "attack": attack, **row} for row in rows]
    return Found({f"security_{given.data}": rows, f"security_{given.data}_time": times}, [0])


OPTIONS = {
    "--data": {"choices": ("digits", "cifar10"), "default": "digits"},
    "--data-folder": {"help": "where CIFAR-10 lies"},
    "--nb-robust": {"type": int, "default": 300, "help": "test images"},
    "--nb-timed": {"type": int, "default": 24, "help": "of these, how many are timed at six radii"},
    "--nb-steps": {"type": int, "default": 100, "help": "steps of FMN"},
    "--nb-runs": {"type": int, "default": 10, "help": "its runs"},
}

if __name__ == "__main__":
    run("security", __doc__, measure, OPTIONS)
