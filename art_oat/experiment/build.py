"""What a recipe makes of its data: the network, its trainer, and the training itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from art_oat.checks import one_line
from art_oat.classifier import OATClassifier
from art_oat.contexts import borrowed_generators
from art_oat.data import Dataset
from art_oat.experiment.recipe import Recipe
from art_oat.group import Group
from art_oat.model import OATModel
from art_oat.model_io import save_model
from art_oat.surgery import to_conditional
from art_oat.training import (
    Callback,
    Checkpoint,
    CSVLogger,
    OATTrainer,
    RestoreBest,
    ResumeFile,
    Validation,
)

NB_VALIDATIONS = 5
"""How often a training is measured, at most; each time costs about half an epoch."""


def trainer_for(recipe: Recipe, data: Dataset, *, device_type: str = "auto") -> OATTrainer:
    """Return what trains by a recipe; whatever cannot work together is refused here, before anything is written."""
    model = _model(recipe, data)
    method = replace(recipe.method, augmentation=recipe.augment(data))
    optimizer = recipe.optimizer_for(model)
    classifier = recipe.classifier(model, data.input_shape, data.nb_classes, optimizer, device_type=device_type)
    return OATTrainer(classifier, method, seed=recipe.seed)


def train(
    recipe: Recipe, data: Dataset, *, folder: Path | None = None, keeps_best: bool = True, verbose: bool = True
) -> OATClassifier:
    """Train one network for every lam and width, and return its classifier.

    Args:
        recipe: How to train.
        data: What the recipe's ``dataset()`` gives; the test part is not looked at.
        folder: Gets the weights and ``training.csv``; None to write nothing.
        keeps_best: Whether the weights, also those in the folder, are those of the epoch with the largest area under
            the trade-off on the validation part; or else those of the last epoch.
        verbose: Whether to show progress.
    """
    trainer = trainer_for(recipe, data)
    return fit(trainer, recipe, data, folder=folder, keeps_best=keeps_best, verbose=verbose)


def fit(
    trainer: OATTrainer,
    recipe: Recipe,
    data: Dataset,
    *,
    folder: Path | None,
    keeps_best: bool,
    resume_file: ResumeFile | None = None,
    verbose: bool = True,
) -> OATClassifier:
    """Let a trainer made for a recipe do its work, perhaps from a file on; see :func:`train`."""
    plain = recipe.architecture(data)
    callbacks: list[Callback] = [RestoreBest()] if keeps_best else []
    if folder is not None:
        callbacks.append(CSVLogger(folder / "training.csv"))
    if folder is not None and keeps_best:
        callbacks.append(Checkpoint(folder, plain))
    if resume_file is not None:
        callbacks.append(resume_file)
    trainer.fit(
        *data.train,
        validation_data=Validation(*data.validation, interval=-(-recipe.nb_epochs // NB_VALIDATIONS)),
        batch_size=recipe.batch_size,
        nb_epochs=recipe.nb_epochs,
        scheduler=recipe.scheduler(),
        callbacks=callbacks,
        verbose=verbose,
    )
    classifier: OATClassifier = trainer.get_classifier()
    if folder is not None and Group.here().is_first:
        # also over what another program may have written since the best epoch
        save_model(classifier.model, folder, plain)
    return classifier


def _model(recipe: Recipe, data: Dataset) -> OATModel:
    with borrowed_generators(seed=recipe.seed):
        network = recipe.architecture(data).build()
    if recipe.pretrained is not None:
        _load_weights(network, weights_file(recipe.pretrained))
    model = to_conditional(
        network,
        recipe.lambdas,
        **({"film_on": ()} if recipe.film is None else {"film": recipe.film}),
        statistics=recipe.statistics,
        widths=recipe.widths,
        heads=recipe.heads,
        input_shape=data.input_shape,
        seed=recipe.seed,
    )
    return model.to(memory_format=torch.channels_last) if recipe.channels_last else model  # type: ignore[call-overload]


def weights_file(path: str) -> Path:
    """Return the file that ``pretrained`` names.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"pretrained must name a file with weights, got {path}, where there is none.")
    return Path(path)


def _load_weights(network: nn.Module, path: Path) -> None:
    """Give a plain network the weights in a file; nothing in the file is executed."""
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
    except OSError:
        raise
    except Exception as error:  # whatever reading raises
        raise ValueError(
            f"pretrained must hold weights of a {type(network).__name__}, {path} does not: {one_line(error)}"
        ) from error
