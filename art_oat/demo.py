"""Owns the demo: one network on scikit-learn's digits, trained, judged and drawn."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from art_oat.attack import PGD
from art_oat.classifier import OATClassifier
from art_oat.data import Dataset, digits
from art_oat.evaluation import TradeoffCurve
from art_oat.files import write_whole
from art_oat.layers import DEFAULT_LAMBDAS
from art_oat.randomness import borrowed_generators
from art_oat.surgery import to_conditional
from art_oat.training import Architecture, OATTrainer, StratifiedSampling, load_model, save_model
from art_oat.training.checkpoint import DESCRIPTION, WEIGHTS

INPUT_SHAPE = (1, 8, 8)
NB_CLASSES = 10


@dataclass(frozen=True)
class Recipe:
    """What the demo trains with; chosen on validation data, see ``benchmarks/demo_recipe.py``.

    Attributes:
        seed: Of the split, the weights and the training.
        nb_epochs: Passes over the training images.
        eps: Radius (Linf) of the attacks, images in ``[0, 1]``.
        eps_step: Step of the training attack; None for the published one.
        nb_steps: Steps of the training attack.
        weight_of_one: Weight of lam = 1 among the attacked samples; the other lams above 0 have 1 each.
        learning_rate: Peak of the one-cycle schedule.
        batch_size: Samples per step.
        weight_decay: Of SGD with momentum 0.9.
        channels: Of the small CNN.
    """

    seed: int = 0
    nb_epochs: int = 60
    eps: float = 0.2
    eps_step: float | None = 0.05
    nb_steps: int = 7
    weight_of_one: float = 3.3
    learning_rate: float = 0.2
    batch_size: int = 128
    weight_decay: float = 3e-3
    channels: tuple[int, ...] = (16, 32, 64)

    @property
    def architecture(self) -> Architecture:
        """The plain network."""
        return Architecture("SmallCNN", {"channels": list(self.channels)})


@dataclass(frozen=True)
class Measurement:
    """What the demo measures.

    Attributes:
        attacks: Names of the attacks, as ``TradeoffCurve.measure`` takes them.
        nb_robust: Size of the stratified subset of test images that is attacked.
        seed: Of the subset and the attacks.
    """

    attacks: tuple[str, ...] = ("pgd-20", "autoattack")
    nb_robust: int = 150
    seed: int = 0


def run(folder: Path, recipe: Recipe, measurement: Measurement, say: Callable[[str], None]) -> TradeoffCurve:
    """Train, measure and draw; do again only what is missing or was done with other settings.

    Writes ``model.safetensors``, ``model.json``, ``training.csv``, ``tradeoff.csv``, ``tradeoff.png`` and
    ``demo.json`` (the settings of what lies beside it).

    Args:
        folder: Where the files are, and go.
        recipe: How to train.
        measurement: What to measure.
        say: Is told what happens, one line at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = digits(recipe.seed)
    state = _State(folder / "demo.json")
    model_files = [folder / WEIGHTS, folder / DESCRIPTION]
    training = {**asdict(recipe), "lambdas": DEFAULT_LAMBDAS, "version": version("art-oat")}
    if state.holds("training", training, model_files):
        say(f"Reusing the weights in {folder}: trained with the same settings.")
        classifier = _classifier(load_model(folder))
    else:
        say(f"Training one network for every lam on {len(data.train.x)} digits, {recipe.nb_epochs} epochs ...")
        classifier = train(recipe, data, log_path=folder / "training.csv")
        save_model(classifier.model, folder, recipe.architecture)
        state.keep("training", training, model_files)
    measured = {**asdict(measurement), "eps": recipe.eps, "model": _digest(model_files)}
    csv_path = folder / "tradeoff.csv"
    if state.holds("measurement", measured, [csv_path]):
        say(f"Reusing the measurements in {csv_path}: taken of the same weights with the same settings.")
        curve = TradeoffCurve.from_csv(csv_path)
    else:
        say(f"Attacking {measurement.nb_robust} of {len(data.test.x)} test images at every lam ...")
        curve = _measure(classifier, data, recipe, measurement)
        curve.to_csv(csv_path)
        state.keep("measurement", measured, [csv_path])
    curve.plot(folder / "tradeoff.png")
    return curve


def _classifier(model: Any, optimizer: torch.optim.Optimizer | None = None) -> OATClassifier:
    return OATClassifier(model, nn.CrossEntropyLoss(), INPUT_SHAPE, NB_CLASSES, optimizer, clip_values=(0, 1))


def train(recipe: Recipe, data: Dataset, *, log_path: Path | None = None, verbose: bool = True) -> OATClassifier:
    """Train one network for every lam, and return its classifier.

    Args:
        recipe: How to train.
        data: Digits; the test part is not looked at.
        log_path: Where the log goes; None for nowhere.
        verbose: Whether to show progress.
    """
    with borrowed_generators(seed=recipe.seed):
        network = recipe.architecture.build()
    model = to_conditional(network, DEFAULT_LAMBDAS, seed=recipe.seed)
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    nb_steps = recipe.nb_epochs * -(-len(data.train.x) // recipe.batch_size)
    trainer = OATTrainer(
        _classifier(model, optimizer),
        PGD(recipe.eps, recipe.eps_step, recipe.nb_steps),
        sampling=StratifiedSampling({1.0: recipe.weight_of_one}),
        seed=recipe.seed,
    )
    trainer.fit(
        *data.train,
        validation_data=data.validation,
        validation_interval=10,
        batch_size=recipe.batch_size,
        nb_epochs=recipe.nb_epochs,
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=nb_steps),
        scheduler_interval="step",
        log_path=log_path,
        verbose=verbose,
    )
    classifier: OATClassifier = trainer.get_classifier()
    return classifier


def _measure(classifier: OATClassifier, data: Dataset, recipe: Recipe, measurement: Measurement) -> TradeoffCurve:
    return TradeoffCurve.measure(
        classifier,
        *data.test,
        eps=recipe.eps,
        attack=measurement.attacks,
        nb_robust=measurement.nb_robust,
        seed=measurement.seed,
        nb_workers=min(os.cpu_count() or 1, len(DEFAULT_LAMBDAS)),
    )


class _State:
    """Remembers with which settings the files in a folder were made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            self.kept = {}

    def holds(self, name: str, settings: dict[str, Any], results: list[Path]) -> bool:
        """Whether ``results`` were made with ``settings``, and are still what was made."""
        return all(path.exists() for path in results) and self.kept.get(name) == _entry(settings, results)

    def keep(self, name: str, settings: dict[str, Any], results: list[Path]) -> None:
        """Note that ``results`` were made with ``settings``."""
        self.kept[name] = _entry(settings, results)
        with write_whole(self.path) as file:
            json.dump(self.kept, file, indent=2)
            file.write("\n")


def _entry(settings: dict[str, Any], results: list[Path]) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(json.dumps({"settings": settings, "sha256": _digest(results)}))
    return entry


def _digest(paths: list[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
