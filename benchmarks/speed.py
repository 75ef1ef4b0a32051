"""What a conditional network costs: training steps, predictions, attacks and imports, each against the usual way.

    python -m benchmarks.speed --official DIR           # all rows: 20 minutes on two cores, nothing else running
    python -m benchmarks.speed --only predict fold      # rows whose name begins so; the others stay as they were
    python -m benchmarks.speed --official DIR --check   # fails where a ratio is above what the README promises plus 10%

Both sides of a row run in turns in one process (A B A B ...), see ``timing.py``: the ratio is the median over rounds of
their times; rounds in which another process took more than a tenth of a core are dropped and counted. Both have torch's
default number of threads. Rows against the published code need ``--official``, a checkout of it, see ``official.py``;
without it they are left out. "channels last" is the memory layout of our side alone: a user chooses it, as
``model.to(memory_format=torch.channels_last)``; the other side runs as its users run it.
"""

import argparse
import copy
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.defences.trainer import (
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerTRADESPyTorch,
)
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_oat import NFGSM, PGD, OATTrainer, OperatingPoint, fold, to_conditional
from art_oat.contexts import borrowed_generators
from art_oat.experiment.build import train, trainer_for
from art_oat.models import WideResNet, resnet34
from benchmarks.configs import DIGITS_RECIPE as DEMO
from benchmarks.official import Settings, contestants
from benchmarks.steps import (
    DROPOUT,
    NB_CLASSES,
    SHAPE,
    StepSettings,
    batch,
    classifier_of,
    plain_classifier,
    plain_network,
    step_for,
    step_of,
)
from benchmarks.study import Found, run
from benchmarks.tables import Row, text
from benchmarks.timing import take_turns

TOLERANCE = 1.1
WIDTHS = (0.5, 0.75, 1.0)
EPS, NB_STEPS = 8 / 255, 7

Action = Callable[[], object]
Pair = tuple[Action, Action]


@dataclass(frozen=True)
class Given:
    """What a row is measured with.

    Attributes:
        official: Checkout of the published code.
        is_smoke: Whether tiny networks and batches do.
    """

    official: Path | None
    is_smoke: bool

    def size(self, nb_samples: int) -> int:
        """Return how many samples a batch of so many has."""
        return min(nb_samples, 6) if self.is_smoke else nb_samples

    def network(self, name: str) -> str:
        """Return the network to take for one of these."""
        return "wrn-10-1" if self.is_smoke else name


@dataclass(frozen=True)
class Comparison:
    """One comparison.

    Attributes:
        name: What is timed; words from general to special.
        against: With what.
        goal: Of the ratio of times, as set before anything was measured.
        promise: Of the README, as measured; ``--check`` allows a tenth more.
        pair: Builds both sides.
        nb_rounds: How many rounds are wanted.
    """

    name: str
    against: str
    goal: float | None
    promise: float
    pair: Callable[[Given], Pair]
    nb_rounds: int = 9

    @property
    def is_against_published(self) -> bool:
        return self.against == PUBLISHED


PUBLISHED = "the published code's step"
LAST = StepSettings(is_channels_last=True)
BF16 = replace(LAST, method={"precision": "bf16"})
BF16_ATTACK = replace(LAST, method={"attack_precision": "bf16"})


def against_published(network: str, nb_samples: int, settings: StepSettings) -> Callable[[Given], Pair]:
    """Compare a step with the published one (PGD-7), of the same architecture."""

    def pair(given: Given) -> Pair:
        assert given.official is not None
        size = given.size(nb_samples)
        theirs = Settings(network=given.network(network), batch_size=size)
        own = step_of(plain_network(theirs.network), settings)
        x, y = batch(size, own.classifier.device)
        return partial(own, x, y), partial(contestants(given.official, theirs, 0).published_step(theirs, 0), x, y)

    return pair


def wide(given: Given) -> WideResNet:
    """Build the plain network that most rows are about: WRN-16-2."""
    return WideResNet(10, 2, dropout=DROPOUT) if given.is_smoke else WideResNet(16, 2, dropout=DROPOUT)


def art_pgd(classifier: PyTorchClassifier, nb_samples: int) -> ProjectedGradientDescentPyTorch:
    options: dict[str, Any] = {"num_random_init": 1, "batch_size": nb_samples, "verbose": False}
    return ProjectedGradientDescentPyTorch(classifier, eps=EPS, eps_step=PGD().step, max_iter=NB_STEPS, **options)


def madry(network: nn.Module, nb_samples: int) -> Any:
    steps = {"eps": EPS, "eps_step": PGD().step, "max_iter": NB_STEPS, "num_random_init": 1}
    return AdversarialTrainerMadryPGD(plain_classifier(network), 1, nb_samples, **steps).trainer


