"""What is compared: the one network, dedicated networks, and ART's trainers, each trained by one function.

All of them start from the same network of the same seed and have the same optimizer, schedule, average of weights,
augmentation, batch size and attack budget. What comes out is always a conditional network: a plain one is that of a
single lam without FiLM, and gives exactly the plain network's answers. Two differences remain: the dedicated network
of lam 1 answers clean batches, too, for the statistics of its norms (ART's PGD-AT sees attacked ones alone); and ART's
trainers compute in float32 with channels first, whatever the recipe says of ours.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from art_oat import OATClassifier, OATModel, OATTrainer, fold, load_model, save_model
from art_oat.attacks import ByLam
from art_oat.data import Dataset
from art_oat.experiment.build import trainer_for
from art_oat.experiment.recipe import Recipe
from art_oat.storage import replaced, write_json
from art_oat.training import CSVLogger, EpochRecord, ResumeFile, Validation
from art_oat.training.guard import NB_HELD_OUT
from benchmarks.baselines import BASELINES, train_by_art
from benchmarks.configs import Config, Part
from benchmarks.tables import commit

Callback = Callable[[EpochRecord], None]
STATE = "training-state.pt"
"""What a training that was cut goes on from."""

LOG = "training.csv"
"""What is told of every epoch."""


@dataclass(frozen=True)
class Trained:
    """A network, and what its training took.

    Attributes:
        model: Trained, in evaluation mode.
        seconds: Wall time of the training alone, nothing measured in it.
        cpu_seconds: Processor time of the same, which depends less on what else the machine does; None for a training
            that was cut and continued.
        nb_bytes: Of weights and statistics; of a plain network for a single lam.
        commit: Of the code that trained it.
    """

    model: OATModel
    seconds: float
    cpu_seconds: float | None
    nb_bytes: int
    commit: str


def arms(lambdas: tuple[float, ...]) -> dict[str, str]:
    """Return every arm by name, with what it is."""
    return {
        "oat": "one network for all lams",
        **{f"lam-{lam:g}": f"plain network, loss mixed at lam {lam:g}" for lam in lambdas},
        **{name: baseline.what for name, baseline in BASELINES.items()},
    }


def recipe_of(name: str, config: Config, seed: int) -> Recipe:
    """Return what an arm trains by: the recipe of the one network or changes to it, or that of the dedicated one."""
    if name == "oat" or name in config.variants:
        return config.recipe.changed(seed=seed, **config.variants.get(name, {}))
    lam = float(name.removeprefix("lam-")) if name.startswith("lam-") else 1.0
    return config.dedicated(lam).changed(seed=seed)


def train(name: str, config: Config, part: Part, folder: Path, *, callback: Callback | None = None) -> Trained:
    """Train one of :func:`arms` or a variant; reuse what the folder holds of the same training.

    A variant that starts from "pretrained" weights starts from those of the dedicated network of lam 0, which is
    trained first, in a folder beside.

    Args:
        name: Of the arm.
        config: What is compared.
        part: What is trained on.
        folder: Gets ``model.safetensors``, ``config.json``, ``training.csv`` and ``trained.json``.
        callback: Is told of every epoch in place of a progress bar; ART's trainers tell of none.

    Raises:
        ValueError: If there is no such arm, or the folder holds another training.
    """
    known = [*arms(config.recipe.lambdas), *config.variants]
    if name not in known:
        raise ValueError(f"name must be one of {known}, got {name!r}.")
    recipe = recipe_of(name, config, part.seed)
    if recipe.pretrained is not None:
        recipe = recipe.changed(pretrained=str(natural_weights(config, part, folder.parent / "lam-0")))
    changed = {"data_folder": None, "pretrained": recipe.pretrained is not None}
    settings = json.loads(json.dumps({"method": name, "part": part.name, **recipe.as_values(), **changed}))
    kept = folder / "trained.json"
    if kept.exists():
        record = json.loads(kept.read_text(encoding="utf-8"))
        if record.pop("settings") != settings:
            raise ValueError(f"{folder} must hold a training of the same settings, but has another. Name other --runs.")
        return Trained(load_model(folder, trusts_network=True), **record)
    trained = _train_anew(name, recipe, part.data, folder, callback)
    write_json(kept, {"settings": settings} | {key: value for key, value in vars(trained).items() if key != "model"})
    (folder / STATE).unlink(missing_ok=True)
    return trained


def one_network(config: Config, runs: Path, part: Part | None = None) -> tuple[Part, OATClassifier]:
    """Return the one network of a part, by default the first, trained if the folder does not hold it."""
    part = part or next(config.parts())
    model = train("oat", config, part, runs / part.name / "oat").model
    return part, config.recipe.classifier(model, part.data.input_shape, part.data.nb_classes)


def fit(recipe: Recipe, data: Dataset, attack: ByLam | None = None, **options: Any) -> OATClassifier:
    """Train by a recipe, or its attack exchanged, and nothing measured meanwhile, for studies that keep no networks."""
    trainer = trainer_for(recipe, data)
    if attack is not None:
        own = {"attack": attack, "dials": "attack"}
        trainer = OATTrainer(trainer.get_classifier(), trainer.method, seed=recipe.seed, **own)
    schedule = recipe.scheduler()
    sizes = {"batch_size": recipe.batch_size, "nb_epochs": recipe.nb_epochs}
    trainer.fit(*data.train, scheduler=schedule, verbose=False, **sizes, **options)
    return trainer.get_classifier()


def natural_weights(config: Config, part: Part, folder: Path) -> Path:
    """Return the file with the weights of a plain network that was trained naturally."""
    path = folder / "plain.safetensors"
    trained = train("lam-0", config, part, folder)
    with replaced(path) as partial:
        weights = fold(trained.model, 0.0).state_dict()
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in weights.items()}, partial)
    return path


def _train_anew(name: str, recipe: Recipe, data: Dataset, folder: Path, callback: Callback | None) -> Trained:
    is_resumed, started = (folder / STATE).exists(), time.process_time()
    if name in BASELINES:
        model, seconds = train_by_art(name, recipe, data)
    else:
        model, seconds = _train_by_own(recipe, data, folder, callback)
    cpu_seconds = None if is_resumed else time.process_time() - started
    save_model(model, folder, recipe.architecture(data))
    return Trained(model.eval(), seconds, cpu_seconds, nb_bytes(model), commit(Path(__file__).parent))


def _train_by_own(recipe: Recipe, data: Dataset, folder: Path, callback: Callback | None) -> tuple[OATModel, float]:
    """Train, or continue a training that was cut; return the seconds of all its epochs, too."""
    trainer = trainer_for(recipe, data)
    held_out = (part[:NB_HELD_OUT] for part in data.validation)
    validation = None if recipe.method.fallback is None else Validation(*held_out, interval=recipe.nb_epochs)
    callbacks = [CSVLogger(folder / LOG), ResumeFile(folder / STATE), *([] if callback is None else [callback])]
    trainer.fit(
        *data.train,
        validation_data=validation,
        batch_size=recipe.batch_size,
        nb_epochs=recipe.nb_epochs,
        scheduler=recipe.scheduler(),
        callbacks=callbacks,
        verbose=callback is None,
    )
    return trainer.get_classifier().model, sum(record.seconds for record in trainer.history)


def nb_bytes(model: OATModel) -> int:
    """Return the bytes of weights and statistics that it takes to answer at every lam."""
    network = model if len(model.lambdas) > 1 else fold(model, model.lambdas[0])
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
