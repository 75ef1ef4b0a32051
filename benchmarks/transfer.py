"""At which lam do the features of one network transfer best to another task, and by how much?

    python -m benchmarks.transfer --data digits                          # digits 0-4 to 5-9
    python -m benchmarks.transfer --data cifar10 --data-folder FOLDER    # CIFAR-10 to digits in color
    python -m benchmarks.transfer --data digits --smoke                  # a minute; writes nothing

For every seed a network is trained on the source task by OAT, and a plain one naturally, by the same recipe and epochs.
Each of their feature extractors, the conditional one at several lams, goes to draws of a target task with few images,
by both protocols of Salman et al. 2020 (arXiv:2007.08489): a head on fixed features, and natural training of the whole
network. Beside them the same from random weights ("scratch"), and on digits both kept conditional: trained by OAT on
the target task, all lams at once, from the trained and from random weights.

Weight decay of the head and learning rate of the whole network are chosen for each network on the validation images of
its draw, from the same candidates; so is, in the rows that say "chosen", the lam. Judged on all test images, clean, and
on some of them by AutoAttack. Differences are paired by image; 95% bootstrap intervals are over images, for these
sources and draws: they leave out what other ones would change, of which the values of each seed give an idea. What is
finished is kept in --runs: the same command goes on.
"""

import argparse
import copy
import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn, optim
from torch.nn import functional as F

from art_oat import (
    PGD,
    OATClassifier,
    OATModel,
    OATTrainer,
    OneCycle,
    evaluate,
    fold,
    parameter_groups,
    to_conditional,
    transfer,
)
from art_oat.attacks import format_eps, is_correct
from art_oat.contexts import borrowed_generators
from art_oat.data import Dataset, Split, digits
from art_oat.data.dataset import draw
from art_oat.evaluation import EvaluationOptions
from art_oat.experiment.recipe import Recipe
from art_oat.storage import replaced, write_whole
from art_oat.training import Method
from art_oat.transfer import LinearProbe, Protocol, adapt
from benchmarks.arguments import command, parser
from benchmarks.configs import DIGITS_RECIPE, Config, Part
from benchmarks.frontiers import Shares
from benchmarks.methods import train
from benchmarks.record import RESULTS, environment, text, write

DECAYS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RATES = (0.01, 0.03, 0.1, 0.3)
PROTOCOLS = get_args(Protocol)
KEPT_DIAL = "dial kept"
SOURCES = {"oat": "one network, lam dialed", "natural": "natural training", "scratch": "random weights"}
JUDGES = {"clean": ("right", "validation"), "autoattack": ("stands", "validation_robust")}
"""By name, what holds the answers of an outcome, and what says on validation images how good it is."""

NB_RESAMPLES = 1000


class Target(NamedTuple):
    """One draw of a target task; ``index`` says which image of all each test image is."""

    data: Dataset
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """Where features come from and go to.

    Attributes:
        title: For people.
        sources: How both kinds of sources are trained, and the seeds.
        source: Data of the source task, by seed.
        target: A draw of the target task, by number.
        lambdas: Source lams to try.
        dialed: Lams at which a network that keeps its dial is judged; none for no such network.
        eps: Radius of AutoAttack on the target task, Linf; where the dial is kept, training has that of the source.
        nb_epochs: Of the training of whole networks.
        batch_size: Likewise.
        nb_robust: Test images to attack, the first.
        nb_draws: Of the target task, for each source.
    """

    title: str
    sources: Config
    source: Callable[[Recipe], Dataset]
    target: Callable[[int], Target]
    lambdas: tuple[float, ...]
    dialed: tuple[float, ...]
    eps: float
    nb_epochs: int
    batch_size: int
    nb_robust: int
    nb_draws: int

    def shortened(self) -> "Task":
        """Return the same task of one seed, one epoch and few images."""
        return replace(
            self,
            sources=self.sources.shortened(),
            lambdas=(0.0, 1.0),
            dialed=(0.0, 1.0),
            nb_epochs=1,
            nb_robust=8,
            nb_draws=1,
        )