def trades(network: nn.Module, nb_samples: int) -> Any:
    classifier = plain_classifier(network)
    return AdversarialTrainerTRADESPyTorch(classifier, art_pgd(classifier, nb_samples), beta=6.0)


def awp(network: nn.Module, nb_samples: int) -> Any:
    classifier, proxy = plain_classifier(network), plain_classifier(copy.deepcopy(network))
    attack = art_pgd(classifier, nb_samples)
    return AdversarialTrainerAWPPyTorch(classifier, proxy, attack, mode="PGD", gamma=0.01, beta=6.0, warmup=0)


def against_art(build: Callable[[nn.Module, int], Any]) -> Callable[[Given], Pair]:
    """Compare two steps of our trainer with two of a trainer of ART's: same network, same attack steps.

    Ours are those of OAT, without weight perturbation or KL term, and do not attack the samples of lam 0.
    """

    def pair(given: Given) -> Pair:
        size = given.size(64)
        x, y = (part.numpy() for part in batch(2 * size))
        labels = np.eye(NB_CLASSES, dtype=np.float32)[y]
        own, theirs = OATTrainer(classifier_of(wide(given), LAST)), build(wide(given), size)
        return (
            partial(own.fit, x, y, batch_size=size, nb_epochs=1, verbose=False),
            partial(theirs.fit, x, labels, batch_size=size, nb_epochs=1),
        )

    return pair


def widths_together(given: Given) -> Pair:
    """Compare a step of three widths with a step of each of three networks of those widths."""
    x, y = batch(given.size(64))
    slim = to_conditional(wide(given), widths=WIDTHS, input_shape=SHAPE)
    together = replace(LAST, widths=WIDTHS, method={"width_sampling": "all"})
    alone = [step_of(fold(slim, OperatingPoint(0.0, width)), LAST) for width in WIDTHS]
    return partial(step_of(wide(given), together), x, y), lambda: [step(x, y) for step in alone]


def predictions(nb_samples: int) -> Callable[[Given], Pair]:
    """Compare a prediction at a lam with one of ART's plain classifier."""

    def pair(given: Given) -> Pair:
        network, x = wide(given), batch(given.size(nb_samples))[0].numpy()
        own, plain = classifier_of(network, StepSettings()), plain_classifier(network)
        return partial(own.predict, x, lam=0.3), partial(plain.predict, x)

    return pair


def first_prediction(given: Given) -> Pair:
    """Compare the prediction at a point that was never asked for, after training, with a plain one: batch 32."""
    network = WideResNet(10, 1) if given.is_smoke else resnet34()
    x = batch(given.size(32))[0].numpy()
    own, plain = classifier_of(network, StepSettings()), plain_classifier(network)
    lams, weight = itertools.count(1), next(own.model.parameters())

    def first() -> None:
        with torch.no_grad():
            weight.add_(0.0)  # as training does: everything merged before is stale
        own.predict(x, lam=(next(lams) % 9973) / 9973)

    return first, partial(plain.predict, x)


def attacks(given: Given) -> Pair:
    """Compare ART's PGD on a view with the same on ART's plain classifier."""
    size, network = given.size(64), wide(given)
    x, y = (part.numpy() for part in batch(size))
    own, plain = classifier_of(network, StepSettings()).at(0.3), plain_classifier(network)
    plain.model.eval()
    return partial(art_pgd(own, size).generate, x, y), partial(art_pgd(plain, size).generate, x, y)


def folded(given: Given) -> Pair:
    """Compare the folded network with the plain one, batch 128, in evaluation."""
    network, (x, _) = wide(given).eval(), batch(given.size(128))
    return tuple(partial(_answered, it, x) for it in (fold(classifier_of(network, StepSettings()).model, 0.3), network))


