"""What makes the dial turn: cheap trainings that change one thing each, judged by an attack on the margin.

    python -m benchmarks.screens --data-folder FOLDER                        # an hour on one core
    python -m benchmarks.screens --data-folder FOLDER --variants base w5     # these alone; writes no result
    python -m benchmarks.screens --smoke                                     # on digits, seconds; writes nothing

A small CNN (16, 32, 64 channels) on 4,000 images of CIFAR-10 (JPEG-75), 15 epochs of PGD-7 for the one network and 10
for each dedicated one. Judged on the 444 validation images, never on test images: clean, and by 30 steps on the margin
from one random start, at lams 0, 0.1, 0.3 and 1. One accuracy has a standard error of up to 2.4 points (1.7 under
attack), and a seed moves it by half a point to one: a screen finds large effects alone. The area is that under the four
points, from (1 / K, 0).

What is trained is kept in --runs: the same command goes on. A change that wins here is tried again at the scale of
``tradeoff.py``, by AutoAttack.
"""

import copy
import json
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat import PGD, OATModel, OATTrainer
from art_oat.condition import current_condition
from art_oat.data import Dataset
from art_oat.experiment.build import trainer_for
from art_oat.experiment.recipe import Recipe
from art_oat.layers import FiLM
from art_oat.storage import write_whole
from art_oat.training import StratifiedSampling, hybrid_loss, schedule_by_name
from art_oat.training.step import Step
from benchmarks.arguments import command, parser
from benchmarks.frontiers import frontier
from benchmarks.record import RESULTS, environment, text, write

BASE = Recipe(
    data="cifar10",
    network="small-16-32-64",
    nb_train=4000,
    nb_epochs=15,
    learning_rate=0.2,
    channels_last=True,
)
NB_EPOCHS_DEDICATED = 10
JUDGED = (0.0, 0.1, 0.3, 1.0)
SEEDS = (100,)
NB_STEPS = 30
Change = Callable[[OATTrainer, Recipe], None]
"""Changes a trainer before it starts."""


@dataclass(frozen=True)
class Variant:
    """One training.

    Attributes:
        what: It changes.
        recipe: Changes to the recipe.
        changes: To the trainer.
    """

    what: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[Change] = ()


# --- codes of lam -----------------------------------------------------------------------------------------------------


def scaled_codes(factor: float) -> Change:
    """Multiply the codes: with SGD, a linear FiLM then learns ``factor ** 2`` times as fast."""

    def change(trainer: OATTrainer, _: Recipe) -> None:
        trainer.classifier.model.encoding.table.mul_(factor)

    return change


def cumulative_codes(trainer: OATTrainer, _: Recipe) -> None:
    """Let the code of each lam be the sum of the one-hot codes up to it: neighbors learn from each other."""
    table = trainer.classifier.model.encoding.table
    table.copy_(torch.ones_like(table).tril())


# --- FiLM -------------------------------------------------------------------------------------------------------------


