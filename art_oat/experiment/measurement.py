"""What is measured of a trained network, as the command line and the folder of a run take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from art_oat.attacks import Norm
from art_oat.attacks.registry import name_faults, spelled
from art_oat.checks import refuse
from art_oat.evaluation import ThreatModel
from art_oat.experiment.recipe import Recipe
from art_oat.fields import described
from art_oat.numbers import count_faults, plain_fields, seed_faults


@dataclass(frozen=True)
class Measurement:
    """What is measured of a trained network; what a field means stands next to it.

    Test images are a subset in the classes' shares. As many shards as there are cores run side by side.
    """

    attacks: tuple[str, ...] = described(
        f"One of {spelled('evaluation')}; may be repeated.",
        default=("pgd-20", "autoattack"),
    )
    nb_robust: int | None = described("Test images to attack; all if not given.", min=10)
    eps: float | None = described("Radius of the attacks, such as 8/255; that of the training if not given.")
    norm: Norm | None = described("Linf, L2 or L1; that of the training if not given.")
    allow_large_eps: bool = described("Take an eps of half the range of the images, or more.", default=False)
    lambdas: tuple[float, ...] | None = described("Where to measure; at the trained lams if not given.")
    widths: tuple[float, ...] | None = described("Where to measure; at the trained widths if not given.")
    shard_size: int = described("Test images to attack at once.", default=250, min=1)
    seed: int = described("Seed of the subset and the attacks.", default=0, min=0)

    def __post_init__(self) -> None:
        plain_fields(self)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the measurement in values as JSON holds them; what else they hold is left aside.

        Raises:
            TypeError: If the values are those of another version.
            ValueError: Likewise.
        """
        own = {field.name for field in fields(cls)}
        kept: dict[str, Any] = {name: it for name, it in values.items() if name in own}
        return cls(**kept | {name: tuple(it) for name, it in kept.items() if isinstance(it, list)})

    def threat(self, recipe: Recipe) -> ThreatModel:
        """Return the ball, which is that of the training unless it is said."""
        eps = recipe.method.eps if self.eps is None else self.eps
        is_as_trained = self.eps is None and self.norm is None
        is_large_meant = self.allow_large_eps or (is_as_trained and recipe.method.allow_large_eps)
        return ThreatModel(eps, self.norm or recipe.method.norm, is_large_meant)

    def check(self, recipe: Recipe) -> None:
        """Refuse attacks that there are not, or not in this ball, and numbers that are none.

        Raises:
            ValueError: If there is one; names every fault.
        """
        threat = self.threat(recipe)
        ball: dict[str, Any] = {"eps": threat.eps, "norm": threat.norm, "use": "evaluation"}
        faults = [fault for name in self.attacks for fault in name_faults(name, **ball)]
        refuse(faults + count_faults({"shard_size": self.shard_size}) + seed_faults(self.seed))