@torch.no_grad()
def _answered(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return network(x)


def loops(given: Given) -> Pair:
    """Compare a whole training on digits with its steps alone: no validation, log, checkpoint, shuffling or checks."""
    recipe = replace(DEMO, nb_epochs=1) if given.is_smoke else DEMO
    data = recipe.dataset()

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(recipe, data, folder=Path(folder), verbose=False)

    def steps() -> None:
        step = step_for(trainer_for(recipe, data))
        for group in step.classifier.optimizer.param_groups:
            group["lr"] = 0.0  # takes the same time, and cannot diverge without the schedule
        parts = [part.split(recipe.batch_size) for part in step.classifier.as_tensors(*data.train)]
        for _ in range(recipe.nb_epochs):
            for x, y in zip(*parts, strict=True):
                step(x, y)

    return whole, steps


def imports(_: Given) -> Pair:
    """Compare importing all of this library with importing what it stands on."""
    return tuple(
        partial(subprocess.run, [sys.executable, "-c", f"import {names}"], check=True)
        for names in ("art_oat", "art, torchattacks")
    )


ROWS = (
    Comparison("step wrn-16-2", PUBLISHED, None, 0.88, against_published("wrn-16-2", 64, StepSettings())),
    Comparison("step wrn-16-2, channels last", PUBLISHED, 0.72, 0.82, against_published("wrn-16-2", 64, LAST)),
    Comparison("step resnet-34, channels last", PUBLISHED, 0.85, 0.98, against_published("resnet-34", 16, LAST)),
    Comparison("step wrn-16-8, channels last", PUBLISHED, 0.92, 0.95, against_published("wrn-16-8", 12, LAST)),
    Comparison("step wrn-16-2, attack in bf16", PUBLISHED, None, 0.6, against_published("wrn-16-2", 64, BF16_ATTACK)),
    Comparison("step wrn-16-2, bf16", PUBLISHED, 0.45, 0.5, against_published("wrn-16-2", 64, BF16)),
    Comparison("step resnet-34, bf16", PUBLISHED, 0.6, 0.6, against_published("resnet-34", 16, BF16)),
    Comparison(
        "step wrn-16-2, n-fgsm, bf16",
        PUBLISHED,
        0.22,
        0.27,
        against_published("wrn-16-2", 64, replace(BF16, attack=NFGSM())),
    ),
    Comparison("train wrn-16-2, channels last", "ART's Madry trainer", 0.63, 0.63, against_art(madry), 5),
    Comparison("train wrn-16-2, channels last", "ART's TRADES trainer", 0.54, 0.54, against_art(trades), 5),
    Comparison("train wrn-16-2, channels last", "ART's AWP trainer", 0.55, 0.55, against_art(awp), 5),
    Comparison("step of three widths", "a step of each of three networks", 0.95, 1.05, widths_together, 7),
    Comparison("predict, batch 128", "ART's plain classifier", 1.0, 1.0, predictions(128), 15),
    Comparison("predict, batch 1", "ART's plain classifier", 1.05, 1.1, predictions(1), 15),
    Comparison("predict first at a point, batch 32", "ART's plain classifier", 1.5, 1.1, first_prediction, 9),
    Comparison("ART's PGD on at(lam)", "ART's PGD on a plain classifier", 0.75, 0.75, attacks, 9),
    Comparison("fold", "the plain network", 1.0, 1.0, folded, 15),
    Comparison("loop of a training on digits", "its steps alone", 1.05, 1.05, loops, 1),
    Comparison("import", "import of art and torchattacks", 1.1, 1.13, imports, 9),
)


def measured(row: Comparison, given: Given) -> Row:
    """Time one row."""
    with borrowed_generators(seed=0):
        own, other = row.pair(given)
        turns = take_turns({"own": own, "other": other}, 1 if given.is_smoke else row.nb_rounds, row.name)
    low, high = turns.spread("own", "other")
    return {
        "what": row.name,
        "against": row.against,
        "ratio": f"{turns.ratio('own', 'other'):.3f}",
        "quartiles": f"{low:.3f} to {high:.3f}",
        "goal": "" if row.goal is None else row.goal,
        "promise": row.promise,
        "seconds": f"{turns.median('own'):.4g}",
        "seconds of the other": f"{turns.median('other'):.4g}",
        "rounds": turns.nb_rounds,
        "rounds dropped": turns.nb_dropped,
    }


def broken(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which ratios lie above what was promised, plus a tenth."""
    return [
        f"{row['what']} must take at most {row['promise']} times as long as {row['against']}, plus 10%, took "
        f"{row['ratio']}."
        for row in table
        if float(row["ratio"]) > TOLERANCE * float(row["promise"])
    ]


def measure(given: argparse.Namespace) -> Found:
    rows = [row for row in ROWS if given.official is not None or not row.is_against_published]
    if given.only:
        rows = [row for row in rows if row.name.startswith(tuple(given.only))]
    if not rows:
        sys.exit(f"--only must begin the name of a row that can be measured: {', '.join(row.name for row in ROWS)}.")
    if given.official is None:
        print("Rows against the published code are left out: they need --official DIR.")
    table = []
    for row in rows:
        table.append(measured(row, Given(given.official, given.smoke)))
        print(text(table[-1:]).splitlines()[-1], flush=True)
    if given.check and (faults := broken(table)):
        sys.exit("\n".join(faults))
    return Found({"speed": table}, [0], key=("what", "against"), is_kept=not given.check)


OPTIONS = {
    "--official": {"type": Path, "metavar": "DIR", "help": "checkout of the published code"},
    "--only": {"nargs": "+", "metavar": "NAME", "help": "rows whose name begins so; the others stay as they were"},
    "--check": {"action": "store_true", "help": "fail where a promise is broken; nothing is written"},
}


def main(words: Sequence[str] | None = None) -> None:
    run("speed", __doc__, measure, OPTIONS, words)


if __name__ == "__main__":
    main()