class LowRankFiLM(nn.Module):
    """A linear FiLM whose map has a rank: ``up(down(code))``."""

    def __init__(self, code_dim: int, nb_channels: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(code_dim, rank, bias=False), nn.Linear(rank, 2 * nb_channels, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, code: Tensor) -> Tensor:
        """Return ``[G, 2C]`` for codes ``[G, D]``."""
        result: Tensor = self.up(self.down(code))
        return result


def low_rank_film(rank: int) -> Change:
    """Exchange the map of every FiLM for one of a rank."""

    def change(trainer: OATTrainer, recipe: Recipe) -> None:
        films = [part for part in trainer.classifier.model.modules() if isinstance(part, FiLM)]
        for film in films:
            weight = film.get_parameter("output.weight")
            film.output = LowRankFiLM(weight.shape[1], len(weight) // 2, rank)
        _optimize(trainer, recipe)

    return change


def film_groups(rate: float, weight_decay: float = 0.0) -> Change:
    """Give FiLM a learning rate of its own, in multiples of that of the rest, and a weight decay."""

    def change(trainer: OATTrainer, recipe: Recipe) -> None:
        model = trainer.classifier.model
        film = {id(it) for part in model.modules() if isinstance(part, FiLM) for it in part.parameters()}
        optimizer = trainer.classifier.optimizer
        weights = [it for group in optimizer.param_groups for it in group["params"] if id(it) in film]
        for group in optimizer.param_groups:
            group["params"] = [it for it in group["params"] if id(it) not in film]
        own = {"params": weights, "lr": recipe.learning_rate * rate, "weight_decay": weight_decay}
        optimizer.add_param_group(own)

    return change


def _optimize(trainer: OATTrainer, recipe: Recipe) -> None:
    """Let a new optimizer see what was exchanged; what is new decays like the rest."""
    rest = [it for it in trainer.classifier.model.parameters() if it.requires_grad]
    trainer.classifier._optimizer = torch.optim.SGD(
        rest, recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )


# --- weights that depend on lam ---------------------------------------------------------------------------------------


class WeightDial(nn.Module):
    """A convolution whose weight is ``W + lam * D``; ``D`` has a rank, or is of full size, and starts at zero.

    At one lam it is an ordinary convolution.
    """

    def __init__(self, conv: nn.Conv2d, rank: int | None) -> None:
        super().__init__()
        self.conv = conv
        self.down = copy.deepcopy(conv)
        self.down.bias = None
        self.up: nn.Module = nn.Identity()
        if rank is None:
            nn.init.zeros_(self.down.weight)
        else:
            self.down.weight = nn.Parameter(self.down.weight[:1].repeat(rank, 1, 1, 1))
            self.down.reset_parameters()
            self.up = nn.Conv2d(rank, conv.out_channels, 1, bias=False)
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x [N, C, H, W]``, each sample at its own lam."""
        lam = current_condition().of(len(x)).lam.view(-1, 1, 1, 1)
        result: Tensor = self.conv(x) + lam * self.up(self.down(x))
        return result


class DialedStep(Step):
    """Attacks the conditional network itself: the plain ones know no weights that depend on lam."""

    def _attacked(self, batch: Any, width: float) -> Tensor:
        is_attacked = batch.is_attacked
        x, y, lam = (part[is_attacked] for part in (batch.x, batch.classes, batch.lam))
        network: Any = partial(self.model.eval(), lam=lam, width=width)
        x_adv: Tensor = PGD()(network, x, y, clip_values=(0, 1), generator=self.generator) if len(x) else x
        return x_adv

    def end_epoch(self) -> None:
        """Do not look at answers: plain networks would give them."""
        self._average()


def weight_dial(rank: int | None) -> Change:
    """Let every convolution depend on lam."""

    def change(trainer: OATTrainer, recipe: Recipe) -> None:
        network = trainer.classifier.model.network
        for path, part in list(network.named_modules()):
            if isinstance(part, nn.Conv2d):
                parent, _, name = path.rpartition(".")
                setattr(network.get_submodule(parent), name, WeightDial(part, rank))
        _optimize(trainer, recipe)
        step_by(DialedStep)(trainer, recipe)

    return change


# --- what is drawn, and what is learned ----------------------------------------------------------------------------


class ScheduledSampling(StratifiedSampling):
    """Draws lam = 1 with a weight that moves, on a logarithmic scale, from one to another over the training."""

    def moving(self, start: float, end: float, nb_steps: int) -> "ScheduledSampling":
        """Set the way."""
        self.__dict__.update(start=start, end=end, nb_steps=nb_steps, step=0)
        return self

    def draw(self, lambdas: Sequence[float], batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Return one lam per sample."""
        way = vars(self)
        share = way["step"] / way["nb_steps"]
        way["step"] += 1
        weight = way["start"] ** (1 - share) * way["end"] ** share
        return StratifiedSampling({1.0: weight}).draw(lambdas, batch_size, generator)


def weight_of_one_from(start: float, end: float) -> Change:
    """Draw lam = 1 with a weight that moves."""

    def change(trainer: OATTrainer, recipe: Recipe) -> None:
        nb_steps = recipe.nb_epochs * -(-(recipe.nb_train or 1) // recipe.batch_size)
        sampling = ScheduledSampling().moving(start, end, nb_steps)
        trainer.method = replace(trainer.method, sampling=sampling)

    return change


def level_loss(trainer: OATTrainer, _: Recipe) -> None:
    """Weigh the losses so that the clean and the attacked terms have the same sum of weights in every batch."""

    def loss(logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: Any = None) -> Tensor:
        is_attacked = lam > 0
        if not bool(is_attacked.any()):
            return hybrid_loss(logits, logits_adv, y, lam, criterion)
        clean = ((1 - lam) * F.cross_entropy(logits, y, reduction="none")).sum()
        attacked = (lam[is_attacked] * F.cross_entropy(logits_adv, y[is_attacked], reduction="none")).sum()
        return (clean / (1 - lam).sum() + attacked / lam.sum()) / 2

    trainer.method = replace(trainer.method, loss=loss)


class TaughtStep(Step):
    """A step with one more term, of the attacked samples with lam = 1."""

    def term(self, x_adv: Tensor, y: Tensor, width: float) -> Tensor | None:
        """Return a sum over samples, or None."""
        raise NotImplementedError

    def _add_gradient(self, batch: Any, width: float, x_adv: Tensor, target: Tensor) -> Tensor:
        result = super()._add_gradient(batch, width, x_adv, target)
        is_one = batch.lam[batch.is_attacked] == 1
        if int(is_one.sum()) > 1:
            found = self.term(x_adv[is_one], batch.classes[batch.is_attacked][is_one], width)
            if found is not None:
                (found / len(batch.lam)).backward()
        return result


class OrderingStep(TaughtStep):
    """Punishes where, on the same attacked images, the loss at lam = 1 is larger than at 0.1."""

    def term(self, x_adv: Tensor, y: Tensor, width: float) -> Tensor:
        """Return ``sum(relu(CE at 1 - CE at 0.1))``."""
        losses = [
            F.cross_entropy(self._scores(x_adv, x_adv.new_full((len(x_adv),), lam), width), y, reduction="none")
            for lam in (1.0, 0.1)
        ]
        return F.relu(losses[0] - losses[1]).sum()


class DistillingStep(TaughtStep):
    """Lets lam = 1 learn from its own moving average as well."""

    def term(self, x_adv: Tensor, y: Tensor, width: float) -> Tensor | None:
        """Return ``sum(KL(average(x_adv) || network(x_adv)))``; None before there is an average to speak of."""
        if self.average is None or self.average.nb_updates < 20:  # noqa: PLR2004
            return None
        if not hasattr(self, "teacher"):
            self.teacher = copy.deepcopy(self.model)
        tensors = (*self.teacher.parameters(), *self.teacher.buffers())
        with torch.no_grad():
            torch._foreach_copy_([it for it in tensors if it.is_floating_point()], self.average._averages)
            taught = self.teacher.eval()(x_adv, lam=1.0).softmax(dim=1)
        learned = self._scores(x_adv, x_adv.new_ones(len(x_adv)), width).log_softmax(dim=1)
        return F.kl_div(learned, taught, reduction="sum")


def step_by(kind: type[Step]) -> Change:
    """Train by steps of another kind."""

    def change(trainer: OATTrainer, _: Recipe) -> None:
        trainer.__dict__["step_kind"] = kind

    return change


def _dedicated(lam: float, **changes: Any) -> dict[str, Any]:
    return {"lambdas": (lam,), "film": None, "nb_epochs": NB_EPOCHS_DEDICATED, **changes}


_FIVE, _TEN, _TWENTY = ({"sampling": StratifiedSampling({1.0: weight})} for weight in (5.0, 10.0, 20.0))
_CLEAN = {"clean_share": 8 / 22, "nb_epochs": 22}
_HALF = {"clean_share": 0.5, "nb_epochs": 30}
_DEDICATED_CLEAN = {"clean_share": 8 / 17, "nb_epochs": 17}
VARIANTS: Mapping[str, Variant] = {
    "dedicated, lam 0": Variant("plain", _dedicated(0.0)),
    "dedicated, lam 0.1": Variant("plain", _dedicated(0.1)),
    "dedicated, lam 0.3": Variant("plain", _dedicated(0.3)),
    "dedicated, lam 1": Variant("plain", _dedicated(1.0)),
    "dedicated, lam 1, clean first": Variant("plain; 8 clean epochs, then 9", _dedicated(1.0) | _DEDICATED_CLEAN),
    "dedicated, lam 1, rate 0.1": Variant("plain", _dedicated(1.0, learning_rate=0.1)),
    "dedicated, lam 1, rate 0.4": Variant("plain", _dedicated(1.0, learning_rate=0.4)),
    "dedicated, lam 1, average": Variant("plain; an average of weights", _dedicated(1.0, ema=0.98)),
    "two-layer": Variant("FiLM of two layers", {"film": "two-layer"}),
    "table": Variant("FiLM a table, every lam as often"),
    "table, codes x 3": Variant("it learns nine times as fast", changes=(scaled_codes(3.0),)),
    "lam 1 x 5": Variant("drawn five times as often as each other lam above 0", _FIVE),
    "lam 1 x 20": Variant("twenty times", _TWENTY),
    "lam 1 x 20, codes x 3": Variant("both", _TWENTY, (scaled_codes(3.0),)),
    "lam 1 x 10, average": Variant("ten times; an average of weights", _TEN | {"ema": 0.98}),
    "lam 1 x 5, cumulative codes": Variant("neighbors have codes in common", _FIVE, (cumulative_codes,)),
    "lam 1 x 5, rank 2": Variant("a FiLM of rank 2", _FIVE, (low_rank_film(2),)),
    "lam 1 x 5, FiLM decays": Variant("as convolutions do", _FIVE, (film_groups(1.0, BASE.weight_decay),)),
    "lam 1 from 1 to 30": Variant("ever more often", {}, (weight_of_one_from(1.0, 30.0),)),
    "lam 1 from 30 to 1": Variant("ends first", {}, (weight_of_one_from(30.0, 1.0),)),
    "level losses": Variant("clean and attacked terms weigh the same in every batch", {}, (level_loss,)),
    "lam 1 x 5, ordered": Variant("the loss at 1 may not exceed that at 0.1", _FIVE, (step_by(OrderingStep),)),
    "lam 1 x 5, taught": Variant("by its own average", _FIVE | {"ema": 0.98}, (step_by(DistillingStep),)),
    "lam 1 x 5, clean first": Variant("8 clean epochs, then 14", _FIVE | _CLEAN),
    "lam 1 x 5, clean first, longer": Variant(
        "24 clean epochs, then 12", _FIVE | {"clean_share": 24 / 36, "nb_epochs": 36}
    ),
    "lam 1 x 5, clean first, other lams": Variant(
        "0, .02, .05, .1, .2, .5 and 1", _FIVE | _CLEAN | {"lambdas": (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)}
    ),
    "lam 1 x 5, half clean": Variant("15 clean epochs, then 15", _FIVE | _HALF),
    "lam 1 x 20, half clean": Variant("15 clean epochs, then 15", _HALF | _TWENTY),
    "level losses, clean first": Variant("8 clean epochs, then 14", _CLEAN, (level_loss,)),
    "clean first, weights of rank 2": Variant(
        "convolutions in place of FiLM", _FIVE | _CLEAN | {"film": None}, (weight_dial(2),)
    ),
    "clean first, two ends of weights": Variant(
        "likewise, of full size", _FIVE | _CLEAN | {"film": None}, (weight_dial(None),)
    ),
    "clean first, table and weights of rank 2": Variant("both", _FIVE | _CLEAN, (weight_dial(2),)),
}
"""By name; what is not said is as in ``BASE``."""


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Return by how much the best wrong score is ahead of the right one, ``[N]``."""
    right = logits.gather(1, y.unsqueeze(1))
    return (logits.scatter(1, y.unsqueeze(1), -torch.inf) - right).amax(dim=1)


def stands(network: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float) -> Tensor:
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
    rows = []
    for lam in (lam for lam in JUDGED if model.lambdas[0] <= lam <= model.lambdas[-1]):
        network = partial(model.eval(), lam=lam)
        with torch.no_grad():
            clean = (network(x).argmax(dim=1) == y).double().mean()
        robust = [stands(network, *part, eps) for part in zip(x.split(250), y.split(250), strict=True)]
        rows.append((lam, float(clean), float(torch.cat(robust).double().mean())))
    return rows


def screen(variant: Variant, recipe: Recipe) -> dict[str, Any]:
    """Train and judge; return accuracies by lam, and the seconds of the training."""
    recipe = recipe.changed(**variant.recipe)
    data = recipe.dataset()
    trainer = trainer_for(recipe, data)
    for change in variant.changes:
        with torch.no_grad():
            change(trainer, recipe)
    started = time.process_time()
    kind = vars(trainer).get("step_kind", Step)
    with patch("art_oat.training.trainer.Step", kind):
        schedule = schedule_by_name(recipe.schedule)
        trainer.fit(
            *data.train, batch_size=recipe.batch_size, nb_epochs=recipe.nb_epochs, scheduler=schedule, verbose=False
        )
    seconds = time.process_time() - started
    return {"rows": judged(trainer.get_classifier().model, data, recipe.method.eps), "seconds": seconds}


def row(name: str, variant: Variant, results: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Return means over the seeds, accuracies in percent."""
    means = np.mean([result["rows"] for result in results], axis=0)
    found: dict[str, object] = {"variant": name, "what": variant.what}
    for lam in JUDGED:
        known = {key: (clean, robust) for key, clean, robust in means}.get(lam)
        found |= {
            f"{what} at {lam:g}": "" if known is None else f"{100 * known[place]:.1f}"
            for place, what in enumerate(("clean", "robust"))
        }
    areas = [
        frontier(np.array(result["rows"]).T[1:], [lam for lam, *_ in result["rows"]]).area((0.1, 0.0))
        for result in results
    ]
    seconds = np.mean([result["seconds"] for result in results])
    return found | {"area": f"{np.mean(areas):.4f}", "seeds": len(results), "seconds of training": f"{seconds:.0f}"}


def run(names: Sequence[str], recipe: Recipe, seeds: Sequence[int], runs: Path) -> list[dict[str, object]]:
    """Screen variants, but for what is kept in a folder already; print the table as it grows."""
    table = []
    for name in names:
        results = []
        for seed in seeds:
            kept = runs / f"{re.sub('[^a-z0-9.]+', '-', name.lower())}-{seed}.json"
            asked = recipe.changed(seed=seed, **VARIANTS[name].recipe)
            settings = json.loads(json.dumps(asked.as_values() | {"data_folder": None}))
            if not kept.exists():
                result = {"settings": settings, **screen(VARIANTS[name], recipe.changed(seed=seed))}
                kept.parent.mkdir(parents=True, exist_ok=True)
                with write_whole(kept) as file:
                    json.dump(result, file)
            results.append(json.loads(kept.read_text(encoding="utf-8")))
            if results[-1]["settings"] != settings:
                raise ValueError(
                    f"{kept} must hold this variant, but holds one of other settings. Name another --runs."
                )
        table.append(row(name, VARIANTS[name], results))
        print(text(table[-1:]), flush=True)
    return table


def main() -> None:
    asking = parser(__doc__)
    asking.set_defaults(runs=Path("runs/screens"), data="cifar10")
    asking.add_argument("--variants", nargs="+", choices=VARIANTS, help="screen these alone; writes no result")
    asking.add_argument("--network", default=BASE.network, help="wrn-10-1 is that of tradeoff.py")
    asking.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    given = asking.parse_args()
    names = given.variants or list(VARIANTS)
    if given.smoke:
        few = replace(BASE, data="digits", network="small-4", nb_train=None, nb_epochs=1, batch_size=512)
        with tempfile.TemporaryDirectory() as scratch:
            run(names, few, given.seeds[:1], Path(scratch))
        return
    base = replace(BASE, data_folder=given.data_folder, network=given.network)
    table = run(names, base, given.seeds, given.runs / given.network)
    if given.variants is None:
        made_by = environment(command("screens", given, f"--network {given.network}"), given.seeds)
        write(RESULTS / f"screens_{given.network}.csv", table, made_by)


if __name__ == "__main__":
    main()
