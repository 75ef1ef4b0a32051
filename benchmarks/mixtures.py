"""Which mixtures of a network's two ends are worth measuring, by images that are held out."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from art_oat import PGD, AutoAttack, Frontier, OATClassifier
from art_oat.attacks import TensorAttack, is_correct
from art_oat.frontier import MeasuredPoint
from benchmarks.frontiers import CORNER
from benchmarks.neighbors.mixed import Amplified, Mixed, mixed

NB_MIXTURES = 3
ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
TRANSFORMS = [
    None,
    *(Amplified(*it) for it in itertools.product((0.3, 1.0, 3.0, 10.0), (1.0, 2.0, 4.0), (0.0, -0.5, -1.0))),
]
PLAIN = (0.5, 0.9)
"""Weights of the plain mixtures whose examples the candidates meet first."""

CHOOSERS: dict[str, Callable[[float], TensorAttack]] = {
    "apgd-dlr": partial(AutoAttack, version="plus", parts=("apgd-dlr",)),
    "pgd-1": partial(PGD, nb_steps=1),
}
"""What meets candidates. A confident mixture is flat to the cross-entropy, and PGD chose what only seemed robust."""


@dataclass(frozen=True)
class Effort:
    """How much is attacked how hard: test images, held-out images, candidates that are attacked themselves, and how."""

    nb_test: int
    nb_held_out: int
    nb_tried: int
    nb_steps: int = 20
    chooser: str = "apgd-dlr"
    judge: str = "autoattack"


class Candidate(NamedTuple):
    """The weight of the robust network, and what is done to its scores."""

    alpha: float
    transform: Amplified | None

    def of(self, classifier: OATClassifier) -> Mixed:
        """Return the mixture of a network's ends."""
        return Mixed.of(classifier, self.alpha, self.transform)


class Subject(NamedTuple):
    """A network with images to choose by and to judge by, and which images of the study the latter are."""

    name: str
    classifier: OATClassifier
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    index: NDArray[np.int64]
    seed: int
    eps: float


def attacked(network: nn.Module, images: tuple[Tensor, Tensor], attack: TensorAttack) -> Tensor:
    return attack(network, *images, clip_values=(0, 1), generator=torch.Generator().manual_seed(0))


def _area(points: Sequence[tuple[float, float]]) -> float:
    return Frontier(tuple(MeasuredPoint(0.0, 1.0, clean, robust, 1, 1) for clean, robust in points)).area(CORNER)


def best_first(ends: Sequence[tuple[float, float]], points: Sequence[tuple[float, float]], count: int) -> list[int]:
    """Return which points add most to the hypervolume of the ends, one after the other: places, at most ``count``."""
    chosen: list[int] = []
    while len(chosen) < min(count, len(points)):
        left = [place for place in range(len(points)) if place not in chosen]
        have = [*ends, *(points[place] for place in chosen)]
        chosen.append(max(left, key=lambda place: _area([*have, points[place]])))
    return chosen


def screened(subject: Subject, effort: Effort) -> list[Candidate]:
    """Return candidates that do best on examples for others: every transformation is tried on the same answers."""
    (x, y), classifier = subject.held_out, subject.classifier
    ends = [classifier.at(lam).as_module() for lam in (0.0, classifier.model.lambdas[-1])]
    pgd = PGD.for_evaluation(subject.eps, effort.nb_steps, "Linf")
    targets = [*ends, *(Mixed.of(classifier, alpha) for alpha in PLAIN)]
    inputs = [x, *(attacked(target, (x, y), pgd) for target in targets)]
    with torch.no_grad():
        scores = [torch.stack([network(it) for it in inputs]) for network in ends]
    every = [Candidate(*it) for it in itertools.product(ALPHAS, TRANSFORMS)]
    points = []
    for candidate in every:
        right = mixed(*scores, candidate.alpha, candidate.transform).argmax(dim=-1) == y
        points.append((float(right[0].float().mean()), float(right.all(dim=0).float().mean())))
    return [every[place] for place in best_first((), points, effort.nb_tried)]


def chosen(subject: Subject, effort: Effort) -> list[tuple[float, dict[str, float] | None]]:
    """Return the mixtures of a network by held-out images, as plain values, in the order of alpha."""
    x, y = subject.held_out
    attack = CHOOSERS[effort.chooser](subject.eps)

    def point(network: nn.Module) -> tuple[float, float]:
        right = [is_correct(network, it, y) for it in (x, attacked(network, (x, y), attack))]
        return float(right[0].float().mean()), float((right[0] & right[1]).float().mean())

    candidates = screened(subject, effort)
    ends = [point(subject.classifier.at(lam).as_module()) for lam in (0.0, subject.classifier.model.lambdas[-1])]
    points = [point(candidate.of(subject.classifier)) for candidate in candidates]
    places = best_first(ends, points, NB_MIXTURES)
    print(subject.name, "held out:", ends, [(candidates[it], points[it]) for it in places], flush=True)
    found = sorted((candidates[it] for it in places), key=lambda it: it.alpha)
    return [(it.alpha, it.transform and asdict(it.transform)) for it in found]
