"""What a folder holds: the network, how it was trained, what was measured of it, and the files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from art_oat.attacks import format_eps
from art_oat.evaluation import TradeoffCurve
from art_oat.experiment.ledger import Ledger
from art_oat.experiment.pretrained import folder_named, names
from art_oat.experiment.recipe import Recipe
from art_oat.model_files import read_model


@dataclass(frozen=True)
class Info:
    """What is known of a saved model, read from its files; no code of the network is imported.

    Attributes:
        folder: Where the files are.
        network: What was converted, by the name and arguments that build it; the class alone where these were not
            saved.
        nb_numbers: How many numbers the weights and statistics of all lams and widths are.
        dtype: Of the weights.
        lambdas: Trained lams.
        widths: Trained widths.
        recipe: How it was trained; None for a model that was saved by itself, or by another version.
        version: Of art-oat that trained it; None where that is not known.
        is_complete: Whether the training came to its end; None where that is not known.
        curve: What was measured; None where nothing was.
        files: Sizes in bytes, by name.
    """

    folder: Path
    network: str
    nb_numbers: int
    dtype: str
    lambdas: tuple[float, ...]
    widths: tuple[float, ...]
    recipe: Recipe | None
    version: str | None
    is_complete: bool | None
    curve: TradeoffCurve | None
    files: dict[str, int]

    @classmethod
    def of(cls, name: str | Path) -> Info:
        """Read a folder of ``art-oat train`` or ``save_model``, or a network of ``art_oat.pretrained`` by its name.

        Raises:
            FileNotFoundError: If it holds no model.
            ValueError: If a file of the model, or its curve, is damaged.
        """
        folder = folder_named(name)
        if not folder.is_dir():
            raise FileNotFoundError(f"run must be a folder with a model, or one of {names()}, got {str(name)!r}.")
        description, weights = read_model(folder, check=True)
        conversion, ledger = description["conversion"], Ledger(folder / "run.json")
        table, recipe = folder / "tradeoff.csv", _recipe(ledger)
        return cls(
            folder,
            _network(description),
            sum(tensor.numel() for tensor in weights.values()),
            description["dtype"],
            tuple(conversion["lambdas"]),
            tuple(conversion.get("widths") or (1.0,)),
            recipe,
            ledger.settings("training").get("version"),
            (not ledger.settings("begun")) if recipe else None,
            TradeoffCurve.from_csv(table) if table.exists() else None,
            {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        )

    def as_values(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        values = {name: getattr(self, name) for name in ("network", "nb_numbers", "dtype", "version", "is_complete")}
        values |= {"folder": str(self.folder), "lambdas": self.lambdas, "widths": self.widths, "files": self.files}
        values["recipe"] = None if self.recipe is None else self.recipe.as_values()
        return values | {"points": None if self.curve is None else self.curve.rows()}

    def __str__(self) -> str:
        """Say it line by line, the measured accuracies as a table at the end."""
        lines = {
            "Folder": str(self.folder),
            "Network": self.network,
            "Weights": f"{self.nb_numbers:,} numbers, {self.dtype}, for all lams and widths",
            "Lams": " ".join(f"{lam:g}" for lam in self.lambdas),
            "Widths": " ".join(f"{width:g}" for width in self.widths),
            "Trained": self._training(),
            "Files": ", ".join(f"{name} ({size:,} bytes)" for name, size in self.files.items()),
        }
        lines |= {"Measured": f"not yet: art-oat evaluate {self.folder}"} if self.curve is None else {}
        text = "\n".join(f"{f'{name}:':<10}{line}" for name, line in lines.items())
        return text if self.curve is None else f"{text}\n\n{self.curve}"

    def _training(self) -> str:
        if self.recipe is None:
            return "not known: there is no run.json of this version"
        recipe, method = self.recipe, self.recipe.method
        changed = {name: it for name, it in asdict(method).items() if it != getattr(type(method)(), name)}
        shown = [f"{name} {it}" for name, it in changed.items() if name not in ("attack", "eps", "norm", "sampling")]
        how = [f"{recipe.nb_epochs} epochs on {recipe.data}, seed {recipe.seed}, loss {method.loss}"]
        how += [f"{method.attack} at eps {format_eps(method.eps)} ({method.norm})", *shown]
        how += [] if self.version is None else [f"art-oat {self.version}"]
        return ", ".join(how) + (", cut short so far" if self.is_complete is False else "")


def _recipe(ledger: Ledger) -> Recipe | None:
    try:
        return Recipe.from_values(ledger.settings("recipe"))
    except (KeyError, TypeError, ValueError):  # none, or of another version
        return None


def _network(description: dict[str, Any]) -> str:
    architecture = description["architecture"]
    if not isinstance(architecture, dict):
        return str(description["class"])
    values = dict(architecture["arguments"])
    name = values.pop("name", architecture["name"])
    return f"{name} ({', '.join(f'{key} {value}' for key, value in values.items())})"
