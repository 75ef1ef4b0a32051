"""Does a mixture of the two ends of the dial (MixedNUTS, training-free) beat the dial's middle?

    python -m benchmarks.mixing --data digits                          # some 4 minutes on one core for each of 9 folds
    python -m benchmarks.mixing --data cifar10 --data-folder FOLDER    # hours on one core; --quick: some 30 minutes

"--quick" judges 50 images by AutoAttack's APGD-CE and APGD-T and writes a table of its own.

On digits the one networks of ``ablation.py`` ("oat", trained if --runs does not hold them), on CIFAR-10 (JPEG-75) the
network that comes with the library, 100 test images. A mixture answers by two passes of the same weights, at lam 0 and
at lam 1 (``neighbors/mixed.py``). Its transformation and alpha are chosen on images that are held out: of a grid, those
that no other beats in clean accuracy and in what is left by examples for both ends and for two plain mixtures; of
these, by APGD on the DLR margin of each itself, one after the other those that add most to the hypervolume of the ends.

On test images the mixture and the dial's trained points meet AutoAttack (standard). An attack on logarithms of mixed
probabilities may be held up by flat places; so each mixture also meets APGD on the DLR margin, PGD-50, and the
examples that AutoAttack found for both ends and for the plain mixture; what is left is right after all of these. "only
others find" are the images that AutoAttack on the mixture itself left and another broke.

Differences are paired by image, with 95% bootstrap intervals over images, which leave out what another training would
change. Hypervolumes are measured from (1 / K, 0); "both" has the mixtures' points beside the dial's.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from art_oat import PGD, AutoAttack, OATClassifier, pretrained
from art_oat.attacks import TensorAttack, is_correct
from art_oat.data import Split
from art_oat.evaluation.tradeoff import subset
from benchmarks.ablation import CONFIGS
from benchmarks.arms import one_network
from benchmarks.frontiers import CORNER, Arm, Figure, Shares, accuracies, frontier, ratio, resampled, robust_at
from benchmarks.mixtures import CHOOSERS, NB_MIXTURES, PLAIN, Candidate, Effort, Subject, attacked, chosen
from benchmarks.neighbors.mixed import Amplified, Mixed
from benchmarks.study import Found, data_options, kept, run
from benchmarks.tables import Row

EFFORTS = {"digits": Effort(100, 120, 16), "cifar10": Effort(100, 100, 8)}
SMOKE = Effort(4, 4, 3, 1, "pgd-1", "pgd-1")


def _attacks(eps: float, parts: tuple[str, ...] | None = None) -> list[TensorAttack]:
    return [AutoAttack(eps, parts=parts), CHOOSERS["apgd-dlr"](eps), PGD.for_evaluation(eps, 50, "Linf")]


ATTACKS: dict[str, Callable[[float], list[TensorAttack]]] = {
    "autoattack": _attacks,
    "screen": partial(_attacks, parts=("apgd-ce", "apgd-t")),
    "pgd-1": lambda eps: [PGD(eps, nb_steps=1)],
}
"""The judge, and others that a mixture meets, for a radius."""


def subjects(given: argparse.Namespace, effort: Effort) -> Iterator[Subject]:
    """Give the networks of a study, one after the other."""
    if given.data == "cifar10":
        it = pretrained("cifar10")
        it.classifier.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        data = it.recipe.changed(data_folder=given.data_folder).dataset()
        held, test = data.validation, data.test
        yield _subject("cifar10", it.classifier, (held, test), np.arange(len(test.x)), effort, 0, it.recipe.method.eps)
        return
    config = CONFIGS["digits"].shortened() if given.smoke else CONFIGS["digits"]
    for part in itertools.islice(replace(config, seeds=tuple(given.seeds)).parts(), 1 if given.smoke else None):
        _, classifier = one_network(config, given.runs, part)
        images = part.data.validation, part.data.test
        yield _subject(part.name, classifier, images, part.index, effort, part.seed, config.recipe.method.eps)


def _subject(
    name: str,
    classifier: OATClassifier,
    images: tuple[Split, Split],
    index: NDArray[np.int64],
    effort: Effort,
    seed: int,
    eps: float,
) -> Subject:
    places = [subset(it.y, count, 0) for it, count in zip(images, (effort.nb_held_out, effort.nb_test), strict=True)]
    held, test = (classifier.as_tensors(it.x[at], it.y[at]) for it, at in zip(images, places, strict=True))
    return Subject(name, classifier, held, test, index[places[1]], seed, eps)


def judged(subject: Subject, effort: Effort, mixtures: Sequence[Candidate]) -> dict[str, list]:
    """Return which test images are right at the dial's points and by the mixtures: clean, by AutoAttack, by all."""
    (x, y), classifier = subject.test, subject.classifier
    standard, *more = ATTACKS[effort.judge](subject.eps)

    def right(network: nn.Module, examples: Sequence[Tensor]) -> list[list[bool]]:
        """Clean, after the first examples, and after all of them."""
        found = [is_correct(network, it, y) for it in (x, *examples)]
        return [found[0].tolist(), (found[0] & found[1]).tolist(), torch.stack(found).all(dim=0).tolist()]

    dial, examples = [], {}
    for lam in classifier.model.lambdas:
        network = classifier.at(lam).as_module()
        examples[lam] = attacked(network, (x, y), standard)
        dial.append(right(network, [examples[lam]]))
    others = [examples[0.0], examples[classifier.model.lambdas[-1]]]
    others.append(attacked(Mixed.of(classifier, PLAIN[0]), (x, y), standard))
    found = []
    for candidate in mixtures:
        network = candidate.of(classifier)
        found.append(right(network, [*(attacked(network, (x, y), attack) for attack in (standard, *more)), *others]))
        print(subject.name, candidate, [f"{100 * np.mean(it):.1f}" for it in found[-1]], flush=True)
    return {"dial": dial, "mixtures": found}


