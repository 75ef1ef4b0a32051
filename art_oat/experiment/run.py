"""Owns a folder in which a recipe was trained and measured: what is done again, and what is reused."""

from __future__ import annotations

import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from art_oat.attacks import Norm
from art_oat.data import Dataset, Split
from art_oat.evaluation import AutoAttackWarning, EvaluationOptions, ThreatModel, TradeoffCurve
from art_oat.evaluation.report import write_reports
from art_oat.experiment.recipe import Recipe, fit, trainer_for, weights_file
from art_oat.model import OATModel
from art_oat.model_io import DESCRIPTION, WEIGHTS, load_model
from art_oat.storage import differences, digest, fingerprint, write_json

TRAINING_STATE = "training-state.pt"


@dataclass(frozen=True)
class Measurement:
    """What is measured of a trained network.

    Attributes:
        attacks: Names of the attacks, as ``TradeoffCurve.measure`` takes them.
        nb_robust: Size of the subset of test images that is attacked, in the classes' shares; None for all.
        eps: Radius; None for that of the training.
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``; None for that of the training.
        lambdas: Where to measure; None for the trained lams.
        widths: Where to measure; None for the trained widths.
        shard_size: How many images are attacked at once; as many shards as there are cores run side by side.
        seed: Of the subset and the attacks.
    """

    attacks: tuple[str, ...] = ("pgd-20", "autoattack")
    nb_robust: int | None = None
    eps: float | None = None
    norm: Norm | None = None
    lambdas: tuple[float, ...] | None = None
    widths: tuple[float, ...] | None = None
    shard_size: int = 250
    seed: int = 0


