"""What makes the dial turn: cheap trainings that change one thing each, judged by an attack on the margin.

    python -m benchmarks.screens --data-folder FOLDER                        # an hour on one core
    python -m benchmarks.screens --data-folder FOLDER --variants table       # these alone; writes no result

A small CNN (16, 32, 64 channels) on 4,000 images of CIFAR-10 (JPEG-75), 15 epochs of PGD-7 for the one network and 10
for each dedicated one. Judged on the 444 validation images, never on test images: clean, and by 30 steps on the margin
from one random start, at lams 0, 0.1, 0.3 and 1. One accuracy has a standard error of up to 2.4 points (1.7 under
attack), and a seed moves it by half a point to one: a screen finds large effects alone. The area is that under the four
points, from (1 / K, 0).

What is trained is kept in --runs: the same command continues. A change that wins here is tried again at the scale of
``tradeoff.py``, by AutoAttack.
"""

import argparse
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from art_oat import OATModel, OATTrainer, StratifiedSampling
from art_oat.data import Dataset
from art_oat.experiment.build import trainer_for
from art_oat.experiment.recipe import Recipe
from art_oat.training import hybrid_loss
from art_oat.training.passes import Outcome
from art_oat.training.step import Step
from benchmarks.frontiers import frontier
from benchmarks.study import Found, data_options, kept, run
from benchmarks.tables import Row, text
from benchmarks.weight_dial import Learned, LowRank, dial_weights

BASE = Recipe(
    data="cifar10", network="small-16-32-64", nb_train=4000, nb_epochs=15, learning_rate=0.2, channels_last=True
)
NB_EPOCHS_DEDICATED = 10
JUDGED = (0.0, 0.1, 0.3, 1.0)
SEEDS = (100,)
NB_STEPS = 30
Change = Callable[[OATTrainer, Recipe], None]
"""Changes a trainer before it starts."""


@dataclass(frozen=True)
class Variant:
    """One training: what it changes, in words, in the recipe, in the trainer, and whether its losses are ordered."""

    what: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    ordered: bool = False


def tripled_codes(trainer: OATTrainer, _: Recipe) -> None:
    """Let a linear FiLM learn nine times as fast, by SGD."""
    trainer.classifier.model.encoding.table.mul_(3.0)


def weight_dial(rank: int | None) -> Change:
    """Let every convolution depend on lam; what is new decays like the rest."""

    def change(trainer: OATTrainer, _: Recipe) -> None:
        new = dial_weights(
            trainer.classifier.model, lambda conv: Learned(conv) if rank is None else LowRank(conv, rank)
        )
        trainer.classifier.optimizer.add_param_group({"params": new})

    return change


def level_loss(logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: Any = None) -> Tensor:
    """Weigh the losses so that the clean and the attacked terms have the same sum of weights in every batch."""
    is_attacked = lam > 0
    if not bool(is_attacked.any()):
        return hybrid_loss(logits, logits_adv, y, lam, criterion)
    clean = ((1 - lam) * F.cross_entropy(logits, y, reduction="none")).sum()
    attacked = (lam[is_attacked] * F.cross_entropy(logits_adv, y[is_attacked], reduction="none")).sum()
    return (clean / (1 - lam).sum() + attacked / lam.sum()) / 2


def leveled(trainer: OATTrainer, _: Recipe) -> None:
    trainer.method = replace(trainer.method, loss=level_loss)


_add_gradient = Step._add_gradient


def add_ordered_gradient(step: Step, batch: Any, width: float, x_adv: Tensor, target: Tensor) -> Outcome:
    """Add ``sum(relu(CE at 1 - CE at 0.1))`` of the attacked images of lam 1 to the loss of a step."""
    result = _add_gradient(step, batch, width, x_adv, target)
    is_one = batch.lam[batch.is_attacked] == 1
    if int(is_one.sum()) > 1:
        x, y = x_adv[is_one], batch.classes[batch.is_attacked][is_one]
        scores = (step.passes.scores(x, x.new_full((len(x),), lam), width) for lam in (1.0, 0.1))
        far, near = (F.cross_entropy(it, y, reduction="none") for it in scores)
        (F.relu(far - near).sum() / len(batch.lam)).backward()
    return result


