"""What each neighbor adds to once-for-all adversarial training: AWP, averaging, TRADES, MART, one step, fine-tuning.

    python -m benchmarks.ablation --data digits                          # 60 minutes on one core
    python -m benchmarks.ablation --data cifar10 --data-folder FOLDER    # 60 minutes on one core
    python -m benchmarks.ablation --data digits --choose                 # how learning rates and sizes were chosen

"oat" is the one network for all lams by PGD-7 and the hybrid loss; every other variant changes what its name says and
nothing else: same start, batches, schedule, epochs. But "fine-tuned" starts from a naturally trained network (whose
training is not counted in its seconds), has an eighth of the epochs, smaller batches, so that there are about as many
steps, and a schedule of its own. All train on the same images, of which a few are held out: the guard of one-step
training looks at them.

Judged after the last epoch at lam 0, 0.2 and 1: clean on all test images, AutoAttack (standard) on some. Differences
are paired by image, means over the three lams, with 95% bootstrap intervals over images, which leave out what another
training would change. Hypervolumes are measured from (1 / K, 0). Times are processor seconds of one thread, each
training by itself on a busy machine: ``step_time.py`` measures ratios.

``--choose`` trains candidates with seed 100 and judges them by PGD-50 on held-out training images (CIFAR-10: on
validation images), at the same lams; test images are not looked at.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from art_oat.experiment.recipe import Recipe
from art_oat.storage import read_rows
from benchmarks.comparison import compare
from benchmarks.configs import DIGITS, Config
from benchmarks.figures import plot_differences
from benchmarks.frontiers import Arm, accuracies, area, ratio, resampled
from benchmarks.study import Found, data_options, run
from benchmarks.tables import DOCS, RESULTS, Row

LAMBDAS = (0.0, 0.2, 1.0)
SEED_OF_CHOICE = 100
FEWER = 8
"""Fine-tuning has one of so many epochs."""

TITLES = {"digits": "digits", "cifar10": "CIFAR-10 (JPEG-75), 4,000 images"}
Changes = dict[str, Any]


def variants(recipe: Recipe, learning_rate: float, batch_size: int) -> dict[str, Changes]:
    """Return the changes to a recipe by name; learning rate and batch size are those of fine-tuning."""
    one_step = {"attack": "n-fgsm", "eps_step": None, "fallback": "pgd-7"}
    tuned = {"pretrained": "lam-0", "schedule": "slow-start", "nb_epochs": recipe.nb_epochs // FEWER}
    return {
        "oat": {},
        "oat, awp": {"weight_perturbation": 0.01},
        "oat, ema": {"ema": 0.99},
        "oat, trades": {"loss": "trades"},
        "oat, mart": {"loss": "mart"},
        "n-fgsm": one_step,
        "fine-tuned": {**tuned, "learning_rate": learning_rate, "batch_size": batch_size},
        "oat, awp, ema": {"weight_perturbation": 0.01, "ema": 0.99},
        "n-fgsm, ema": {**one_step, "ema": 0.99},
    }


def _config(base: Config, tuning: tuple[float, int], more: dict[str, Changes], **changes: Any) -> Config:
    every = {**variants(base.recipe, *tuning), **more}
    return replace(base, variants=every, judges=("autoattack",), lambdas=LAMBDAS, **changes)


_DIGITS = DIGITS.recipe.changed(nb_epochs=64, ema=None)
_CIFAR10 = Recipe(
    data="cifar10", network="small-16-32-64", nb_train=4000, nb_epochs=24, learning_rate=0.2, channels_last=True
)
# chosen on held-out images of two folds of seed 100, PGD-50, mean over lam 0.2 and 1: noise of 2 eps 65.2%, of 1 eps
# 70.3%, of 0.5 eps 66.6%
_LESS_NOISE = {"n-fgsm-1, ema": {"attack": "n-fgsm-1", "eps_step": None, "fallback": "pgd-7", "ema": 0.99}}
CONFIGS = {
    "digits": _config(replace(DIGITS, recipe=_DIGITS), (0.2, 16), _LESS_NOISE, nb_held_out=120, nb_robust=100),
    "cifar10": _config(Config(_CIFAR10, nb_epochs_dedicated=24), (0.1, 16), {}, nb_robust=250),
}


def candidates(config: Config) -> Config:
    """Return what is compared to choose, on images that are held out."""
    fine = config.variants["fine-tuned"]
    sizes = {"oat": {}} | {f"oat, awp {gamma}": {"weight_perturbation": gamma} for gamma in (0.005, 0.01)}
    tuned = {
        f"fine-tuned, lr {rate:g}, batch {size}": {**fine, "learning_rate": rate, "batch_size": size}
        for size in (128, 32, 16)
        for rate in (0.05, 0.1, 0.2)
    }
    every = {**sizes, **tuned} if config.nb_folds else tuned  # sizes take too long on CIFAR-10
    judged = {"nb_test": 1000, "nb_held_out": 240 if config.nb_folds else 0, "judges": ("pgd-50",), "nb_robust": None}
    return replace(config, variants=every, seeds=(SEED_OF_CHOICE,), is_choosing=True, **judged)


def row_of(arm: Arm, base: Arm, config: Config) -> Row:
    """Return the row of a variant: accuracies in percent, differences to the base in points, times."""
    shares, errors = accuracies(arm)
    row: Row = {"variant": arm.name}
    for name, place in (("clean", 0), (config.judges[-1], -1)):
        for index, lam in enumerate(arm.lambdas):
            row[f"{name} at {lam:g}"] = f"{100 * shares[place, index]:.1f}"
            row[f"{name} at {lam:g} s.e."] = f"{100 * errors[place, index]:.1f}"
    row["hypervolume"] = f"{area(shares, LAMBDAS):.4f}"
    for name, figure in FIGURES.items():
        row |= {f"{name} {key}".removesuffix(" value"): value for key, value in resampled(arm, base, figure).items()}
    row |= {"seconds": f"{arm.seconds / (config.nb_folds or 1):.1f}"}
    return row | {"clock": arm.clock, "trained at": arm.commits}


FIGURES = {
    "hypervolume ratio": lambda ours, theirs: ratio(area(ours, LAMBDAS), area(theirs, LAMBDAS)),
    "clean difference": lambda ours, theirs: float(100 * (ours[0] - theirs[0]).mean()),
    "robust difference": lambda ours, theirs: float(100 * (ours[-1] - theirs[-1]).mean()),
    "robust difference at 1": lambda ours, theirs: float(100 * (ours[-1, -1] - theirs[-1, -1])),
}
"""What is said of two variants, by their mean accuracies ``[1 + judges, lams]``."""


def measure(given: argparse.Namespace) -> Found:
    config = CONFIGS[given.data].in_folder(given.data_folder)
    config = candidates(config) if given.choose else config
    config = config.shortened() if given.smoke else config
    names = list(dict.fromkeys(("oat", *given.variants))) if given.variants else list(config.variants)
    name = given.data + "_choice" * given.choose
    found = compare(config, names, given.runs / name)
    rows = [row_of(arm, found[0], config) for arm in found]
    figures = {} if given.choose else {DOCS / "ablation.png": draw}
    return Found({f"ablation_{name}": rows}, config.seeds, figures, is_kept=not given.variants)


def draw(path: Path) -> None:
    """Draw what is kept of all data."""
    kept = {title: RESULTS / f"ablation_{data}.csv" for data, title in TITLES.items()}
    plot_differences({title: read_rows(table) for title, table in kept.items() if table.exists()}, path)


OPTIONS = {
    **data_options("ablation"),
    "--variants": {"nargs": "+", "help": "train and judge these alone, beside oat; writes no result"},
    "--choose": {"action": "store_true", "help": "compare candidates on held-out images"},
}

if __name__ == "__main__":
    run("ablation", __doc__, measure, OPTIONS)