class Run:
    """A folder with ``model.safetensors``, ``model.json``, ``training.csv``, ``tradeoff.csv`` and ``tradeoff.png``.

    ``samples.csv`` says which attack broke which image. ``run.json`` holds the settings that all were made with. What
    was made with the same settings, and has not been changed since, is reused. ``training-state.pt`` is there while a
    training is not complete, a folder ``evaluation-...`` while a measurement is not.

    Args:
        folder: Where the files are, and go; made where it is missing.
        say: Is told what happens, one line at a time.

    Raises:
        NotADirectoryError: If ``folder`` is a file.
    """

    def __init__(self, folder: str | Path, say: Callable[[str], None]) -> None:
        self.folder = Path(folder)
        if self.folder.is_file():
            raise NotADirectoryError(f"a run must lie in a folder, but {self.folder} is a file.")
        self.say = say
        self._models = [self.folder / WEIGHTS, self.folder / DESCRIPTION]
        self._training_state = self.folder / TRAINING_STATE
        self._curve, self._samples = self.folder / "tradeoff.csv", self.folder / "samples.csv"
        self._measured = [self._curve, self._samples]
        self._ledger = _Ledger(self.folder / "run.json")

    @property
    def recipe(self) -> Recipe:
        """What the weights are trained with; also of a training that was cut short after its first validation.

        Raises:
            FileNotFoundError: If there are none.
        """
        recipe = self.recipe_or_none()
        if recipe is None:
            raise FileNotFoundError(f"{self.folder} must hold a run, made by art-oat train --out {self.folder}.")
        return recipe

    def recipe_or_none(self) -> Recipe | None:
        """Return what the weights are trained with, or None where there are none of a known recipe."""
        settings = self._ledger.settings("recipe")
        if not settings or not all(path.exists() for path in self._models):
            return None
        try:
            return Recipe(**settings)
        except (TypeError, ValueError):  # of another version, or damaged
            return None

    def is_trained(self) -> bool:
        """Whether the folder holds weights, of whatever recipe."""
        return any(path.exists() for path in self._models)

    def train(self, recipe: Recipe, data: Dataset, *, keeps_best: bool = True, overwrites: bool = False) -> OATModel:
        """Train, or go on where the same training was cut short, unless it is done already; return the model.

        Args:
            recipe: How to train.
            data: What the recipe's ``dataset()`` gives.
            keeps_best: Whether the weights are those of the best epoch on validation data, or of the last.
            overwrites: Whether another training, also one that was cut short, may be replaced; then this one starts
                anew, too, if it was cut short.

        Raises:
            FileExistsError: If there is another, and it may not.
        """
        settings = _training(recipe, data)
        if self._ledger.holds("training", settings, self._models):
            self.say(f"Reusing the weights in {self.folder}: trained with the same settings.")
            self._training_state.unlink(missing_ok=True)  # of a process that ended between its last two steps
            return load_model(self.folder)
        begun = {**settings, "keeps_best": keeps_best}
        is_cut = not overwrites and self._ledger.holds("begun", begun)
        if not overwrites and not is_cut:
            self._refuse_another(begun)
        trainer = trainer_for(recipe, data)  # refuses what cannot work, before anything is replaced
        self._begin(recipe, data, begun, is_cut=is_cut)
        state_path = self._training_state
        model = fit(trainer, recipe, data, folder=self.folder, keeps_best=keeps_best, state_path=state_path).model
        self._ledger.forget("begun")
        self._ledger.keep("training", settings, self._models)
        state_path.unlink(missing_ok=True)
        return model

    def _refuse_another(self, asked: dict[str, Any]) -> None:
        """Protect what another training left; say in what it is another."""
        if not self.is_trained() and not self._training_state.exists():
            return
        what = "weights of another training" if self.is_trained() else "another training, cut short"
        kept = self._ledger.settings("begun") or self._ledger.settings("training")
        different = differences(kept, {name: mark for name, mark in fingerprint(asked).items() if name in kept})
        why = f": {different}" if different else ""
        raise FileExistsError(f"{self.folder} holds {what}{why}. Name another --out, or add --overwrite.")

    def _begin(self, recipe: Recipe, data: Dataset, begun: dict[str, Any], *, is_cut: bool) -> None:
        """Say what comes, and remove what must not pass for a result of it."""
        stale = [*self._measured, self.folder / "tradeoff.png"]
        if is_cut and self._training_state.exists():
            self.say(f"Going on with the training in {self.folder}, which was cut short ...")
        else:
            what = f"{_every(recipe.widths)} on {len(data.train.x)} images, {recipe.nb_epochs} epochs"
            self.say(f"Training one network for {what} ...")
            stale += [*self._models, self.folder / "training.csv", self._training_state]
        for path in stale:
            path.unlink(missing_ok=True)
        self._ledger.keep("recipe", asdict(recipe))  # so that a training that is cut short can be measured
        self._ledger.keep("begun", begun)  # and gone on with

    def measure(
        self,
        measurement: Measurement,
        data: Dataset,
        *,
        nb_workers: int | None = None,
        allow_large_eps: bool = False,
    ) -> TradeoffCurve:
        """Attack the trained network at every lam and width, unless it is done already; draw and return the curve.

        A measurement that was cut goes on where it was: what it has found so far lies in a folder ``evaluation-...``.

        Args:
            measurement: What to measure.
            data: The test part is measured on.
            nb_workers: How many shards to attack at once; None for one per core, or one where there is a GPU.
            allow_large_eps: Whether the radius may be half the range of the images, or more; the recipe says so of
                its own.
        """
        recipe = self.recipe
        what = {**asdict(measurement), "model": digest(*self._models), "data": data_digest(data.test)}
        settings = what | {"machine": _machine()}  # latency is another on another one
        if self._ledger.holds("measurement", settings, self._measured):
            self.say(f"Reusing the measurements in {self._curve}: taken of the same weights with the same settings.")
            curve = TradeoffCurve.from_csv(self._curve)
        else:
            so_far = self.folder / f"evaluation-{digest(repr(fingerprint(what)).encode())[:8]}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AutoAttackWarning)  # the points of the curve have them
                curve = self._attack(recipe, measurement, data, nb_workers, so_far, allow_large_eps)
            curve.to_csv(self._curve)
            write_reports(curve.reports, self._samples)
            self._ledger.keep("measurement", settings, self._measured)
            for done in self.folder.glob("evaluation-*"):  # this one, and those that were given up
                shutil.rmtree(done)
        curve.plot(self.folder / "tradeoff.png")
        return curve

    def _attack(
        self,
        recipe: Recipe,
        measurement: Measurement,
        data: Dataset,
        nb_workers: int | None,
        so_far: Path,
        allow_large_eps: bool,
    ) -> TradeoffCurve:
        lambdas = recipe.lambdas if measurement.lambdas is None else measurement.lambdas
        widths = recipe.widths if measurement.widths is None else measurement.widths
        is_as_trained = measurement.eps is None and measurement.norm is None
        nb_images, nb_attacked = len(data.test.x), measurement.nb_robust or len(data.test.x)
        begin = "Going on attacking" if so_far.exists() else "Attacking"
        self.say(f"{begin} {nb_attacked} of {nb_images} test images at {_every(widths)} ...")
        threat = ThreatModel(
            recipe.eps if measurement.eps is None else measurement.eps,
            recipe.norm if measurement.norm is None else measurement.norm,
            allow_large_eps or (is_as_trained and recipe.allow_large_eps),
        )
        options = EvaluationOptions(
            shard_size=measurement.shard_size,
            seed=measurement.seed,
            state=so_far,
            nb_workers=nb_workers or _nb_workers(-(-nb_attacked // measurement.shard_size)),
            nb_robust=measurement.nb_robust,
        )
        return TradeoffCurve.measure(
            recipe.classifier(load_model(self.folder), data),
            *data.test,
            eps=threat,
            attack=measurement.attacks,
            lambdas=lambdas,
            widths=widths,
            options=options,
        )


def _nb_workers(nb_shards: int) -> int:
    """Return how many processes it is worth having: a GPU is not shared."""
    return 1 if torch.cuda.is_available() else min(os.cpu_count() or 1, nb_shards)


def _every(widths: tuple[float, ...]) -> str:
    if len(widths) > 1:
        return f"every lam and {len(widths)} widths"
    return "every lam" if widths == (1.0,) else f"every lam at width {widths[0]:g}"


def _training(recipe: Recipe, data: Dataset) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "recipe": asdict(recipe),
        "data": [data_digest(data.train), data_digest(data.validation)],
        "version": version("art-oat"),
    }
    if recipe.pretrained is not None:
        settings["pretrained"] = digest(weights_file(recipe.pretrained))
    return settings


def _machine() -> str:
    return f"{platform.platform()}, {platform.processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def data_digest(part: Split) -> str:
    """Return what tells images and labels apart from others."""
    return digest(part.x, part.y)


class _Ledger:
    """Remembers with which settings the files in a folder were made, and what was in them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            kept = {}
        self.kept: dict[str, Any] = kept if isinstance(kept, dict) else {}

    def settings(self, name: str) -> dict[str, Any]:
        """Return what something was made with; nothing where that is not known."""
        entry = self.kept.get(name)
        settings = entry.get("settings") if isinstance(entry, dict) else None
        return settings if isinstance(settings, dict) else {}

    def holds(self, name: str, settings: Mapping[str, Any], results: Sequence[Path] = ()) -> bool:
        """Whether ``results`` were made with ``settings``, and are still what was made."""
        return all(path.exists() for path in results) and self.kept.get(name) == _entry(settings, results)

    def forget(self, name: str) -> None:
        """Note nothing of something any more, from the next :meth:`keep` on."""
        self.kept.pop(name, None)

    def keep(self, name: str, settings: Mapping[str, Any], results: Sequence[Path] = ()) -> None:
        """Note that ``results`` were made with ``settings``."""
        self.kept[name] = _entry(settings, results)
        write_json(self.path, self.kept)


def _entry(settings: Mapping[str, Any], results: Sequence[Path]) -> dict[str, Any]:
    return {"settings": fingerprint(settings), "sha256": digest(*results)}
