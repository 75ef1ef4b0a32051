"""At which lam do the features of one network transfer best to another task, and by how much?

    python -m benchmarks.transfer --data digits                          # digits 0-4 to 5-9
    python -m benchmarks.transfer --data cifar10 --data-folder FOLDER    # CIFAR-10 to digits in color
    python -m benchmarks.transfer --data digits --smoke                  # a minute; writes nothing

For every seed a network is trained on the source task by OAT, and a plain one naturally, in the same epochs. Each of
their feature extractors, the conditional one at several lams, goes to a target task with few images, by both protocols
of Salman et al. 2020 (arXiv:2007.08489): a head on fixed features, and natural training of the whole network. Beside
them the same from random weights ("scratch"), and both kept conditional: trained by OAT on the target task, all lams
at once, from the trained and from random weights.

Weight decay of the head and learning rate of the whole network are chosen for each on validation images, from the same
candidates; so is the lam that is called the best. Judged on all test images, clean, and on some of them by AutoAttack.
What is finished is kept in --runs: the same command goes on.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn, optim
from torch.nn import functional as F

from art_oat import (
    PGD,
    LinearProbe,
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
from art_oat.data import Dataset, Split, digits
from art_oat.data.dataset import draw
from art_oat.demo import RECIPE
from art_oat.files import replaced, write_whole
from art_oat.randomness import borrowed_generators
from art_oat.recipe import Recipe
from benchmarks.arguments import command, parser
from benchmarks.configs import Config, Part
from benchmarks.frontiers import Arm, Shares, accuracies, resampled
from benchmarks.methods import train
from benchmarks.record import RESULTS, environment, text, write

DOCS = Path(__file__).parents[1] / "docs"
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
RATES = (0.01, 0.1)
PROTOCOLS = ("fixed-feature", "full-network")
KEPT_DIAL = "dial kept"
SOURCES = {"oat": "one network, lam dialed", "natural": "natural training", "scratch": "random weights"}


class Target(NamedTuple):
    """A target task of one seed; ``index`` says which image of all each test image is."""

    data: Dataset
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """Where features come from and go to.

    Attributes:
        title: For people.
        sources: How both kinds of sources are trained, and the seeds.
        source: Data of the source task, by seed.
        target: The target task, by seed.
        lambdas: Source lams to try.
        dialed: Lams at which a network that keeps its dial is judged.
        eps: Radius of AutoAttack on the target task, Linf; where the dial is kept, training has that of the source.
        nb_epochs: Of the training of whole networks.
        batch_size: Likewise.
        nb_robust: Test images to attack, the first.
    """

    title: str
    sources: Config
    source: Callable[[Recipe], Dataset]
    target: Callable[[int], Target]
    lambdas: tuple[float, ...]
    dialed: tuple[float, ...]
    eps: float
    nb_epochs: int
    batch_size: int = 32
    nb_robust: int = 200

    def shortened(self) -> "Task":
        """Return the same task of one seed, one epoch and few images."""
        return replace(
            self,
            sources=self.sources.shortened(),
            lambdas=(0.0, 1.0),
            dialed=(0.0, 1.0),
            nb_epochs=1,
            nb_robust=8,
            batch_size=64,
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
    rest = np.random.default_rng(seed).permutation(rest)  # the first are attacked
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


_CIFAR10 = Recipe(
    data="cifar10",
    network="small-32-64-128",
    nb_train=10000,
    nb_epochs=15,
    learning_rate=0.2,
    precision="bf16",
    channels_last=True,
)
_SEEDS = (0, 1, 2)
TASKS = {
    "digits": Task(
        "digits 0-4 to digits 5-9 (50 images)",
        Config(replace(RECIPE, batch_size=64), nb_epochs_dedicated=RECIPE.nb_epochs, seeds=_SEEDS),
        lower_digits,
        higher_digits,
        lambdas=(0.0, 0.1, 0.2, 0.3, 0.4, 0.7, 1.0),
        dialed=RECIPE.lambdas,
        eps=0.1,
        nb_epochs=60,
    ),
    "cifar10": Task(
        "CIFAR-10 (JPEG-75, 10,000 images) to digits in color (200 images)",
        Config(_CIFAR10, nb_epochs_dedicated=_CIFAR10.nb_epochs, seeds=_SEEDS),
        Recipe.dataset,
        colored_digits,
        lambdas=(0.0, 0.1, 0.2, 0.4, 1.0),
        dialed=(0.0, 0.2, 1.0),
        eps=4 / 255,
        nb_epochs=60,
        nb_robust=60,
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
    recipe = replace(task.sources.recipe, seed=seed)
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
    like = next(network.parameters())
    with torch.no_grad():
        scores = torch.cat([network(batch.to(like)) for batch in torch.from_numpy(split.x).split(500)])
    return scores.argmax(dim=1).cpu().numpy() == split.y


def probed(network: nn.Module, target: Target) -> tuple[nn.Module, float, float]:
    """Train the head; return the network, the weight decay, and what scikit-learn's regression reaches."""
    probe = LinearProbe(network, DECAYS, input_shape=target.data.input_shape)
    features = probe.features(target.data.train.x)
    probe.fit(*target.data.train, target.data.validation)
    decay, scale = float(probe.weight_decay), features.var(axis=0).mean() ** 0.5
    baseline = LogisticRegression(C=1 / (decay * len(features)), tol=1e-6, max_iter=10000)
    baseline.fit(features / scale, target.data.train.y)
    return network, decay, baseline.score(probe.features(target.data.test.x) / scale, target.data.test.y)


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
    trainer = OATTrainer(classifier, PGD(task.sources.recipe.eps, task.sources.recipe.eps_step), seed=seed)
    trainer.fit(*data.train, nb_epochs=task.nb_epochs, batch_size=task.batch_size, scheduler=OneCycle(), verbose=False)
    return model.eval()


