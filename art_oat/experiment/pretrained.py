"""Trained networks in a line: those that come with the library, and those in the folders of ``art-oat train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from art_oat.attacks import format_eps
from art_oat.checks import path_faults, refuse
from art_oat.classifier import OATClassifier
from art_oat.evaluation import TradeoffCurve
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.run import Run
from art_oat.model import OATModel
from art_oat.model_files import WEIGHTS
from art_oat.model_io import load_model

WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Pretrained:
    """A trained network, with what is known of it.

    Attributes:
        classifier: Answers at every ``lam`` and width.
        curve: What was measured of it; None where ``art-oat evaluate`` has not been run.
        recipe: How it was trained; ``recipe.dataset()`` gives the images, where they are there.
        folder: Where its files are.
    """

    classifier: OATClassifier
    curve: TradeoffCurve | None
    recipe: Recipe
    folder: Path

    def __str__(self) -> str:
        """Say what it is and, where that was measured, how accurate and robust."""
        what = f"{self.recipe.network} on {self.recipe.data}, at every lam from {self.recipe.lambdas[0]:g} to "
        what += f"{self.recipe.lambdas[-1]:g} ({self.folder})"
        if self.curve is None:
            return f"{what}; not measured: art-oat evaluate {self.folder}"
        radius = f"{self.curve.norm}, eps {format_eps(self.curve.eps)}"
        return f"{what}; accuracy in percent, attacks: {radius}\n\n{self.curve.table()}"


def names() -> tuple[str, ...]:
    """Return the names of the trained networks that come with the library."""
    return tuple(sorted(each.name for each in WEIGHTS_FOLDER.iterdir() if each.is_dir()))


def folder_named(name: str | Path) -> Path:
    """Return the folder that a name means: one that holds a model before a network that comes along."""
    is_own = (Path(name) / WEIGHTS).is_file()
    return WEIGHTS_FOLDER / name if str(name) in names() and not is_own else Path(name)


def pretrained(name: str | Path, *, device_type: str = "auto", trusts_network: bool = False) -> Pretrained:
    """Return a trained network, ready to be dialed; nothing is downloaded.

    With the library come two small ones: ``"digits"`` was trained on :func:`art_oat.data.textured_digits`, at Linf, eps
    0.125; ``"cifar10"`` on CIFAR-10 as JPEG of quality 75, at Linf, eps 8/255. They show what a dial does, and are no
    record.

    Args:
        name: One of these, or a folder that ``art-oat train`` wrote, which comes first where it has such a name.
        device_type: ``"cpu"``, ``"gpu"``, or ``"auto"`` for a GPU where torch sees one.
        trusts_network: Whether code is imported that a folder names as its network.

    Raises:
        FileNotFoundError: If there is none.
        TypeError: If ``name`` is no path.
        ValueError: If files in a folder are damaged, or its network would have to be trusted.

    Example:
        >>> dial = pretrained("digits")
        >>> x, y = dial.recipe.dataset().test
        >>> accurate, robust = (dial.classifier.predict(x[:5], lam=lam) for lam in (0, 1))
    """
    refuse(path_faults({"name": name}))
    folder = folder_named(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"name must be one of {names()}, or a folder of art-oat train, got {str(name)!r}.")
    run = Run(folder, lambda _: None, device_type=device_type)
    recipe, model = run.recipe, load_model(folder, trusts_network=trusts_network)
    return Pretrained(_classifier(recipe, model, device_type), run.curve, recipe, folder)


def _classifier(recipe: Recipe, model: OATModel, device_type: str) -> OATClassifier:
    assert model.tried_shape is not None  # a recipe converts for images of one shape
    with torch.no_grad():
        nb_classes = model.pinned()(torch.zeros(1, *model.tried_shape)).shape[1]
    return recipe.classifier(model, model.tried_shape, nb_classes, device_type=device_type)
