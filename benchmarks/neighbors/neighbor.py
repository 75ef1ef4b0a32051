"""What a part of the neighborhood is: changes to one training, all else being equal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import getsource
from typing import Any
from unittest.mock import patch

from torch.utils.data import DataLoader

from art_oat import OATTrainer, to_conditional
from art_oat.data import Dataset
from art_oat.experiment import build
from art_oat.experiment.recipe import Recipe

Samples = Dataset | DataLoader[Any]
Prepare = Callable[[OATTrainer, Dataset, Recipe], Samples]


BASE = "oat"
"""The name of the part that changes nothing."""


@dataclass(frozen=True)
class Neighbor:
    """One part, or several together.

    Attributes:
        what: It changes, in a line.
        source: The paper.
        recipe: Changes to the recipe; ``pretrained="lam-0"`` starts from a naturally trained network.
        conditioning: Other arguments of ``to_conditional``.
        epochs: Times those of the base, rounded.
        prepare: Changes the trainer before it trains, and returns what is trained on.
        code: Whose lines count.
        rival: The part that costs the same without it, by which it is judged.
    """

    what: str
    source: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    conditioning: Mapping[str, Any] = field(default_factory=dict)
    epochs: float = 1.0
    prepare: Prepare | None = None
    code: tuple[Any, ...] = ()
    rival: str = BASE

    @property
    def nb_lines(self) -> int:
        """Lines of its code, without the empty ones; 0 for what the library has already."""
        return sum(bool(line.strip()) for it in self.code for line in getsource(it).splitlines())

    def changed(self, base: Recipe, **changes: Any) -> Recipe:
        """Return the recipe of this part."""
        return base.changed(**{"nb_epochs": max(round(self.epochs * base.nb_epochs), 1), **self.recipe, **changes})

    def trainer(self, recipe: Recipe, data: Dataset) -> OATTrainer:
        """Return what trains by a recipe that has the changes of this part."""

        def convert(*args: Any, **keywords: Any) -> Any:
            return to_conditional(*args, **(keywords | self.conditioning))

        with patch.object(build, "to_conditional", convert):
            return build.trainer_for(recipe, data)