def of_classes(split: Split, first: int, last: int) -> Split:
    """Return the images of some classes, counted from 0."""
    kept = (split.y >= first) & (split.y <= last)
    return Split(split.x[kept], split.y[kept] - first)


def lower_digits(recipe: Recipe) -> Dataset:
    """Return the digits 0 to 4."""
    return Dataset(*(of_classes(split, 0, 4) for split in digits(recipe.seed)))


def every_digit() -> Split:
    """Return all digits, in scikit-learn's order."""
    bunch = load_digits()
    return Split((bunch.images[:, np.newaxis] / 16).astype(np.float32), bunch.target.astype(np.int64))


def few(split: Split, nb_train: int, nb_validation: int, seed: int) -> Target:
    """Draw training and validation images by class; all others are test images."""
    known = draw(split.y, nb_train + nb_validation, seed)
    is_train = np.isin(np.arange(len(known)), draw(split.y[known], nb_train, seed))
    rest = np.setdiff1d(np.arange(len(split.y)), known)
    rest = np.random.default_rng(seed).permutation(rest)  # so that the first, which are attacked, are of all classes
    parts = (Split(split.x[index], split.y[index]) for index in (known[is_train], known[~is_train], rest))
    return Target(Dataset(*parts), rest)


def higher_digits(seed: int) -> Target:
    """Return the digits 5 to 9, 50 to train on."""
    return few(of_classes(every_digit(), 5, 9), 50, 100, seed)


def colored(split: Split, seed: int = 0) -> Split:
    """Return digits of 32x32 pixels in a random light color on a random dark one, channels 0.2 apart or more."""
    generator = torch.Generator().manual_seed(seed)
    x = F.interpolate(torch.from_numpy(split.x), size=(32, 32), mode="bilinear")
    ground = 0.4 * torch.rand((len(x), 3, 1, 1), generator=generator)
    figure = 1 - 0.4 * torch.rand(ground.shape, generator=generator)
    return Split((ground + x * (figure - ground)).numpy(), split.y)


def colored_digits(seed: int) -> Target:
    """Return all digits in color, 200 to train on."""
    return few(colored(every_digit()), 200, 200, seed)


_DIGITS = DIGITS_RECIPE.changed(weight_decay=5e-4, exempt=("norm", "film", "bias"), batch_size=64)
"""With its decay of 3e-3 on all weights, features of natural training are of lower rank, and transfer worse."""

_CIFAR10 = Recipe(
    data="cifar10",
    network="small-32-64-128",
    nb_train=10000,
    nb_epochs=15,
    learning_rate=0.2,
    method=Method(precision="bf16"),
    channels_last=True,
)
_SEEDS = (0, 1, 2)
TASKS = {
    "digits": Task(
        "digits 0-4 to digits 5-9 (50 images)",
        Config(_DIGITS, nb_epochs_dedicated=_DIGITS.nb_epochs, seeds=_SEEDS),
        lower_digits,
        higher_digits,
        lambdas=(0.0, 0.1, 0.2, 0.4, 1.0),
        dialed=(0.0, 0.2, 1.0),
        eps=0.1,
        nb_epochs=60,
        batch_size=10,
        nb_robust=80,
        nb_draws=2,
    ),
    "cifar10": Task(
        "CIFAR-10 (JPEG-75, 10,000 images) to digits in color (200 images)",
        Config(_CIFAR10, nb_epochs_dedicated=_CIFAR10.nb_epochs, seeds=_SEEDS),
        Recipe.dataset,
        colored_digits,
        lambdas=(0.0, 0.1, 0.4, 1.0),
        dialed=(),
        eps=2 / 255,
        nb_epochs=40,
        batch_size=32,
        nb_robust=40,
        nb_draws=1,
    ),
}


