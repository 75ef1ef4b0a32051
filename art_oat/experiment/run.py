"""A folder in which a recipe was trained and measured: what is done again, and what is reused."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from art_oat.checks import refuse
from art_oat.classifier.device import device_fault, named_device
from art_oat.data import Dataset
from art_oat.evaluation import AutoAttackWarning, EvaluationOptions, TradeoffCurve
from art_oat.evaluation.report import write_reports
from art_oat.experiment.build import fit, trainer_for
from art_oat.experiment.card import describe, own_card
from art_oat.experiment.identity import machine, regardless_of_divergence, training_identity
from art_oat.experiment.ledger import Ledger
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.recipe import Recipe
from art_oat.fingerprint import differences, fingerprint
from art_oat.group import Group
from art_oat.launch import nb_here
from art_oat.leftovers import remove_folders
from art_oat.lock import Held, locked
from art_oat.model import OATModel
from art_oat.model_files import WEIGHTS, described_by
from art_oat.model_io import load_model, weights_digest
from art_oat.storage import digest
from art_oat.training import ResumeFile


class Run:
    """A folder with ``model.safetensors``, ``config.json``, ``training.csv``, ``tradeoff.csv`` and ``tradeoff.png``.

    ``README.md`` is the card of the model, with its curve. ``samples.csv`` says which attack broke which image.
    ``run.json`` holds the settings that all were made with. What was made with the same settings, and has not been
    changed since, is reused. ``training-state.pt`` is there while a training is not complete, a folder
    ``evaluation-...`` while a measurement is not. One process at a time trains or measures there.

    Args:
        folder: Where the files are, and go; made where it is missing.
        say: Is told what happens, one line at a time.
        trusts_network: Whether code is imported that the folder names as its network.
        device_type: ``"cpu"``, ``"gpu"``, or ``"auto"`` for a GPU where torch sees one.

    Raises:
        NotADirectoryError: If ``folder`` is a file.
        ValueError: If ``device_type`` is not as above, or torch sees no GPU.
    """

    def __init__(
        self,
        folder: str | Path,
        say: Callable[[str], None],
        *,
        trusts_network: bool = False,
        device_type: str = "auto",
    ) -> None:
        refuse([fault] if (fault := device_fault(device_type)) else [])
        self.folder, self.device_type = Path(folder), device_type
        self.trusts_network = trusts_network
        if self.folder.is_file():
            raise NotADirectoryError(f"a run must lie in a folder, but {self.folder} is a file.")
        self.say = say
        self._training_state = self.folder / "training-state.pt"
        self._curve, self._samples = self.folder / "tradeoff.csv", self.folder / "samples.csv"
        self._measured = [self._curve, self._samples]
        self._ledger = Ledger(self.folder / "run.json")
        self._held: Held | None = None

    @property
    def _models(self) -> list[Path]:
        return [self.folder / WEIGHTS, described_by(self.folder)]

    @contextmanager
    def held(self) -> Iterator[Held | None]:
        """Have the folder for this process alone while the block runs, for what comes of several steps, too.

        Of several processes that work together, the first one has it for all, and writes; in the others it is None.

        Raises:
            RuntimeError: If another process works there.
        """
        if self._held is not None or not Group.here().is_first:
            yield self._held
            return
        with locked(self.folder, self.say) as held:
            self._ledger, self._held = Ledger(self._ledger.path), held  # another process may have written since
            try:
                yield held
            finally:
                self._held = None

    @property
    def recipe(self) -> Recipe:
        """What the weights are trained with; also of a training that was cut short after its first validation.

        Raises:
            FileNotFoundError: If there are none.
        """
        try:
            if all(path.exists() for path in self._models):
                return Recipe.from_values(self._ledger.settings("recipe"))
        except (KeyError, TypeError, ValueError):  # of another version, or damaged
            pass
        why = f", but {self._ledger.fault}" if self._ledger.fault else ""
        raise FileNotFoundError(f"{self.folder} must hold a run, made by art-oat train --out {self.folder}{why}.")

    @property
    def curve(self) -> TradeoffCurve | None:
        """What was measured of the weights; None where nothing was. A damaged table is refused."""
        return TradeoffCurve.from_csv(self._curve) if self._curve.exists() else None

    def train(
        self,
        recipe: Recipe,
        data: Dataset,
        *,
        keeps_best: bool = True,
        overwrites: bool = False,
        checkpoint_steps: int | None = None,
        checkpoint_minutes: float | None = None,
    ) -> OATModel:
        """Train, or go on where the same training was cut short, unless it is done already; return the model.

        Args:
            recipe: How to train.
            data: What the recipe's ``dataset()`` gives.
            keeps_best: Whether the weights are those of the best epoch on validation data, or of the last.
            overwrites: Whether another training, also one that was cut short, may be replaced; then this one starts
                anew, too, if it was cut short.
            checkpoint_steps: What a cut loses at most; see ``every_steps`` of :class:`~art_oat.training.ResumeFile`.
            checkpoint_minutes: Likewise, see its ``every_minutes``.

        Raises:
            FileExistsError: If there is another, and it may not.
            RuntimeError: If another process works in the folder.
        """
        file = ResumeFile(self._training_state, every_steps=checkpoint_steps, every_minutes=checkpoint_minutes)
        with self.held() as held:
            return self._train(recipe, data, file, held, keeps_best=keeps_best, overwrites=overwrites)

    def _train(
        self, recipe: Recipe, data: Dataset, file: ResumeFile, held: Held | None, *, keeps_best: bool, overwrites: bool
    ) -> OATModel:
        group, settings = Group.here(), training_identity(recipe, data)
        if group.first(lambda: self._ledger.holds("training", settings, self._models)):
            self.say(f"Reusing the weights in {self.folder}: trained with the same settings.")
            self._training_state.unlink(missing_ok=True)  # of a process that ended between its last two steps
            return load_model(self.folder, trusts_network=True)  # the caller's recipe names the network
        begun = {**regardless_of_divergence(settings), "keeps_best": keeps_best}
        # both refuse what cannot work, before anything is replaced
        is_cut = group.first(lambda: self._is_cut(begun, overwrites=overwrites))
        trainer = trainer_for(recipe, data, device_type=self.device_type)
        group.first(lambda: self._begin(recipe, data, begun, trainer.get_classifier().device, is_cut=is_cut))
        model = fit(trainer, recipe, data, folder=self.folder, keeps_best=keeps_best, resume_file=file).model
        if held is not None:
            self._complete(settings, model, held)
        return model

    def _complete(self, settings: dict[str, Any], model: OATModel, held: Held) -> None:
        """Write down that a training is done."""
        held.check()
        if digest(self._models[0]) != weights_digest(model):
            raise RuntimeError(f"{self._models[0]} must hold what was trained, but another process has written it.")
        self._ledger.forget("begun")
        self._ledger.keep("training", settings, self._models)
        self._training_state.unlink(missing_ok=True)

    def _is_cut(self, begun: dict[str, Any], *, overwrites: bool) -> bool:
        """Whether the same training was cut short here, and is to be gone on with; refuse where another one was."""
        is_cut = not overwrites and self._ledger.holds("begun", begun)
        if not overwrites and not is_cut:
            self._refuse_another(begun)
        return is_cut

    def _refuse_another(self, asked: dict[str, Any]) -> None:
        """Protect what another training left; say in what it is another."""
        is_trained = any(path.exists() for path in self._models)
        if not is_trained and not self._training_state.exists():
            return
        what = "weights of another training" if is_trained else "another training, cut short"
        kept = self._ledger.settings("begun") or self._ledger.settings("training")
        different = differences(kept, {name: mark for name, mark in fingerprint(asked).items() if name in kept})
        why = f": {different}" if different else f": {self._ledger.fault}" if self._ledger.fault else ""
        raise FileExistsError(f"{self.folder} holds {what}{why}. Name another --out, or add --overwrite.")

    def _begin(
        self, recipe: Recipe, data: Dataset, begun: dict[str, Any], device: torch.device, *, is_cut: bool
    ) -> None:
        """Say what comes, and remove what must not pass for a result of it."""
        others = (self.folder / name for name in ("tradeoff.png", "security.csv", "security.png"))
        stale = [*self._measured, *others, *own_card(self.folder)]
        if is_cut and self._training_state.exists():
            self.say(f"Going on with the training in {self.folder}, cut short, on {named_device(device)} ...")
        else:
            what = f"{_every(recipe.widths)} on {len(data.train.x)} images, {recipe.nb_epochs} epochs"
            self.say(f"Training one network for {what}, on {named_device(device)} ...")
            stale += [*self._models, self.folder / "training.csv", self._training_state]
        for path in stale:
            path.unlink(missing_ok=True)
        self._ledger.keep("recipe", recipe.as_values())  # so that a training that is cut short can be measured
        self._ledger.keep("begun", begun)  # and gone on with

    def measure(self, measurement: Measurement, data: Dataset, *, nb_workers: int | None = None) -> TradeoffCurve:
        """Attack the trained network at every lam and width, unless it is done already; draw and return the curve.

        A measurement that was cut is resumed: what it has found so far lies in a folder ``evaluation-...``.

        Args:
            measurement: What to measure.
            data: The test part is measured on.
            nb_workers: How many shards a process attacks at once; None for one per core, or one where there is a GPU.

        Raises:
            RuntimeError: If another process works in the folder.
        """
        with self.held() as held:
            return self._measure(measurement, data, nb_workers, held)

    def _measure(
        self, measurement: Measurement, data: Dataset, nb_workers: int | None, held: Held | None
    ) -> TradeoffCurve:
        group = Group.here()
        what = {**asdict(measurement), "model": digest(*self._models), "data": data.test.digest()}
        settings = what | {"machine": machine()}  # latency is another on another one
        so_far = self.folder / f"evaluation-{digest(repr(fingerprint(what)).encode())[:8]}"
        if group.first(lambda: self._ledger.holds("measurement", settings, self._measured)):
            self.say(f"Reusing the measurements in {self._curve}: taken of the same weights with the same settings.")
            curve, done = TradeoffCurve.from_csv(self._curve), [so_far]
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AutoAttackWarning)  # the points of the curve have them
                curve = self._attack(measurement, data, nb_workers, so_far, group)
            done = [*self.folder.glob("evaluation-*")]  # this one, and those that were given up
            if held is not None:
                self._keep(curve, settings, held)
        if held is not None:
            remove_folders(done)
            subject = f"{self.recipe.network} on {Path(self.recipe.data).name}"
            curve.plot(self.folder / "tradeoff.png", subject=subject)
            version = self._ledger.settings("training").get("version")
            describe(self.folder, curve, self.recipe, version, self.say)
        return curve

    def _keep(self, curve: TradeoffCurve, settings: dict[str, Any], held: Held) -> None:
        """Write down what was measured."""
        held.check()
        curve.to_csv(self._curve)
        write_reports(curve.reports, self._samples)
        self._ledger.keep("measurement", settings, self._measured)

    def _attack(
        self, measurement: Measurement, data: Dataset, nb_workers: int | None, so_far: Path, group: Group
    ) -> TradeoffCurve:
        recipe = self.recipe
        widths = recipe.widths if measurement.widths is None else measurement.widths
        nb_images, nb_attacked = len(data.test.x), measurement.nb_robust or len(data.test.x)
        begin = "Going on attacking" if so_far.exists() else "Attacking"
        nb_shards = -(-nb_attacked // measurement.shard_size)
        network = load_model(self.folder, trusts_network=self.trusts_network)
        classifier = recipe.classifier(network, data.input_shape, data.nb_classes, device_type=self.device_type)
        where = f"{_every(widths)}, on {named_device(classifier.device)}"
        self.say(f"{begin} {nb_attacked} of {nb_images} test images at {where} ...")
        options = EvaluationOptions(
            shard_size=measurement.shard_size,
            seed=measurement.seed,
            state=so_far,
            nb_workers=nb_workers or nb_workers_for(classifier.device, nb_shards, group),
            uses_group=True,
            nb_robust=measurement.nb_robust,
        )
        return TradeoffCurve.measure(
            classifier,
            *data.test,
            eps=measurement.threat(recipe),
            attack=measurement.attacks,
            lambdas=recipe.lambdas if measurement.lambdas is None else measurement.lambdas,
            widths=widths,
            options=options,
        )


def nb_workers_for(device: torch.device, nb_shards: int, group: Group) -> int:
    """Return how many processes it is worth having for each of a group: a GPU is not shared."""
    nb_cores = max(1, (os.cpu_count() or 1) // nb_here())
    return min(nb_cores, -(-nb_shards // group.size)) if device.type == "cpu" else 1


def _every(widths: tuple[float, ...]) -> str:
    if len(widths) > 1:
        return f"every lam and {len(widths)} widths"
    return "every lam" if widths == (1.0,) else f"every lam at width {widths[0]:g}"
