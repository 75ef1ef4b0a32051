"""What comes of a study of transfer: outcomes by protocol, source, lam, seed and draw, and the tables made of them."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from art_oat.transfer import Protocol
from benchmarks.frontiers import Shares
from benchmarks.statistics import bootstrap
from benchmarks.tables import Row

PROTOCOLS = get_args(Protocol)
KEPT_DIAL = "dial kept"
JUDGES = {"clean": ("right", "validation"), "autoattack": ("robust", "validation_robust")}
"""By name, what holds the answers of an outcome, and what says on validation images how good it is."""

NB_RESAMPLES = 1000


class Outcome(NamedTuple):
    """A network on the target task.

    Attributes:
        right: Which test images are answered right, float ``[N]``.
        robust: Which of the attacked still are, ``[M]``.
        choice: Weight decay or learning rate, chosen on validation images.
        validation: Accuracy on these.
        validation_robust: The same after PGD-20.
        baseline: Test accuracy of scikit-learn's logistic regression on the same features; NaN where there is none.
        seconds: Processor time of all trainings, also of those not chosen.
    """

    right: Shares
    robust: Shares
    choice: float
    validation: float
    validation_robust: float
    baseline: float
    seconds: float


Key = tuple[str, str]
"""Protocol and kind of source."""

Outcomes = dict[Key, dict[float, list[list[Outcome]]]]
"""By lam (0 where the source has none), seed and draw."""


Values = list[list[Shares]]
"""By seed and draw, a value for each image of all; NaN where it was not asked."""


@dataclass(frozen=True)
class Study:
    """What came of a task.

    Attributes:
        found: All outcomes.
        index: By seed and draw, which image of all each test image is.
    """

    found: Outcomes
    index: list[list[NDArray[np.int64]]]

    def answers(self, outcomes: list[list[Outcome]], judge: str) -> Values:
        """Return what a judge found, image by image."""
        nb_images = 1 + max(int(it.max()) for draws in self.index for it in draws)

        def placed(it: Outcome, index: NDArray[np.int64]) -> Shares:
            answers, values = getattr(it, JUDGES[judge][0]), np.full(nb_images, np.nan)
            values[index[: len(answers)]] = answers
            return values

        pairs = zip(outcomes, self.index, strict=True)
        return [[placed(*pair) for pair in zip(*draws, strict=True)] for draws in pairs]


def mean(values: Values, counts: NDArray[np.int64] | int = 1) -> float:
    """Return the mean over seeds of means over draws of means over images, which count so many times."""
    means = [[np.nansum(it * counts) / (np.isfinite(it) * counts).sum() for it in draws] for draws in values]
    return float(np.mean([np.mean(draws) for draws in means]))


def interval(values: Values) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean over images; one that several draws ask is one image."""
    asked = np.isfinite([it for draws in values for it in draws]).any(axis=0)
    kept = [[it[asked] for it in draws] for draws in values]
    return bootstrap(partial(mean, kept), int(asked.sum()), NB_RESAMPLES)


def _described(values: Values, form: str = ".2f") -> dict[str, str]:
    """Return mean, interval, and the mean of each seed, in points."""
    low, high = interval(values)
    by_seed = " ".join(f"{100 * mean([draws]):{form}}" for draws in values)
    points = {"value": mean(values), "low": low, "high": high}
    return {name: f"{100 * value:{form}}" for name, value in points.items()} | {"by seed": by_seed}


def rows(study: Study) -> list[Row]:
    """Return the table: a row for each protocol, source and lam, in percent, with 95% intervals."""
    table: list[Row] = []
    for (protocol, kind), by_lam in study.found.items():
        for lam, outcomes in by_lam.items():
            every = [it for draws in outcomes for it in draws]
            has_lam = kind == "oat" or protocol == KEPT_DIAL
            row: Row = {"protocol": protocol, "source": kind, "lam": f"{lam:g}" if has_lam else ""}
            for judge in JUDGES:
                about = _described(study.answers(outcomes, judge))
                row |= {judge if name == "value" else f"{judge} {name}": value for name, value in about.items()}
            row |= {"validation": f"{100 * np.mean([it.validation for it in every]):.2f}"}
            row |= {"validation pgd-20": f"{100 * np.mean([it.validation_robust for it in every]):.2f}"}
            if protocol == "fixed-feature":
                row |= {"scikit-learn clean": f"{100 * np.mean([it.baseline for it in every]):.2f}"}
            row |= {"chosen": " ".join(f"{it.choice:g}" for it in every)}
            table.append(row | {"seconds": f"{np.mean([it.seconds for it in every]):.2f}"})
    return table


def best_lams(by_lam: Mapping[float, list[list[Outcome]]], judge: str) -> list[list[float]]:
    """Return the lam that the validation images of each seed and draw choose; of equal ones the smallest."""
    field, first = JUDGES[judge][1], next(iter(by_lam.values()))
    return [
        [max(by_lam, key=lambda lam: getattr(by_lam[lam][seed][place], field)) for place in range(len(draws))]
        for seed, draws in enumerate(first)
    ]


def compared(study: Study) -> list[dict[str, str]]:
    """Return what the features of each lam are ahead of other sources, in points, with 95% intervals."""
    table, found = [], study.found
    for protocol, judge in itertools.product(PROTOCOLS, JUDGES):
        by_lam = found[protocol, "oat"]
        best = best_lams(by_lam, judge)
        chosen = [[by_lam[lam][i][j] for j, lam in enumerate(lams)] for i, lams in enumerate(best)]
        named = {f"{lam:g}": outcomes for lam, outcomes in by_lam.items()} | {"chosen": chosen}
        others = {"lam 0": by_lam[0.0]} | {kind: found[protocol, kind][0.0] for kind in ("natural", "scratch")}
        for (lam, ours), (against, theirs) in itertools.product(named.items(), others.items()):
            if ours is theirs:
                continue
            about = {"protocol": protocol, "judge": judge, "lam": lam, "against": against}
            says = {"lams chosen": " ".join(f"{it:g}" for lams in best for it in lams)} if lam == "chosen" else {}
            table.append(about | _difference(study, ours, theirs, judge) | says)
    if (KEPT_DIAL, "oat") in found:
        for judge, (lam, ours) in itertools.product(JUDGES, found[KEPT_DIAL, "oat"].items()):
            about = {"protocol": KEPT_DIAL, "judge": judge, "lam": f"{lam:g}", "against": "scratch"}
            table.append(about | _difference(study, ours, found[KEPT_DIAL, "scratch"][lam], judge))
    return table


def _difference(study: Study, ours: list[list[Outcome]], theirs: list[list[Outcome]], judge: str) -> dict[str, str]:
    """Return by how many points one is ahead of another, paired by image."""
    pairs = zip(study.answers(ours, judge), study.answers(theirs, judge), strict=True)
    return _described([[a - b for a, b in zip(one, other, strict=True)] for one, other in pairs], "+.2f")