def dedicated(lam: float, what: str = "plain", **changes: Any) -> Variant:
    """Return the training of a plain network for one lam."""
    return Variant(what, {"lambdas": (lam,), "film": None, "nb_epochs": NB_EPOCHS_DEDICATED, **changes})


_FIVE, _TEN, _TWENTY = ({"sampling": StratifiedSampling({1.0: weight})} for weight in (5.0, 10.0, 20.0))
_CLEAN = {"clean_share": 8 / 22, "nb_epochs": 22}
_HALF = {"clean_share": 0.5, "nb_epochs": 30}
_DIALED = _FIVE | _CLEAN | {"film": None}
VARIANTS: Mapping[str, Variant] = {
    "dedicated, lam 0": dedicated(0.0),
    "dedicated, lam 1": dedicated(1.0),
    "dedicated, lam 1, rate 0.1": dedicated(1.0, learning_rate=0.1),
    "dedicated, lam 1, rate 0.4": dedicated(1.0, learning_rate=0.4),
    "dedicated, lam 1, average": dedicated(1.0, "plain; an average of weights", ema=0.98),
    "table": Variant("FiLM a table, every lam as often"),
    "table, codes x 3": Variant("it learns nine times as fast", changes=(tripled_codes,)),
    "lam 1 x 5": Variant("drawn five times as often as each other lam above 0", _FIVE),
    "lam 1 x 20": Variant("twenty times", _TWENTY),
    "lam 1 x 10, average": Variant("ten times; an average of weights", _TEN | {"ema": 0.98}),
    "level losses": Variant("clean and attacked terms weigh the same in every batch", {}, (leveled,)),
    "lam 1 x 5, ordered": Variant("the loss at 1 may not exceed that at 0.1", _FIVE, ordered=True),
    "lam 1 x 5, clean first": Variant("8 clean epochs, then 14", _FIVE | _CLEAN),
    "lam 1 x 5, clean first, longer": Variant(
        "24 clean epochs, then 12", _FIVE | {"clean_share": 24 / 36, "nb_epochs": 36}
    ),
    "lam 1 x 5, half clean": Variant("15 clean epochs, then 15", _FIVE | _HALF),
    "lam 1 x 20, half clean": Variant("15 clean epochs, then 15", _HALF | _TWENTY),
    "level losses, clean first": Variant("8 clean epochs, then 14", _CLEAN, (leveled,)),
    "clean first, weights of rank 2": Variant("convolutions in place of FiLM", _DIALED, (weight_dial(2),)),
    "clean first, two ends of weights": Variant("likewise, of full size", _DIALED, (weight_dial(None),)),
}
"""By name; what is not said is as in ``BASE``."""


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Return by how much the best wrong score is ahead of the right one, ``[N]``."""
    right = logits.gather(1, y.unsqueeze(1))
    return (logits.scatter(1, y.unsqueeze(1), -torch.inf) - right).amax(dim=1)


def is_robust(network: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return which inputs no step of an ascent on the margin breaks, bool ``[N]``; steps shrink from eps / 2."""
    generator = torch.Generator().manual_seed(0)
    x_adv = (x + (2 * torch.rand(x.shape, generator=generator) - 1) * eps).clamp(0, 1)
    is_right = margins(network(x).detach(), y) < 0
    for step in range(NB_STEPS + 1):
        margin = margins(network(x_adv.requires_grad_()), y)
        is_right &= margin.detach() < 0
        (gradient,) = torch.autograd.grad(margin.sum(), x_adv)
        size = eps * max(0.025, (1 + math.cos(math.pi * step / NB_STEPS)) / 4)
        x_adv = (x + (x_adv.detach() + size * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return is_right


def judged(model: OATModel, data: Dataset, eps: float) -> list[tuple[float, float, float]]:
    """Return lam, clean and robust accuracy on validation images; the conditional network answers."""
    x, y = (torch.from_numpy(part) for part in data.validation)
    found = []
    for lam in (lam for lam in JUDGED if model.lambdas[0] <= lam <= model.lambdas[-1]):
        network = partial(model.eval(), lam=lam)
        with torch.no_grad():
            clean = (network(x).argmax(dim=1) == y).double().mean()
        robust = [is_robust(network, *part, eps) for part in zip(x.split(250), y.split(250), strict=True)]
        found.append((lam, float(clean), float(torch.cat(robust).double().mean())))
    return found


def screen(variant: Variant, recipe: Recipe) -> dict[str, Any]:
    """Train and judge; return accuracies by lam, and the seconds of the training."""
    data = recipe.dataset()
    trainer = trainer_for(recipe, data)
    for change in variant.changes:
        with torch.no_grad():
            change(trainer, recipe)
    started = time.process_time()
    with patch.object(Step, "_add_gradient", add_ordered_gradient if variant.ordered else _add_gradient):
        sizes = {"batch_size": recipe.batch_size, "nb_epochs": recipe.nb_epochs}
        trainer.fit(*data.train, scheduler=recipe.scheduler(), verbose=False, **sizes)
    seconds = time.process_time() - started
    return {"rows": judged(trainer.get_classifier().model, data, recipe.method.eps), "seconds": seconds}


def row_of(name: str, results: Sequence[Mapping[str, Any]]) -> Row:
    """Return means over the seeds, accuracies in percent."""
    known = {lam: shares for lam, *shares in np.mean([result["rows"] for result in results], axis=0).tolist()}
    row: Row = {"variant": name, "what": VARIANTS[name].what}
    for lam in JUDGED:
        for place, what in enumerate(("clean", "robust")):
            row[f"{what} at {lam:g}"] = f"{100 * known[lam][place]:.1f}" if lam in known else ""
    lambdas = list(known)
    areas = [frontier(np.array(it["rows"]).T[1:], lambdas).area((0.1, 0.0)) for it in results]
    seconds = np.mean([result["seconds"] for result in results])
    return row | {"area": f"{np.mean(areas):.4f}", "seeds": len(results), "seconds of training": f"{seconds:.0f}"}


def screened(name: str, recipe: Recipe, runs: Path) -> dict[str, Any]:
    """Screen a variant, or return what a folder holds of it."""
    path = runs / f"{re.sub('[^a-z0-9.]+', '-', name.lower())}-{recipe.seed}.json"
    recipe = recipe.changed(**VARIANTS[name].recipe)
    found: dict[str, Any] = kept(
        path, recipe.as_values() | {"data_folder": None}, lambda: screen(VARIANTS[name], recipe)
    )
    return found


def measure(given: argparse.Namespace) -> Found:
    base = BASE.changed(data_folder=given.data_folder, network=given.network)
    if given.smoke:
        base = BASE.changed(data="digits", network="small-4", nb_train=None, nb_epochs=1, batch_size=512)
    seeds = given.seeds[:1] if given.smoke else given.seeds
    rows = []
    for name in given.variants or VARIANTS:
        results = [screened(name, base.changed(seed=seed), given.runs / given.network) for seed in seeds]
        rows.append(row_of(name, results))
        print(text(rows[-1:]), flush=True)
    return Found({f"screens_{given.network}": rows}, seeds, is_kept=given.variants is None)


OPTIONS = {
    **data_options("screens", "cifar10"),
    "--variants": {"nargs": "+", "choices": VARIANTS, "help": "screen these alone; writes no result"},
    "--network": {"default": BASE.network, "help": "wrn-10-1 is that of tradeoff.py"},
    "--seeds": {"nargs": "+", "type": int, "default": SEEDS},
}

if __name__ == "__main__":
    run("screens", __doc__, measure, OPTIONS)