class Outcome(NamedTuple):
    """A network on the target task.

    Attributes:
        right: Which test images are answered right, float ``[N]``.
        stands: Which of the attacked stand, ``[M]``.
        choice: Weight decay or learning rate, chosen on validation images.
        validation: Accuracy on these.
        validation_robust: The same after PGD-20.
        baseline: Test accuracy of scikit-learn's logistic regression on the same features; NaN where there is none.
        seconds: Processor time of all trainings, also of those not chosen.
    """

    right: Shares
    stands: Shares
    choice: float
    validation: float
    validation_robust: float
    baseline: float
    seconds: float


def sources(task: Task, seed: int, runs: Path) -> dict[str, nn.Module]:
    """Train both networks on the source task, or take them from ``runs``; add one that is not trained."""
    recipe = task.sources.recipe.changed(seed=seed)
    data = task.source(recipe)
    part = Part(f"seed-{seed}", seed, data, np.arange(len(data.test.x)))
    names = {"oat": "oat", "natural": "lam-0"}
    found = {kind: train(name, task.sources, part, runs / part.name / name).model for kind, name in names.items()}
    with borrowed_generators(seed=seed):
        scratch = recipe.architecture(data).build()
    return {"oat": found["oat"], "natural": fold(found["natural"]), "scratch": scratch.eval()}


def plain_classifier(network: nn.Module, data: Dataset) -> PyTorchClassifier:
    return PyTorchClassifier(network, nn.CrossEntropyLoss(), data.input_shape, data.nb_classes, clip_values=(0, 1))


def accuracy(network: nn.Module, split: Split) -> NDArray[np.bool_]:
    """Return which images are answered right."""
    return is_correct(network, *map(torch.from_numpy, split)).numpy()


def regression_accuracy(probe: LinearProbe, target: Target) -> float:
    """Return what scikit-learn's logistic regression reaches on the same features, with the same weight decay."""
    x, y = target.data.train
    features, test = probe.features(x), probe.features(target.data.test.x)
    scale = features.var(axis=0).mean() ** 0.5
    regression = LogisticRegression(C=1 / (float(probe.weight_decay) * len(x)), tol=1e-6, max_iter=10000)
    return float(regression.fit(features / scale, y).score(test / scale, target.data.test.y))


def trained(
    network: nn.Module, target: Target, task: Task, lambdas: tuple[float, ...], rate: float, seed: int
) -> OATModel:
    """Train a whole network on the target task; a plain one naturally, as the conditional one of lam 0 alone."""
    is_conditional = isinstance(network, OATModel)
    model = network if is_conditional else to_conditional(network, lambdas, film_on=())
    optimizer = optim.SGD(parameter_groups(model, 5e-4), rate, momentum=0.9, nesterov=True)
    data = target.data
    loss = nn.CrossEntropyLoss()
    classifier = OATClassifier(model, loss, data.input_shape, data.nb_classes, optimizer, clip_values=(0, 1))
    method = task.sources.recipe.method
    trainer = OATTrainer(classifier, attack=PGD(method.eps, method.eps_step), seed=seed)
    trainer.fit(*data.train, nb_epochs=task.nb_epochs, batch_size=task.batch_size, scheduler=OneCycle(), verbose=False)
    return model.eval()


def judged(network: nn.Module, target: Target, task: Task, folder: Path) -> tuple[Shares, Shares]:
    """Return which test images are right, and which of those attacked stand."""
    x, y = (part[: task.nb_robust] for part in target.data.test)
    classifier = plain_classifier(network, target.data)
    report = evaluate(classifier, x, y, eps=task.eps, options=EvaluationOptions(state=folder, verbose=False))
    return accuracy(network, target.data.test).astype(float), report.is_robust.astype(float)


def on_validation(network: nn.Module, target: Target, task: Task) -> tuple[float, float]:
    """Return clean accuracy and that after PGD-20."""
    x, y = target.data.validation
    options = EvaluationOptions(verbose=False)
    report = evaluate(plain_classifier(network, target.data), x, y, eps=task.eps, attack="pgd-20", options=options)
    return float(accuracy(network, Split(x, y)).mean()), float(report.is_robust.mean())