def passes(subject: Subject, repeats: int = 20) -> float:
    """Return how many times as long a mixture takes to answer 100 images as a point of the dial: shortest times."""
    x = subject.test[0][:100]
    networks = [subject.classifier.at(0.0).as_module(), Mixed.of(subject.classifier, 0.5, Amplified())]
    shortest = [float("inf")] * 2
    with torch.no_grad():
        for _ in range(repeats):
            for place, network in enumerate(networks):
                started = time.process_time()
                network(x)
                shortest[place] = min(shortest[place], time.process_time() - started)
    return shortest[1] / shortest[0]


def arm(name: str, answers: Sequence[tuple[Subject, list]], last: int) -> Arm:
    """Take the answers on all parts together; ``last`` is the judge that counts."""
    seeds = list(dict.fromkeys(subject.seed for subject, _ in answers))
    images = np.unique(np.concatenate([subject.index for subject, _ in answers]))
    nb_points = len(answers[0][1])
    right = np.full((2, nb_points, len(seeds), len(images)), np.nan)
    for subject, points in answers:
        values = np.array(points, dtype=float)[:, [0, last]].transpose(1, 0, 2)
        right[:, :, seeds.index(subject.seed)][..., np.searchsorted(images, subject.index)] = values
    return Arm(name, tuple(np.linspace(0, 1, nb_points)), right, 0.0, "processor", 0, "")


def area(shares: Shares) -> float:
    """Return the hypervolume of points, whatever lams they have."""
    return frontier(shares, (0.0,) * shares.shape[1]).area(CORNER)


def with_ends(dial: Shares, mixtures: Shares) -> Shares:
    """Return the points of the mixtures between the ends of the dial."""
    return np.concatenate([dial[:, :1], mixtures, dial[:, -1:]], axis=1)


def ahead(place: int) -> Figure:
    """Return how far a mixture is ahead of the dial in robust accuracy, in points, at its own clean accuracy."""

    def figure(mixtures: Shares, dial: Shares) -> float:
        points = frontier(dial, (0.0,) * dial.shape[1])
        return float(100 * (mixtures[-1, place] - robust_at(points, mixtures[:1, place])[0]))

    return figure


