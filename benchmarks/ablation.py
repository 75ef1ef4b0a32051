"""What each neighbor adds to once-for-all adversarial training: AWP, averaging, TRADES, MART, one step, fine-tuning.

    python -m benchmarks.ablation --data digits                          # 60 minutes on one core
    python -m benchmarks.ablation --data cifar10 --data-folder FOLDER    # 60 minutes on one core
    python -m benchmarks.ablation --data digits --choose                 # how learning rates and sizes were chosen
    python -m benchmarks.ablation --data digits --smoke                  # a minute; writes nothing

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
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from art_oat.experiment.recipe import Recipe
from benchmarks.arguments import command, parser
from benchmarks.configs import DIGITS, Config
from benchmarks.figures import plot_differences
from benchmarks.frontiers import Arm, Shares, accuracies, frontier, resampled
from benchmarks.record import RESULTS, environment, read, text, write
from benchmarks.tradeoff import DOCS, study

LAMBDAS = (0.0, 0.2, 1.0)
SEED_OF_CHOICE = 100
FEWER = 8
"""Fine-tuning has one of so many epochs."""


def _config(recipe: Recipe, base: Config, **changes: Any) -> Config:
    return replace(base, recipe=recipe, judges=("autoattack",), lambdas=LAMBDAS, others=(), **changes)


def variants(config: Config, learning_rate: float, batch_size: int) -> dict[str, dict[str, Any]]:
    """Return the changes to a recipe by name; learning rate and batch size are those of fine-tuning."""
    one_step = {"attack": "n-fgsm", "eps_step": None, "fallback": "pgd-7"}
    tuned = {"pretrained": "lam-0", "schedule": "slow-start", "nb_epochs": config.recipe.nb_epochs // FEWER}
    tuned |= {"learning_rate": learning_rate, "batch_size": batch_size}
    return {
        "oat": {},
        "oat, awp": {"weight_perturbation": 0.01},
        "oat, ema": {"ema": 0.99},
        "oat, trades": {"loss": "trades"},
        "oat, mart": {"loss": "mart"},
        "n-fgsm": one_step,
        "fine-tuned": tuned,
        "oat, awp, ema": {"weight_perturbation": 0.01, "ema": 0.99},
        "n-fgsm, ema": {**one_step, "ema": 0.99},
    }


def _with_variants(config: Config, learning_rate: float, batch_size: int) -> Config:
    return replace(config, variants=variants(config, learning_rate, batch_size))


_DIGITS = _config(DIGITS.recipe.changed(nb_epochs=64, ema=None), DIGITS, nb_held_out=120, nb_robust=100)
_CIFAR10 = _config(
    Recipe(
        data="cifar10", network="small-16-32-64", nb_train=4000, nb_epochs=24, learning_rate=0.2, channels_last=True
    ),
    Config(DIGITS.recipe, nb_epochs_dedicated=24),
    nb_robust=250,
)
_LESS_NOISE = "n-fgsm-1"
"""Chosen on held-out images of two folds of seed 100, PGD-50, mean over lam 0.2 and 1: noise 2 eps 65.2%, 1 eps 70.3%,
0.5 eps 66.6%."""

_DIGITS = _with_variants(_DIGITS, 0.2, 16)
CONFIGS = {
    "digits": replace(
        _DIGITS,
        variants={
            **_DIGITS.variants,
            f"{_LESS_NOISE}, ema": {**_DIGITS.variants["n-fgsm, ema"], "attack": _LESS_NOISE},
        },
    ),
    "cifar10": _with_variants(_CIFAR10, 0.1, 16),
}


def candidates(config: Config) -> Config:
    """Return what is compared to choose, on images that are held out."""
    fine = config.variants["fine-tuned"]
    sizes: dict[str, dict[str, Any]] = {"oat": {}}
    sizes |= {f"oat, awp {gamma}": {"weight_perturbation": gamma} for gamma in (0.005, 0.01)}
    variants = {
        **(sizes if config.nb_folds else {}),  # takes too long on CIFAR-10
        **{
            f"fine-tuned, lr {rate:g}, batch {size}": {**fine, "learning_rate": rate, "batch_size": size}
            for size in (128, 32, 16)
            for rate in (0.05, 0.1, 0.2)
        },
    }
    judged = {"nb_test": 1000, "nb_held_out": 240 if config.nb_folds else 0}
    return replace(
        config,
        variants=variants,
        seeds=(SEED_OF_CHOICE,),
        is_choosing=True,
        judges=("pgd-50",),
        nb_robust=None,
        **judged,
    )


def row_of(arm: Arm, base: Arm, config: Config) -> dict[str, object]:
    """Return the row of a variant: accuracies in percent, differences to the base in points, times."""
    shares, errors = accuracies(arm)
    row: dict[str, object] = {"variant": arm.name}
    for name, place in (("clean", 0), (config.judges[-1], -1)):
        for index, lam in enumerate(arm.lambdas):
            row[f"{name} at {lam:g}"] = f"{100 * shares[place, index]:.1f}"
            row[f"{name} at {lam:g} s.e."] = f"{100 * errors[place, index]:.1f}"
    row["hypervolume"] = f"{_area(shares):.4f}"
    figures = {
        "hypervolume ratio": _area_ratio,
        "clean difference": _difference(0),
        "robust difference": _difference(-1),
        "robust difference at 1": lambda ours, theirs: float(100 * (ours[-1, -1] - theirs[-1, -1])),
    }
    for name, figure in figures.items():
        row |= {f"{name} {key}".removesuffix(" value"): value for key, value in resampled(arm, base, figure).items()}
    row |= {"seconds": f"{arm.seconds / (config.nb_folds or 1):.1f}"}
    return row | {"clock": arm.clock, "trained at": arm.commits}


def _area(shares: Shares) -> float:
    return frontier(shares, LAMBDAS).area((1 / 10, 0.0))


def _area_ratio(ours: Shares, theirs: Shares) -> float:
    return _area(ours) / _area(theirs)


def _difference(place: int) -> Any:
    return lambda ours, theirs: float(100 * (ours[place] - theirs[place]).mean())


def run(config: Config, names: Sequence[str], runs: Path) -> list[dict[str, object]]:
    """Train and judge variants; return and print the table."""
    arms = study(config, names, runs, 1)
    table = [row_of(arm, arms[0], config) for arm in arms]
    shown = [{key: value for key, value in row.items() if "s.e." not in key and key != "trained at"} for row in table]
    print(text(shown))
    return table


def arguments() -> argparse.Namespace:
    asking = parser(__doc__)
    asking.set_defaults(runs=Path("runs/ablation"))
    asking.add_argument("--variants", nargs="+", help="train and judge these alone, beside oat; writes no result")
    asking.add_argument("--choose", action="store_true", help="compare candidates on held-out images")
    return asking.parse_args()


def main() -> None:
    given = arguments()
    config = CONFIGS[given.data].in_folder(given.data_folder)
    config = candidates(config) if given.choose else config
    names = list(dict.fromkeys(("oat", *given.variants))) if given.variants else list(config.variants)
    ending = "_choice" if given.choose else ""
    if given.smoke:
        with tempfile.TemporaryDirectory() as scratch:
            run(config.shortened(), names, Path(scratch))
        return
    table = run(config, names, given.runs / f"{given.data}{ending}")
    if not given.variants:
        made_by = environment(command("ablation", given, *["--choose"] * given.choose), config.seeds)
        write(RESULTS / f"ablation_{given.data}{ending}.csv", table, made_by)
    if not given.variants and not given.choose:
        draw()


def draw() -> None:
    """Draw what is kept of all data."""
    titles = {"digits": "digits", "cifar10": "CIFAR-10 (JPEG-75), 4,000 images"}
    paths = {title: RESULTS / f"ablation_{data}.csv" for data, title in titles.items()}
    plot_differences({title: read(path) for title, path in paths.items() if path.exists()}, DOCS / "ablation.png")


if __name__ == "__main__":
    main()