def outcome(
    source: nn.Module, lam: float | None, protocol: Protocol, target: Target, task: Task, seed: int, folder: Path
) -> Outcome:
    """Transfer by a protocol, choose on validation images, and judge."""
    started = time.process_time()
    start = transfer(
        source,
        target.data.nb_classes,
        protocol=protocol,
        lam=lam,
        input_shape=target.data.input_shape,
        seed=seed,
    )
    baseline = float("nan")
    if protocol == "fixed-feature":
        probe = LinearProbe(start, DECAYS, input_shape=target.data.input_shape)
        probe.fit(*target.data.train, target.data.validation)
        network, choice = start, float(probe.weight_decay)
    else:
        tried = {rate: fold(trained(copy.deepcopy(start), target, task, (0.0,), rate, seed)) for rate in RATES}
        choice = max(tried, key=lambda rate: accuracy(tried[rate], target.data.validation).mean())
        network = tried[choice]
    seconds = time.process_time() - started
    if protocol == "fixed-feature":
        baseline = regression_accuracy(probe, target)
    right, stands = judged(network, target, task, folder)
    return Outcome(right, stands, choice, *on_validation(network, target, task), baseline, seconds)


def outcomes_of_dial(source: nn.Module, target: Target, task: Task, seed: int, folder: Path) -> list[Outcome]:
    """Transfer a network, or a plain one made conditional, with its dial; judge it at several lams."""
    started = time.process_time()
    recipe = task.sources.recipe
    if not isinstance(source, OATModel):
        source = to_conditional(source, recipe.lambdas, seed=seed)
    start = adapt(source, target.data.nb_classes, input_shape=target.data.input_shape, seed=seed)
    start = start.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    tried = {rate: trained(copy.deepcopy(start), target, task, recipe.lambdas, rate, seed) for rate in RATES}

    def mean_accuracy(rate: float) -> float:
        networks = [fold(tried[rate], lam) for lam in task.dialed]
        return float(np.mean([sum(on_validation(network, target, task)) for network in networks]))

    choice = max(tried, key=mean_accuracy)
    seconds = time.process_time() - started
    found = []
    for lam in task.dialed:
        network = fold(tried[choice], lam)
        right, stands = judged(network, target, task, folder / f"lam-{lam:g}")
        validation = on_validation(network, target, task)
        found.append(Outcome(right, stands, choice, *validation, float("nan"), seconds))
    return found


def settings(task: Task, target: Target, source: nn.Module) -> dict[str, Any]:
    """Return what outcomes depend on."""
    digest = hashlib.sha256()
    for split in target.data:
        digest.update(split.x.tobytes() + split.y.tobytes())
    for tensor in source.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    named = {name: getattr(task, name) for name in ("eps", "nb_epochs", "batch_size", "nb_robust", "dialed")}
    recipe = task.sources.recipe
    named |= {"eps_step": recipe.method.eps_step, "lambdas": recipe.lambdas, "training eps": recipe.method.eps}
    named |= {"decays": DECAYS, "rates": RATES, "data": digest.hexdigest()}
    result: dict[str, Any] = json.loads(json.dumps(named))
    return result


def kept(path: Path, given: Mapping[str, Any], make: Callable[[], Sequence[Outcome]]) -> list[Outcome]:
    """Return what a file holds, or make it.

    Raises:
        ValueError: If it holds outcomes of other settings.
    """
    if not path.exists():
        made = make()
        with write_whole(path) as file:
            lists = [{**it._asdict(), "right": it.right.tolist(), "stands": it.stands.tolist()} for it in made]
            json.dump({"settings": given, "outcomes": lists}, file)
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["settings"] != given:
        raise ValueError(f"{path} must hold outcomes of the same settings, but has others. Name another --runs.")
    return [
        Outcome(**{**it, "right": np.array(it["right"]), "stands": np.array(it["stands"])}) for it in found["outcomes"]
    ]


Key = tuple[str, str]
"""Protocol and kind of source."""