def judged(network: nn.Module, target: Target, task: Task, folder: Path) -> tuple[Shares, Shares]:
    """Return which test images are right, and which of those attacked stand."""
    x, y = (part[: task.nb_robust] for part in target.data.test)
    classifier = plain_classifier(network, target.data)
    report = evaluate(classifier, x, y, eps=task.eps, state=folder, verbose=False)
    return accuracy(network, target.data.test).astype(float), report.is_robust.astype(float)


def on_validation(network: nn.Module, target: Target, task: Task) -> tuple[float, float]:
    """Return clean accuracy and that after PGD-20."""
    x, y = target.data.validation
    report = evaluate(plain_classifier(network, target.data), x, y, eps=task.eps, attack="pgd-20", verbose=False)
    return float(accuracy(network, Split(x, y)).mean()), float(report.is_robust.mean())


def outcome(source: nn.Module, lam: float | None, protocol: str, target: Target, task: Task, folder: Path) -> Outcome:
    """Transfer by a protocol, choose on validation images, and judge."""
    started, seed = time.process_time(), int(folder.parts[-3].removeprefix("seed-"))
    start = transfer(
        source,
        target.data.nb_classes,
        protocol=protocol,  # type: ignore[arg-type]
        lam=lam,
        input_shape=target.data.input_shape,
        seed=seed,
    )
    if protocol == "fixed-feature":
        network, choice, baseline = probed(start, target)
    else:
        tried = {rate: fold(trained(copy.deepcopy(start), target, task, (0.0,), rate, seed)) for rate in RATES}
        choice = max(tried, key=lambda rate: accuracy(tried[rate], target.data.validation).mean())
        network, baseline = tried[choice], float("nan")
    seconds = time.process_time() - started
    right, stands = judged(network, target, task, folder)
    return Outcome(right, stands, choice, *on_validation(network, target, task), baseline, seconds)


def outcomes_of_dial(source: nn.Module, target: Target, task: Task, folder: Path) -> list[Outcome]:
    """Transfer a network, or a plain one made conditional, with its dial; judge it at several lams."""
    started, seed = time.process_time(), int(folder.parts[-3].removeprefix("seed-"))
    recipe = task.sources.recipe
    if not isinstance(source, OATModel):
        source = to_conditional(source, recipe.lambdas, seed=seed)
    start = transfer(source, target.data.nb_classes, input_shape=target.data.input_shape, seed=seed)
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


def kept(path: Path, make: Callable[[], Sequence[Outcome]]) -> list[Outcome]:
    """Return what a file holds, or make it."""
    if not path.exists():
        made = make()
        with write_whole(path) as file:
            json.dump([{**it._asdict(), "right": it.right.tolist(), "stands": it.stands.tolist()} for it in made], file)
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Outcome(**{**it, "right": np.array(it["right"]), "stands": np.array(it["stands"])}) for it in found]


Key = tuple[str, str]
"""Protocol and kind of source."""

