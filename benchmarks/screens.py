"""What makes the dial turn: cheap trainings that change one thing each, judged by an attack on the margin.

    python -m benchmarks.screens --data-folder FOLDER                        # two hours on one core, or less by parts
    python -m benchmarks.screens --data-folder FOLDER --variants base w5     # these alone; writes no result
    python -m benchmarks.screens --smoke                                     # on digits, seconds; writes nothing

A small CNN (16, 32, 64 channels) on 4,000 images of CIFAR-10 (JPEG-75), 15 epochs of PGD-7 for the one network and 10
for each dedicated one. Judged on 1,000 validation images (never on test images): clean, and by 30 steps on the margin
from one random start, at lams 0, 0.1, 0.3 and 1. That attack comes within a point or two of AutoAttack, and costs a
tenth. One accuracy has a standard error of up to 1.6 points, a seed moves it by half a point to one. The area is that
under the four points, from (1 / K, 0).

What is trained is kept in --runs: the same command goes on. A change that wins here is tried again at the scale of
``tradeoff.py``, by AutoAttack.
"""

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat import OATModel, OATTrainer
from art_oat.attack import PGD
from art_oat.condition import current_condition
from art_oat.data import Dataset
from art_oat.files import write_whole
from art_oat.layers import FiLM
from art_oat.recipe import Recipe, trainer_for
from art_oat.training import StratifiedSampling, schedule_by_name
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
    weight_of_one=1.0,
    channels_last=True,
)
NB_EPOCHS_DEDICATED = 10
JUDGED = (0.0, 0.1, 0.3, 1.0)
SEEDS = (100,)
NB_JUDGED = 1000
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
        nb_clean_epochs: Of natural training before, from which the one network starts.
    """

    what: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    nb_clean_epochs: int = 0


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
            film.output = LowRankFiLM(film.output.in_features, film.output.out_features // 2, rank)
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
        like = partial(
            nn.Conv2d, conv.in_channels, kernel_size=conv.kernel_size, stride=conv.stride, padding=conv.padding
        )
        self.down = like(out_channels=conv.out_channels if rank is None else rank, bias=False)
        self.up = nn.Identity() if rank is None else nn.Conv2d(rank, conv.out_channels, 1, bias=False)
        nn.init.zeros_(next((self.up if rank is not None else self.down).parameters()))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x [N, C, H, W]``, each sample at its own lam."""
        lam = current_condition().of(len(x)).lam.view(-1, 1, 1, 1)
        result: Tensor = self.conv(x) + lam * self.up(self.down(x))
        return result


def weight_dial(rank: int | None) -> Change:
    """Let every convolution depend on lam. The conditional network itself is attacked: plain ones know no such layer."""

    def change(trainer: OATTrainer, recipe: Recipe) -> None:
        model = trainer.classifier.model
        for path, part in list(model.network.named_modules()):
            if isinstance(part, nn.Conv2d):
                parent, _, name = path.rpartition(".")
                setattr(model.network.get_submodule(parent), name, WeightDial(part, rank))
        _optimize(trainer, recipe)

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
        trainer.sampling = ScheduledSampling().moving(start, end, nb_steps)

    return change


def level_loss(trainer: OATTrainer, _: Recipe) -> None:
    """Weigh the losses so that the clean and the attacked terms have the same sum of weights in every batch."""

    def loss(logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: Any = None) -> Tensor:
        is_attacked = lam > 0
        clean = ((1 - lam) * F.cross_entropy(logits, y, reduction="none")).sum()
        attacked = (lam[is_attacked] * F.cross_entropy(logits_adv, y[is_attacked], reduction="none")).sum()
        return (clean / (1 - lam).sum() + attacked / lam.sum()) / 2

    trainer.loss = loss


class TaughtStep(Step):
    """A step with one more term, of the attacked samples with lam = 1."""

    def extra(self, x_adv: Tensor, y: Tensor, width: float) -> Tensor | None:
        """Return a sum over samples, or None."""
        raise NotImplementedError

    def _add_gradient(self, batch: Any, width: float, x_adv: Tensor, target: Tensor) -> Tensor:
        result = super()._add_gradient(batch, width, x_adv, target)
        is_one = batch.lam[batch.is_attacked] == 1
        if int(is_one.sum()) > 1:
            term = self.extra(x_adv[is_one], batch.classes[batch.is_attacked][is_one], width)
            if term is not None:
                (term / len(batch.lam)).backward()
        return result


class OrderingStep(TaughtStep):
    """Punishes where, on the same attacked images, the loss at lam = 1 is larger than at 0.1."""

    def extra(self, x_adv: Tensor, y: Tensor, width: float) -> Tensor:
        """Return ``sum(relu(CE at 1 - CE at 0.1))``."""
        losses = [
            F.cross_entropy(self._scores(x_adv, x_adv.new_full((len(x_adv),), lam), width), y, reduction="none")
            for lam in (1.0, 0.1)
        ]
        return F.relu(losses[0] - losses[1]).sum()


class DistillingStep(TaughtStep):
    """Lets lam = 1 learn from its own moving average as well."""

    def extra(self, x_adv: Tensor, y: Tensor, width: float) -> Tensor | None:
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