Found = dict[Key, dict[float, list[list[Outcome]]]]
"""By lam (0 where the source has none), seed and draw."""


def study_of_draw(
    task: Task, seed: int, draw_number: int, networks: Mapping[str, nn.Module], runs: Path
) -> dict[Key, dict[float, Outcome]]:
    """Transfer every source by every protocol to one draw of the target task."""
    found: dict[Key, dict[float, Outcome]] = {}
    target = task.target(task.nb_draws * seed + draw_number)
    place = runs / f"seed-{seed}" / f"draw-{draw_number}"
    for kind, source in networks.items():
        given = settings(task, target, source)
        for protocol in PROTOCOLS:
            found[protocol, kind] = {}
            for lam in task.lambdas if kind == "oat" else (None,):
                folder = place / f"{kind}-{protocol}" / f"lam-{lam}"
                make = partial(outcome, source, lam, protocol, target, task, seed, folder)
                (it,) = kept(folder / "outcome.json", given, lambda make=make: [make()])
                found[protocol, kind][lam or 0.0] = it
                print(seed, draw_number, kind, protocol, lam, _said(it), flush=True)
        if kind != "natural" and task.dialed:
            folder = place / f"{kind}-dial"
            make_all = partial(outcomes_of_dial, source, target, task, seed, folder)
            outcomes = kept(folder / "outcome.json", given, make_all)
            found[KEPT_DIAL, kind] = dict(zip(task.dialed, outcomes, strict=True))
            print(seed, draw_number, kind, KEPT_DIAL, *map(_said, outcomes), sep="\n    ", flush=True)
    return found


def _said(it: Outcome) -> str:
    values = (
        it.right.mean(),
        it.stands.mean(),
        it.validation,
        it.validation_robust,
        it.baseline,
        it.choice,
        it.seconds,
    )
    return "  ".join(f"{value:.4g}" for value in values)


Values = list[list[Shares]]
"""By seed and draw, a value for each image of all; NaN where it was not asked."""


@dataclass(frozen=True)
class Study:
    """What came of a task.

    Attributes:
        found: All outcomes.
        index: By seed and draw, which image of all each test image is.
    """

    found: Found
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


def study(task: Task, runs: Path) -> Study:
    """Transfer on every seed and draw."""
    by_seed = []
    for seed in task.sources.seeds:
        networks = sources(task, seed, runs)
        by_seed.append([study_of_draw(task, seed, number, networks, runs) for number in range(task.nb_draws)])
    first = by_seed[0][0]
    found = {key: {lam: [[it[key][lam] for it in draws] for draws in by_seed] for lam in first[key]} for key in first}
    numbers = [[task.nb_draws * seed + number for number in range(task.nb_draws)] for seed in task.sources.seeds]
    return Study(found, [[task.target(number).index for number in draws] for draws in numbers])


def mean(values: Values, counts: NDArray[np.int64] | int = 1) -> float:
    """Return the mean over seeds of means over draws of means over images, which count so many times."""
    means = [[np.nansum(it * counts) / (np.isfinite(it) * counts).sum() for it in draws] for draws in values]
    return float(np.mean([np.mean(draws) for draws in means]))


