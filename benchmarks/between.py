"""Attacks on the interpolation of the dial: do lams between trained ones hide gradients, or are they weaker?

    python -m benchmarks.between --data digits                          # 3 minutes on one core
    python -m benchmarks.between --data cifar10 --data-folder FOLDER    # 10 minutes on one core

The networks that come with the library (``art_oat.pretrained``), one training each, on the first test images (of
digits on photographs; of CIFAR-10, JPEG-75). Between two trained lams nothing was trained: FiLM is interpolated. Each
image is attacked by PGD at every lam, trained or between (3 lams in each gap on digits, 1 on CIFAR-10), and by those
who know the trained lams and aim at all of them: at the mean of their probabilities, as ``TransferMatrix`` does; at the
mean of their losses; or at a lam that is drawn at each step, with as many steps, and with as many gradients. Everything
is answered at every lam. What is left at a lam by all of these is attacked there by Square (torchattacks, 1,000
queries, on CIFAR-10 500), which needs no gradients: if these were masked, it would find many more.

results/dial_DATA_between.csv has a row per lam, in percent of images; differences are paired by image, with 95%
bootstrap intervals. "next" are the trained lams on both sides, "line" is what they keep, interpolated.
results/dial_DATA_attackers.csv has a row per attacker on all lams: what he leaves of answers whose lam is drawn from
the trained ones, or from all; and of images, if he may ask until a draw suits him.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torchattacks
from numpy.typing import NDArray
from torch import Tensor, nn

from art_oat import PGD, OATClassifier, pretrained
from art_oat.attacks import TensorAttack, bind, is_correct, within_ball
from art_oat.evaluation.cross_attacks import Mixture, right_after
from art_oat.evaluation.options import EvaluationOptions
from benchmarks.statistics import interval
from benchmarks.study import Found, data_options, run
from benchmarks.tables import Row


@dataclass(frozen=True)
class Effort:
    """How much is attacked how hard.

    Attributes:
        nb_images: The first test images.
        nb_between: Lams between two trained ones, at equal distances.
        nb_steps: Steps of PGD.
        nb_queries: Of Square for each image.
    """

    nb_images: int
    nb_between: int
    nb_steps: int
    nb_queries: int = 1000


EFFORTS = {"digits": Effort(300, 3, 50), "cifar10": Effort(100, 1, 20, 500)}
SMOKE = Effort(20, 1, 2, 5)
PROBABILITY, LOSS, DRAWN, DRAWN_LONG = ATTACKERS = (
    "mean probability",
    "mean loss",
    "lam drawn at each step",
    "lam drawn at each step, as many gradients",
)
Answers = NDArray[np.bool_]
Shares = NDArray[np.float64]


class MeanLoss(Mixture):
    """Scores whose cross-entropy is the mean of those of all networks: ``mean_b log softmax f_b(x)``.

    These are logarithms of numbers that sum to less than 1; one class more, the last, has what is missing.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, K + 1]`` for inputs ``[N, ...]``."""
        logs = torch.stack([network(x).log_softmax(dim=1) for network in self.networks]).mean(dim=0)
        missing = 1 - logs.exp().sum(dim=1, keepdim=True)
        return torch.cat([logs, missing.clamp_min(1e-6).log()], dim=1)


class Drawn(Mixture):
    """One of the networks, drawn anew at every pass."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__(networks)
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of one network, ``[N, K]``, for inputs ``[N, ...]``."""
        scores: Tensor = self.networks[int(torch.randint(len(self.networks), (), generator=self.generator))](x)
        return scores


def with_between(trained: Sequence[float], count: int) -> list[float]:
    """Return the trained lams and as many in each gap, at equal distances, ascending."""
    places = np.arange((len(trained) - 1) * (count + 1) + 1) / (count + 1)
    return [round(float(lam), 6) for lam in np.interp(places, np.arange(len(trained)), trained)]


def neighbors(lam: float, trained: Sequence[float]) -> list[float]:
    """Return the next trained lams below and above; one at an end of the dial."""
    return [*[it for it in trained if it < lam][-1:], *[it for it in trained if it > lam][:1]]


@dataclass(frozen=True)
class Attacked:
    """Which images are right as they are, and attacked.

    Attributes:
        trained: The trained lams.
        lams: All lams, ascending; they are attacked, and answer.
        clean: Images that are right as they are, ``[lams, N]``.
        right: Images that are right after each attacker, at a lam or on all, ``[lams, N]``.
        after_square: Images that are right after all of these, and Square, ``[lams, N]``.
    """

    trained: Sequence[float]
    lams: Sequence[float]
    clean: Answers
    right: dict[float | str, Answers]
    after_square: Answers

    def left(self, lam: float, attackers: Iterable[float | str]) -> Answers:
        """Return which images withstand all of some attackers at a lam, ``[N]``."""
        at = self.lams.index(lam)
        return np.logical_and.reduce([self.clean[at], *(self.right[it][at] for it in attackers)])

    def row(self, lam: float) -> Row:
        """Report what is left at a lam by whom."""
        at, nearby = self.lams.index(lam), neighbors(lam, self.trained)
        left = {
            "itself": self.left(lam, [lam]),
            **{f"the next {side}": self.left(lam, [it]) for side, it in _sides(lam, nearby).items()},
            "both next": self.left(lam, nearby),
            **{name: self.left(lam, [name]) for name in ATTACKERS},
            "any of these": self.left(lam, self.right),
        }
        after = {**left, "any, and Square": self.after_square[at]}
        row: Row = {"lam": f"{lam:g}", "is trained": lam in self.trained, "clean": _percent(self.clean[at])}
        row |= {f"left by {name}": _percent(images) for name, images in after.items()}
        others = [self.left(it, self.right).astype(float) for it in nearby]
        line = sum(share * it for share, it in zip(_shares(lam, nearby), others, strict=True))
        row |= {"only others find": _percent(left["itself"] & ~left["any of these"])}
        row |= {"only Square finds": _percent(left["any of these"] & ~self.after_square[at])}
        row |= _difference("left by any, minus line between next", left["any of these"], line)
        return row | _difference("left by any, minus weaker next", left["any of these"], min(others, key=np.mean))

    def attacker(self, attackers: Sequence[float | str], nb_gradients: int) -> Row:
        """Report what is left of answers at a lam that is drawn, by any of some attackers."""
        row: Row = {"gradients per image": nb_gradients}
        for which, lams in {"trained": self.trained, "all": self.lams}.items():
            chance = self._chance(attackers, lams)
            row |= {f"{which} lams, drawn": _percent(chance)}
            if which == "trained":
                row |= _difference(f"minus {PROBABILITY}", chance, self._chance([PROBABILITY], lams))
            again = [self.left(lam, attackers) for lam in lams]
            row |= {f"{which} lams, asked again": _percent(np.logical_and.reduce(again))}
        return row

    def _chance(self, attackers: Sequence[float | str], lams: Sequence[float]) -> Shares:
        """Return the chance of a right answer to the worst that an attacker has at hand, ``[N]``."""
        drawn = [self.lams.index(lam) for lam in lams]
        chances = [it[drawn].mean(axis=0) for it in (self.clean, *(self.right[name] for name in attackers))]
        return np.asarray(np.min(chances, axis=0))


def _sides(lam: float, nearby: Sequence[float]) -> dict[str, float]:
    return {"below" if it < lam else "above": it for it in nearby}


def _shares(lam: float, nearby: Sequence[float]) -> list[float]:
    """Return how near a lam is to each of its neighbors; the sum is 1."""
    if len(nearby) == 1:
        return [1.0]
    below, above = nearby
    return [(above - lam) / (above - below), (lam - below) / (above - below)]


def _percent(images: NDArray[np.generic]) -> str:
    return f"{100 * images.mean():.1f}"


def _difference(name: str, images: NDArray[np.generic], reference: NDArray[np.generic]) -> Row:
    values = 100 * (images.astype(float) - reference.astype(float))
    low, high = interval(values)
    return {name: f"{values.mean():+.1f}", f"{name} 95%": f"{low:+.1f} to {high:+.1f}"}


def attacked(classifier: OATClassifier, x: Tensor, y: Tensor, pgd: PGD, effort: Effort) -> Attacked:
    """Attack everywhere by PGD, and what withstands all of it by Square."""
    trained = classifier.model.lambdas
    lams = with_between(trained, effort.nb_between)
    networks = {lam: classifier.at(lam).as_module() for lam in lams}
    known = [networks[lam] for lam in trained]
    long = PGD.for_evaluation(pgd.eps, pgd.nb_steps * len(known), pgd.norm)
    targets: dict[float | str, tuple[nn.Module, TensorAttack]] = {lam: (it, pgd) for lam, it in networks.items()}
    targets |= {PROBABILITY: (Mixture(known), pgd), LOSS: (MeanLoss(known), pgd)}
    targets |= {DRAWN: (Drawn(known), pgd), DRAWN_LONG: (Drawn(known), long)}
    options = EvaluationOptions()
    right = right_after(targets.values(), [*networks.values()], x, y, classifier.clip_values, options)
    found = Attacked(trained, lams, right[0], dict(zip(targets, right[1:], strict=True)), right[0])
    after = [after_square(classifier, lam, x, y, found.left(lam, targets), pgd, effort) for lam in lams]
    return replace(found, after_square=np.stack(after))


def after_square(
    classifier: OATClassifier, lam: float, x: Tensor, y: Tensor, left: Answers, pgd: PGD, effort: Effort
) -> Answers:
    """Return which of the images that are left withstand Square, too, ``[N]``."""
    view, after, is_left = classifier.at(lam), left.copy(), torch.from_numpy(left)
    if left.any():
        square = torchattacks.Square(view.as_module(), pgd.norm, pgd.eps, effort.nb_queries)
        attack = within_ball(bind(square, classifier).at(view.point), pgd.eps, pgd.norm)
        x_adv = attack(view.as_module(), x[is_left], y[is_left], generator=torch.Generator().manual_seed(0))
        after[left] = is_correct(view.as_module(), x_adv, y[is_left]).numpy()
    print(f"lam {lam:g}: {left.sum()} images are left, {after.sum()} of them by Square, too", flush=True)
    return after


def attackers(found: Attacked, nb_steps: int) -> list[Row]:
    """Compare those who attack all trained lams, and all of them with those who attack each by itself."""
    at_once, each = nb_steps * len(found.trained), nb_steps * len(found.trained)
    gradients = {PROBABILITY: at_once, LOSS: at_once, DRAWN: nb_steps, DRAWN_LONG: at_once}
    knowing = [*found.trained, PROBABILITY]
    return [
        *({"attacker": name} | found.attacker([name], count) for name, count in gradients.items()),
        {"attacker": "any of TransferMatrix"} | found.attacker(knowing, each + at_once),
        {"attacker": "any of these"} | found.attacker([*found.trained, *ATTACKERS], each + sum(gradients.values())),
    ]


def measure(given: argparse.Namespace) -> Found:
    it, effort = pretrained(given.data), SMOKE if given.smoke else EFFORTS[given.data]
    recipe = it.recipe.changed(data_folder=given.data_folder)
    it.classifier.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = (part[: effort.nb_images] for part in recipe.dataset().test)
    pgd = PGD.for_evaluation(recipe.method.eps, effort.nb_steps, recipe.method.norm)
    found = attacked(it.classifier, *it.classifier.as_tensors(*images), pgd, effort)
    by_lam = [found.row(lam) for lam in found.lams]
    measured = {"images": effort.nb_images, "attack": f"PGD-{effort.nb_steps}"}
    tables = {"between": by_lam, "attackers": attackers(found, effort.nb_steps)}
    rows = {f"dial_{given.data}_{name}": [measured | row for row in rows] for name, rows in tables.items()}
    return Found(rows, [recipe.seed])


if __name__ == "__main__":
    options = data_options("between")
    run("between", __doc__, measure, {name: options[name] for name in ("--data", "--data-folder")})
