"""Both sides of the rows of ``speed.py``: ours, and what it is compared with."""

import copy
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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

from art_oat import PGD, OATClassifier, OATTrainer, fold, to_conditional
from art_oat.experiment.build import train, trainer_for
from art_oat.models import WideResNet, network_named, resnet34
from benchmarks.configs import DIGITS_RECIPE
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

Action = Callable[[], object]
Pair = tuple[Action, Action]
LAST = StepSettings(is_channels_last=True)
WIDTHS = (0.5, 0.75, 1.0)
EPS, NB_STEPS = 8 / 255, 7


@dataclass(frozen=True)
class Given:
    """What a row is measured with: a checkout of the published code, and whether tiny networks and batches do."""

    official: Path | None
    is_smoke: bool

    def size(self, nb_samples: int) -> int:
        """Return how many samples a batch of so many has."""
        return min(nb_samples, 6) if self.is_smoke else nb_samples

    def network(self, name: str) -> str:
        """Return the network to take for one of these."""
        return "wrn-10-1" if self.is_smoke else name


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


def against_plain(network: str) -> Callable[[Given], Pair]:
    """Compare a step with one of plain adversarial training of the same network, for lam 1 alone; a registered name."""

    def pair(given: Given) -> Pair:
        x, y = batch(given.size(64))
        alone = StepSettings(lambdas=(1.0,), has_film=False)
        return tuple(partial(step_of(network_named(network), settings), x, y) for settings in (StepSettings(), alone))

    return pair


def compiled_attack(build: Callable[[Given], nn.Module]) -> Callable[[Given], Pair]:
    """Compare a step whose attack is compiled with one whose attack is not."""

    def pair(given: Given) -> Pair:
        x, y = batch(given.size(64))
        compiled = StepSettings(method={"compile_attack": not given.is_smoke})
        own, other = (partial(step_of(build(given), settings), x, y) for settings in (compiled, StepSettings()))
        return own, other

    return pair


def widths_together(given: Given) -> Pair:
    """Compare a step of three widths with a step of each of three networks of those widths."""
    x, y = batch(given.size(64))
    slim = to_conditional(wide(given), widths=WIDTHS, input_shape=SHAPE)
    together = replace(LAST, widths=WIDTHS, method={"width_sampling": "all"})
    alone = [step_of(fold(slim, lam=0.0, width=width), LAST) for width in WIDTHS]
    return partial(step_of(wide(given), together), x, y), lambda: [step(x, y) for step in alone]


def predictions(nb_samples: int) -> Callable[[Given], Pair]:
    """Compare a prediction at a lam with one of ART's plain classifier."""

    def pair(given: Given) -> Pair:
        network, x = wide(given), batch(given.size(nb_samples))[0].numpy()
        own, plain = classifier_of(network, StepSettings()), plain_classifier(network)
        return partial(own.predict, x, lam=0.3), partial(plain.predict, x)

    return pair


def at_once(network: str) -> Callable[[Given], Pair]:
    """Compare 64 predictions of single samples by 16 threads at once with the same by one thread; a registered name."""

    def pair(given: Given) -> Pair:
        x = batch(1)[0].numpy()
        classifier = classifier_of(network_named("small-8" if given.is_smoke else network), StepSettings())
        pool, lams = ThreadPoolExecutor(16), [index % 10 / 10 for index in range(64)]
        answer = partial(_answer, classifier, x)
        return lambda: list(pool.map(answer, lams)), lambda: list(map(answer, lams))

    return pair


def _answer(classifier: OATClassifier, x: Any, lam: float) -> Any:
    return classifier.predict(x, lam=lam)


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
    recipe = DIGITS_RECIPE.changed(nb_epochs=1) if given.is_smoke else DIGITS_RECIPE
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
