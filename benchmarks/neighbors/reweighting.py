"""Instance reweighting: attacked samples of a batch that count more, the harder they are.

Weights have the mean 1 over the samples of one lam in a batch (by class weights where there are some): so each lam
keeps the weight ``lam`` of its attacked loss, and the perturbation of weights, which goes lam by lam, climbs the same.
"""

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from art_oat import OATTrainer
from art_oat.data import Dataset
from art_oat.experiment.recipe import Recipe
from art_oat.training import hybrid_loss
from art_oat.training.loss import attacked, class_weights, cross_entropy, total_weight
from art_oat.training.method import Augmentation
from benchmarks.neighbors.neighbor import Neighbor, Prepare


@dataclass
class Start:
    """From which step on samples are weighed; it counts them as what changes their inputs, once a step."""

    nb_steps: int
    augmentation: Augmentation | None = None
    nb_seen: int = 0

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Count a step, and change inputs as is asked for beside."""
        self.nb_seen += 1
        return x if self.augmentation is None else self.augmentation(x, generator)

    @property
    def is_past(self) -> bool:
        return self.nb_seen > self.nb_steps


class Scores(Protocol):
    """How much samples of equal lam count among each other, as logarithms, ``[G]``."""

    def __call__(self, logits_adv: Tensor, losses: Tensor, y: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class DoublyRobust:
    """``w = exp(loss / r)``, over its mean: the weights that maximize ``mean(w * loss) - r * mean(w * log w)``.

    Doubly robust instance reweighting (Sow et al., arXiv:2308.00311): robust in the worst input and in the worst
    distribution near the samples' own by the divergence. At these weights, the objective is
    ``r * log(mean(exp(loss / r)))``, whose gradient is that of ``mean(w * loss)`` at fixed weights. Left out are the
    derivative through the attack and the running mean over batches.
    """

    r: float

    def __call__(self, logits_adv: Tensor, losses: Tensor, y: Tensor) -> Tensor:
        return losses / self.r


@dataclass(frozen=True)
class Margins:
    """``w = sigmoid(-slope * (m - bias))``, over its mean; ``m = p_y(x') - max_{k != y} p_k(x')``.

    MAIL (Wang et al., arXiv:2106.07904), the margin form of GAIRAT (arXiv:2010.01736): by how much an attacked sample
    is still right, in place of how many steps it took to make it wrong. Published with slope 10 and bias -0.5.
    """

    slope: float
    bias: float

    def __call__(self, logits_adv: Tensor, losses: Tensor, y: Tensor) -> Tensor:
        probabilities, right = logits_adv.softmax(dim=1), (y if y.dim() == 1 else y.argmax(dim=1)).unsqueeze(1)
        wrong = probabilities.scatter(1, right, -torch.inf).amax(dim=1)
        margin = probabilities.gather(1, right).squeeze(1) - wrong
        return nn.functional.logsigmoid(-self.slope * (margin - self.bias))


@dataclass(frozen=True)
class ReweightedLoss:
    """``mean((1 - lam) * CE(f(x), y) + lam * w * CE(f(x'), y))``, with weights that carry no gradient.

    Class weights and label smoothing are as in the hybrid loss, which it is before the first step that is weighed.
    """

    scores: Scores
    start: "Start" = field(repr=False)
    is_separable: ClassVar[bool] = True

    def __call__(
        self, logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: nn.CrossEntropyLoss | None = None
    ) -> Tensor:
        is_attacked, criterion = attacked(logits_adv, y, lam), criterion or nn.CrossEntropyLoss()
        own, own_lam = y[is_attacked], lam[is_attacked]
        losses = cross_entropy(criterion, logits_adv, own)
        shares = class_weights(criterion, logits_adv, own)
        plain = cross_entropy(nn.CrossEntropyLoss(label_smoothing=criterion.label_smoothing), logits_adv, own)
        scores = self.scores(logits_adv, plain, own).detach() if self.start.is_past else torch.zeros_like(plain)
        weights = by_group(scores, shares, own_lam)
        total = ((1 - lam) * cross_entropy(criterion, logits, y)).sum() + (own_lam * weights * losses).sum()
        return total / total_weight(criterion, y)


def by_group(scores: Tensor, shares: Tensor, lam: Tensor) -> Tensor:
    """Return ``exp(scores)`` over its mean among samples of equal lam, weighed by shares, ``[A]``."""
    weights = torch.ones_like(scores)
    for value in lam.unique().tolist():
        group = lam == value
        if shares[group].sum() > 0:
            raised = (scores[group] - scores[group].max()).exp()
            weights[group] = raised * shares[group].sum() / (raised * shares[group]).sum()
    return weights


def reweighted(scores: Scores, first_share: float = 0.0) -> Prepare:
    """Return what exchanges the hybrid loss of a trainer, after a first share of the steps as before."""

    def prepare(trainer: OATTrainer, data: Dataset, recipe: Recipe) -> Dataset:
        method = trainer.method
        if method.loss_function is not hybrid_loss:
            raise ValueError("instance reweighting needs the hybrid loss.")
        nb_steps = recipe.nb_epochs * math.ceil(len(data.train.x) / recipe.batch_size)
        start = Start(round(first_share * nb_steps), method.augmentation)
        trainer.method = replace(method, loss=ReweightedLoss(scores, start), augmentation=start)
        return data

    return prepare


_CODE = (Start, ReweightedLoss, by_group, reweighted)
_MAIL_START = 5 / 8  # of the epochs, as published: the 75th of 120
# chosen on held-out images of a fold of digits, seed 100, PGD-50, mean over lam 0.2 and 1: r = 1 66.7%, r = 3 73.1%,
# "oat" 72.7%; margin weights as published, 63.3%
NEIGHBORS = {
    "doubly robust weights": Neighbor(
        "attacked samples of a batch weighed by exp(loss / r)",
        "arXiv:2308.00311",
        prepare=reweighted(DoublyRobust(3.0)),
        code=(DoublyRobust, *_CODE),
    ),
    "margin weights": Neighbor(
        "attacked samples weighed by how far they are wrong, after 5/8 of the epochs",
        "arXiv:2106.07904",
        prepare=reweighted(Margins(10.0, -0.5), _MAIL_START),
        code=(Margins, *_CODE),
    ),
}
