"""Collects what a page shows of a run, as plain values: from its files, and from a quick look at a few test images."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from art_oat.attacks import Norm
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.data import Dataset, Split
from art_oat.evaluation import TradeoffCurve
from art_oat.evaluation.tradeoff import subset
from art_oat.experiment.ledger import Ledger
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.run import Run
from art_oat.levels import as_floats
from art_oat.model_io import load_model
from art_oat.report.commands import commands, measurement_of
from art_oat.report.gallery import FACTORS, Gallery, chosen, data_uri, dial, gallery, survivors
from art_oat.report.samples import Breakage, ClassAccuracy, breakages, by_class, read_samples
from art_oat.storage import read_rows

_NB_SHOWN = 12
_MADE_OF = ("art-oat", "torch", "numpy", "adversarial-robustness-toolbox")
_NAMES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "stl10": ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
}


@dataclass(frozen=True)
class RadiusLine:
    """What a quick attack left right at one point, radius by radius: fractions, and their number of images."""

    lam: float
    width: float
    radii: tuple[float, ...]
    shares: tuple[float, ...]
    nb_images: int


@dataclass(frozen=True)
class Report:
    """What a page shows of a run.

    Attributes:
        name: What the folder is called.
        recipe: What the weights are trained with.
        eps: Radius of all attacks, in units of the images.
        norm: Its norm.
        widths: The trained widths, widest first.
        lams: Where the dial stops.
        trained: The trained lams.
        classes: What the classes are called.
        curve: What was measured, or None.
        radii: Robustness over the radius, of a quick attack.
        gallery: Images that are answered as the dial turns, or None.
        per_class: Accuracies by class.
        breakages: What broke images.
        pictures: The images that :attr:`breakages` names, as data URIs of PNG, by index.
        training: The rows of ``training.csv``, by column; None stands for what a row does not hold.
        versions: What the run and this page were made with.
        commands: What makes it again.
        missing: Why a part of the page is left out, by its name.
    """

    name: str
    recipe: Recipe
    eps: float
    norm: Norm
    widths: tuple[float, ...]
    lams: tuple[float, ...]
    trained: tuple[float, ...]
    classes: tuple[str, ...]
    curve: TradeoffCurve | None = None
    radii: tuple[RadiusLine, ...] = ()
    gallery: Gallery | None = None
    per_class: tuple[ClassAccuracy, ...] = ()
    breakages: tuple[Breakage, ...] = ()
    pictures: Mapping[int, str] = field(default_factory=dict)
    training: tuple[Mapping[str, float | None], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)


def collect(run: Run, *, nb_images: int = 200) -> Report:
    """Collect what a page shows of a run; nothing in its folder is changed.

    Args:
        run: A run that was trained; what was not measured is left out, and :attr:`Report.missing` says why.
        nb_images: How many test images a quick attack (PGD-20) looks at.

    Raises:
        FileNotFoundError: If there are no weights, or the data are not there.
        ValueError: If a file is damaged, or its network is code that ``run`` does not trust.
    """
    recipe = run.recipe
    network = load_model(run.folder, trusts_network=run.trusts_network)
    data = recipe.dataset(keeps_levels=True)
    classifier = recipe.classifier(network, data.input_shape, data.nb_classes, device_type=run.device_type)
    missing: dict[str, str] = {}
    curve = _curve(run, missing)
    eps, norm = (recipe.method.eps, recipe.method.norm) if curve is None else (curve.eps, curve.norm)
    measured = [] if curve is None else [point.lam for point in curve.points]
    lams = dial(sorted({*network.lambdas, *measured}))
    ledger = Ledger(run.folder / "run.json")
    return Report(
        run.folder.resolve().name,
        recipe,
        eps,
        norm,
        tuple(sorted(network.widths, reverse=True)),
        tuple(lams),
        tuple(network.lambdas),
        _NAMES.get(recipe.data, tuple(map(str, range(data.nb_classes)))),
        curve,
        versions=_versions(ledger),
        commands=tuple(commands(run.folder, recipe, measurement_of(ledger.settings("measurement")))),
        training=_training(run, missing),
        **_looked_at(run, classifier, data, (eps, norm), lams, nb_images, missing),
        **_of_samples(run, data, missing),
        missing=missing,
    )


def _curve(run: Run, missing: dict[str, str]) -> TradeoffCurve | None:
    curve = run.curve
    if curve is None:
        missing["tradeoff"] = "The run was not measured: art-oat evaluate writes tradeoff.csv."
    return curve


def _of_samples(run: Run, data: Dataset, missing: dict[str, str]) -> dict[str, Any]:
    path = run.folder / "samples.csv"
    if not path.exists():
        missing["samples"] = "There is no samples.csv, which art-oat evaluate writes."
        return {}
    rows = [row for row in read_samples(path) if row.sample < len(data.test.y)]
    found = breakages(rows)
    named = sorted({sample for it in found for sample in it.examples})
    pictures = {sample: data_uri(_images(data.test, [sample])[0]) for sample in named}
    per_class = tuple(by_class(rows, data.test.y))
    return {"per_class": per_class, "breakages": tuple(found), "pictures": pictures}


def _images(part: Split, index: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
    images: NDArray[np.float32] = as_floats(part.x[index], (0, 1))
    return images


def _looked_at(
    run: Run,
    classifier: OATClassifier,
    data: Dataset,
    ball: tuple[float, Norm],
    lams: Sequence[float],
    nb_images: int,
    missing: dict[str, str],
) -> dict[str, Any]:
    """Attack a subset of the test images quickly, and choose from it what the dial is shown on."""
    eps, norm = ball
    if norm == "L1":
        missing["gallery"] = "The quick attack, PGD, knows no L1 ball."
        return {}
    index = subset(data.test.y, min(nb_images, len(data.test.y)), seed=0)
    x, y = _images(data.test, index), data.test.y[index]
    radii, model = [factor * eps for factor in FACTORS], classifier.model
    run.say(f"Attacking {len(x)} test images quickly, at {len(model.lambdas)} lams and {len(model.widths)} widths ...")
    points = [OperatingPoint(lam, width) for width in sorted(model.widths, reverse=True) for lam in model.lambdas]
    found = {point: survivors(classifier, x, y, point, radii=radii, norm=norm) for point in points}
    lines = [
        RadiusLine(point.lam, point.width, (0.0, *radii), tuple(map(float, right.mean(1))), len(x))
        for point, right in found.items()
    ]
    at_eps = np.array([right[[0, 1 + FACTORS.index(1.0)]] for point, right in found.items() if point.width == 1])
    shown = chosen(at_eps[:, 0], at_eps[:, 1], y, _NB_SHOWN)
    run.say(f"Attacking {len(shown)} of them at each of {len(lams)} lams ...")
    images = gallery(classifier, x[shown], y[shown], list(index[shown]), lams=lams, eps=eps, norm=norm)
    return {"radii": tuple(lines), "gallery": images}


def _training(run: Run, missing: dict[str, str]) -> tuple[Mapping[str, float | None], ...]:
    path = run.folder / "training.csv"
    if not path.exists():
        missing["training"] = "There is no training.csv, which a training writes."
        return ()
    return tuple({name: _number(text) for name, text in row.items()} for row in read_rows(path))


def _number(text: str | None) -> float | None:
    """Return a finite number; None for all else."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _versions(ledger: Ledger) -> dict[str, str]:
    trained = ledger.settings("training").get("version")
    measured = ledger.settings("measurement").get("machine")
    own = {name: version(name) for name in _MADE_OF} | {"Python": platform.python_version()}
    known = {"Trained by art-oat": trained, "Measured on": measured}
    made = ", ".join(f"{name} {number}" for name, number in own.items())
    return {name: str(value).replace(", ,", ",") for name, value in known.items() if value} | {"This page by": made}