Tabled = dict[Key, tuple[Arm, list[Sequence[Outcome]]]]
"""Accuracies, and the outcomes by seed and lam."""


def study_of_seed(task: Task, seed: int, target: Target, runs: Path) -> dict[Key, list[Outcome]]:
    """Transfer every source by every protocol."""
    found: dict[Key, list[Outcome]] = {}
    for kind, source in sources(task, seed, runs).items():
        for protocol in PROTOCOLS:
            lams = task.lambdas if kind == "oat" else (None,)
            found[protocol, kind] = []
            for lam in lams:
                folder = runs / f"seed-{seed}" / f"{kind}-{protocol}" / f"lam-{lam}"
                make = partial(outcome, source, lam, protocol, target, task, folder)
                found[protocol, kind] += kept(folder / "outcome.json", lambda make=make: [make()])
                print(seed, kind, protocol, lam, _said(found[protocol, kind][-1]), flush=True)
        if kind != "natural":
            folder = runs / f"seed-{seed}" / f"{kind}-dial" / "all"
            make_all = partial(outcomes_of_dial, source, target, task, folder)
            found[KEPT_DIAL, kind] = kept(folder / "outcome.json", make_all)
            for it in found[KEPT_DIAL, kind]:
                print(seed, kind, KEPT_DIAL, _said(it), flush=True)
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


def study(task: Task, runs: Path) -> Tabled:
    """Transfer on every seed."""
    targets = {seed: task.target(seed) for seed in task.sources.seeds}
    found = {seed: study_of_seed(task, seed, target, runs) for seed, target in targets.items()}
    return tabled(found, {seed: target.index for seed, target in targets.items()}, task.lambdas, task.dialed)


def tabled(
    found: Mapping[int, Mapping[Key, Sequence[Outcome]]],
    index: Mapping[int, NDArray[np.int64]],
    lambdas: tuple[float, ...],
    dialed: tuple[float, ...],
) -> Tabled:
    """Bring the outcomes of every seed together.

    Args:
        found: Outcomes by seed, and by protocol and source; one for each lam.
        index: By seed, which image of all each test image is.
        lambdas: Of the source, where it has a dial.
        dialed: Of the network that keeps it.
    """
    nb_images = 1 + max(int(it.max()) for it in index.values())
    result = {}
    for key in next(iter(found.values())):
        lams = dialed if key[0] == KEPT_DIAL else lambdas if key[1] == "oat" else (0.0,)
        right = np.full((2, len(lams), len(index), nb_images), np.nan)
        for place, seed in enumerate(index):
            for row, it in enumerate(found[seed][key]):
                right[0, row, place, index[seed]] = it.right
                right[1, row, place, index[seed][: len(it.stands)]] = it.stands
        seconds = float(np.mean([it.seconds for of_seed in found.values() for it in of_seed[key]]))
        arm = Arm(" ".join(key), lams, right, seconds, "processor", 0, "")
        result[key] = (arm, [found[seed][key] for seed in index])
    return result


def rows(found: Tabled) -> list[dict[str, object]]:
    """Return the table: a row for each protocol, source and lam, in percent, with standard errors over images."""
    table: list[dict[str, object]] = []
    for (protocol, kind), (arm, outcomes) in found.items():
        shares, errors = accuracies(arm)
        for place, lam in enumerate(arm.lambdas):
            own = [of_seed[place] for of_seed in outcomes]
            has_lam = kind == "oat" or protocol == KEPT_DIAL
            row: dict[str, object] = {"protocol": protocol, "source": kind, "lam": f"{lam:g}" if has_lam else ""}
            for index, name in enumerate(("clean", "autoattack")):
                row |= {name: f"{100 * shares[index, place]:.2f}", f"{name} s.e.": f"{100 * errors[index, place]:.2f}"}
            row |= {"clean by seed": " ".join(f"{100 * it.right.mean():.2f}" for it in own)}
            row |= {"autoattack by seed": " ".join(f"{100 * it.stands.mean():.1f}" for it in own)}
            row |= {"validation": f"{100 * np.mean([it.validation for it in own]):.2f}"}
            row |= {"validation pgd-20": f"{100 * np.mean([it.validation_robust for it in own]):.2f}"}
            if protocol == "fixed-feature":
                row |= {"scikit-learn clean": f"{100 * np.mean([it.baseline for it in own]):.2f}"}
            row |= {"chosen": " ".join(f"{it.choice:g}" for it in own)}
            table.append(row | {"seconds": f"{np.mean([it.seconds for it in own]):.2f}"})
    return table