def interval(values: Values) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean over images; one that several draws ask is one image."""
    generator = np.random.default_rng(0)
    nb_images = len(values[0][0])
    asked = np.flatnonzero(np.isfinite([it for draws in values for it in draws]).any(axis=0))
    means = []
    for _ in range(NB_RESAMPLES):
        chosen = generator.choice(asked, size=len(asked))
        means.append(mean(values, np.bincount(chosen, minlength=nb_images)))
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _described(values: Values, form: str = ".2f") -> dict[str, str]:
    """Return mean, interval, and the mean of each seed, in points."""
    low, high = interval(values)
    by_seed = " ".join(f"{100 * mean([draws]):{form}}" for draws in values)
    points = {"value": mean(values), "low": low, "high": high}
    return {name: f"{100 * value:{form}}" for name, value in points.items()} | {"by seed": by_seed}


def rows(study: Study) -> list[dict[str, object]]:
    """Return the table: a row for each protocol, source and lam, in percent, with 95% intervals."""
    table: list[dict[str, object]] = []
    for (protocol, kind), by_lam in study.found.items():
        for lam, outcomes in by_lam.items():
            every = [it for draws in outcomes for it in draws]
            has_lam = kind == "oat" or protocol == KEPT_DIAL
            row: dict[str, object] = {"protocol": protocol, "source": kind, "lam": f"{lam:g}" if has_lam else ""}
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


COLORS = {"oat": "#1b6ca8", "natural": "#c0392b", "scratch": "0.45"}


def plot(study: Study, task: Task, path: Path) -> None:
    """Draw accuracy on the target task against lam: a column per protocol, clean above, AutoAttack below."""
    titles = {
        "fixed-feature": "fixed features, a head trained naturally",
        "full-network": "whole network trained naturally",
        KEPT_DIAL: "whole network trained by OAT, dial kept",
    }
    found = study.found
    protocols = [name for name in titles if (name, "oat") in found]
    figure = Figure(figsize=(1 + 3.4 * len(protocols), 6), layout="constrained")
    axes = figure.subplots(len(JUDGES), len(protocols), sharex=True, sharey="row")
    for (row, judge), (column, protocol) in itertools.product(enumerate(JUDGES), enumerate(protocols)):
        for kind in SOURCES:
            if (protocol, kind) in found:
                by_lam = {lam: study.answers(it, judge) for lam, it in found[protocol, kind].items()}
                _draw(axes[row, column], by_lam, kind)
        axes[0, column].set_title(titles[protocol], fontsize=10)
        axes[-1, column].set_xlabel("lam, of use" if protocol == KEPT_DIAL else "lam of the source")
        axes[row, column].grid(alpha=0.25)
        axes[row, column].yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        axes[row, column].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set_ylabel("clean accuracy")
    axes[1, 0].set_ylabel(f"under AutoAttack, eps {format_eps(task.eps)}")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"{task.title}; seeds {' '.join(map(str, task.sources.seeds))}; 95% over images", fontsize=10)
    with replaced(path) as partial_path:
        figure.savefig(partial_path, dpi=150)


def _draw(axes: Axes, by_lam: Mapping[float, Values], kind: str) -> None:
    """Draw a line with its interval; of a source without a dial a level."""
    lams = list(by_lam) if len(by_lam) > 1 else [0.0, 1.0]
    values = list(by_lam.values()) * (1 if len(by_lam) > 1 else 2)
    low, high = zip(*map(interval, values), strict=True)
    style = {"color": COLORS[kind], "label": SOURCES[kind]}
    axes.plot(lams, list(map(mean, values)), **style, **({"marker": "o"} if len(by_lam) > 1 else {"linestyle": "--"}))
    axes.fill_between(lams, low, high, color=COLORS[kind], alpha=0.15, linewidth=0)


def main() -> None:
    given = arguments()
    task = TASKS[given.data]
    task = replace(task, sources=task.sources.in_folder(given.data_folder))
    if given.smoke:
        with tempfile.TemporaryDirectory() as scratch:
            found = study(task.shortened(), Path(scratch))
            print(text(rows(found)), text(compared(found)), sep="\n")
            plot(found, task, Path(scratch) / "figure.png")
        return
    found = study(task, given.runs / given.data)
    table, differences = rows(found), compared(found)
    print(text(table), text(differences), sep="\n")
    made_by = environment(command("transfer", given), task.sources.seeds)
    write(RESULTS / f"transfer_{given.data}.csv", table, made_by)
    write(RESULTS / f"transfer_{given.data}_summary.csv", differences, made_by)
    plot(found, task, RESULTS / f"transfer_{given.data}.png")


def arguments() -> argparse.Namespace:
    asking = parser(__doc__)
    asking.set_defaults(runs=Path("runs/transfer"))
    return asking.parse_args()


if __name__ == "__main__":
    main()