def rows(dial: Arm, mixtures: Arm, by_itself: Arm, lambdas: Sequence[float], names: Sequence[str]) -> list[Row]:
    """Report every point, mixtures with how far they are ahead, and hypervolumes."""
    result: list[Row] = []
    for name, (clean, robust) in zip((f"lam {lam:g}" for lam in lambdas), accuracies(dial)[0].T, strict=True):
        result.append({"point": name, "clean": f"{100 * clean:.1f}", "robust": f"{100 * robust:.1f}"})
    own = accuracies(by_itself)[0][1]
    for place, (name, (clean, robust)) in enumerate(zip(names, accuracies(mixtures)[0].T, strict=True)):
        row: Row = {"point": name, "clean": f"{100 * clean:.1f}", "robust": f"{100 * robust:.1f}"}
        row |= {"only others find": f"{100 * (own[place] - robust):.1f}"}
        result.append(row | _interval("ahead at equal clean", resampled(mixtures, dial, ahead(place))))
    figures: dict[str, Callable[[Shares, Shares], float]] = {
        "hypervolume, mixtures and ends": lambda ours, theirs: ratio(area(with_ends(theirs, ours)), area(theirs)),
        "hypervolume, both": lambda ours, theirs: ratio(area(np.concatenate([theirs, ours], axis=1)), area(theirs)),
    }
    return result + [
        {"point": name, **_interval("ratio to the dial", resampled(mixtures, dial, figure))}
        for name, figure in figures.items()
    ]


def _interval(name: str, found: dict[str, str]) -> Row:
    return {name: found["value"], f"{name} 95%": f"{found['low']} to {found['high']}"}


def measure(given: argparse.Namespace) -> Found:
    effort = SMOKE if given.smoke else EFFORTS[given.data]
    if given.quick and not given.smoke:
        effort = replace(effort, nb_test=50, judge="screen")
    answers: dict[str, list] = {"dial": [], "mixtures": []}
    times, lambdas, every = [], (), []
    for subject in subjects(given, effort):
        folder = Path(given.runs) / subject.name
        settings = asdict(effort)
        found = kept(folder / "mixtures.json", settings, partial(chosen, subject, effort))
        mixtures = [Candidate(alpha, values and Amplified(**values)) for alpha, values in found]
        right = kept(folder / "mixed.json", settings, partial(judged, subject, effort, mixtures))
        for name, values in answers.items():
            values.append((subject, right[name]))
        times.append(passes(subject))
        lambdas = subject.classifier.model.lambdas
        every.append(mixtures)
    return _found(given, answers, lambdas, every, times)


def _found(given: argparse.Namespace, answers: dict, lambdas: Sequence[float], settings: list, times: list) -> Found:
    seeds = list(dict.fromkeys(subject.seed for subject, _ in answers["dial"]))
    dial, mixtures = (arm(name, answers[name], last=2) for name in ("dial", "mixtures"))
    by_itself = arm("by itself", answers["mixtures"], last=1)
    names = [f"mixture {place + 1}" for place in range(NB_MIXTURES)]
    if len(settings) == 1:
        names = [f"{name}: {it}" for name, it in zip(names, settings[0], strict=True)]
    table = rows(dial, mixtures, by_itself, lambdas, names)
    table.append({"point": "time of a mixture's answer", "ratio to the dial": f"{np.median(times):.2f}"})
    return Found({f"mixing_{given.data}{'_quick' * given.quick}": table}, seeds)


OPTIONS = {
    **data_options("mixing"),
    "--seeds": {"nargs": "+", "type": int, "default": CONFIGS["digits"].seeds, "help": "of digits"},
    "--quick": {"action": "store_true", "help": "50 images by the screen, not all of AutoAttack"},
}

if __name__ == "__main__":
    run("mixing", __doc__, measure, OPTIONS)