def compared(found: Tabled) -> list[dict[str, str]]:
    """Return what the lam that validation images choose is ahead of the other sources, in points, with intervals."""
    table = []
    for protocol in PROTOCOLS:
        arm, outcomes = found[protocol, "oat"]
        for index, (name, field) in enumerate((("clean", "validation"), ("autoattack", "validation_robust"))):
            chosen = [
                np.mean([getattr(of_seed[row], field) for of_seed in outcomes]) for row in range(len(arm.lambdas))
            ]
            best = int(np.argmax(chosen))
            others = {f"the same at lam {arm.lambdas[row]:g}": (arm, row) for row in (0, -1)}
            others |= {kind: (found[protocol, kind][0], 0) for kind in ("natural", "scratch")}
            for other, (against, row) in others.items():
                about = {"protocol": protocol, "judge": name, "best lam": f"{arm.lambdas[best]:g}", "against": other}
                table.append(about | _difference(arm, against, index, best, row))
    for index, name in enumerate(("clean", "autoattack")):
        ours, theirs = (found[KEPT_DIAL, kind][0] for kind in ("oat", "scratch"))
        for row, lam in enumerate(ours.lambdas):
            about = {"protocol": KEPT_DIAL, "judge": name, "best lam": f"{lam:g}", "against": "scratch"}
            table.append(about | _difference(ours, theirs, index, row, row))
    return table


def _difference(ours: Arm, theirs: Arm, judge: int, row: int, other_row: int) -> dict[str, str]:
    """Return by how many points one is ahead of another, with an interval."""
    values = resampled(ours, theirs, lambda a, b: float(a[judge, row] - b[judge, other_row]))
    return {name: f"{100 * float(value):+.2f}" for name, value in values.items()}


COLORS = {"oat": "#1b6ca8", "natural": "#c0392b", "scratch": "0.45"}


def plot(found: Tabled, task: Task, path: Path) -> None:
    """Draw accuracy on the target task against lam: a column per protocol, clean above, AutoAttack below."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey="row")
    titles = {
        "fixed-feature": "fixed features, a head trained naturally",
        "full-network": "whole network trained naturally",
        KEPT_DIAL: "whole network trained by OAT, dial kept",
    }
    for column, protocol in enumerate((*PROTOCOLS, KEPT_DIAL)):
        for kind, label in SOURCES.items():
            if (protocol, kind) not in found:
                continue
            arm, _ = found[protocol, kind]
            shares, errors = accuracies(arm)
            for row in range(2):
                own = axes[row, column]
                if len(arm.lambdas) > 1:
                    style = {"marker": "o", "markersize": 4, "capsize": 2, "color": COLORS[kind], "label": label}
                    own.errorbar(arm.lambdas, shares[row], errors[row], **style)
                else:
                    own.axhline(shares[row, 0], color=COLORS[kind], linestyle="--", label=label)
                    own.axhspan(
                        shares[row, 0] - errors[row, 0], shares[row, 0] + errors[row, 0], color=COLORS[kind], alpha=0.12
                    )
        axes[0, column].set_title(titles[protocol], fontsize=10)
        axes[1, column].set_xlabel("lam, of use" if protocol == KEPT_DIAL else "lam of the source")
        for row in range(2):
            axes[row, column].grid(alpha=0.25)
            axes[row, column].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set_ylabel("clean accuracy")
    axes[1, 0].set_ylabel(f"under AutoAttack, eps {task.eps:.3g}")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"{task.title}; {len(task.sources.seeds)} seeds; bars: one standard error", fontsize=10)
    with replaced(path) as partial_path:
        figure.savefig(partial_path, dpi=150)


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
    made_by = environment(command("transfer", given), task.sources.seeds)
    print(text(rows(found)), text(compared(found)), sep="\n")
    write(RESULTS / f"transfer_{given.data}.csv", rows(found), made_by)
    write(RESULTS / f"transfer_{given.data}_summary.csv", compared(found), made_by)
    plot(found, task, DOCS / f"transfer_{given.data}.png")


def arguments() -> argparse.Namespace:
    asking = parser(__doc__)
    asking.set_defaults(runs=Path("runs/transfer"))
    return asking.parse_args()


if __name__ == "__main__":
    main()
