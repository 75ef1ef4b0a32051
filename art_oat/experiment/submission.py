"""What a submission to RobustBench says of one operating point, and what its leaderboard would not take of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from art_oat.attacks import Norm, format_eps
from art_oat.checks import refuse
from art_oat.data import Dataset
from art_oat.evaluation import ThreatModel
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.recipe import Recipe
from art_oat.fields import described
from art_oat.numbers import plain_fields

_BOARDS = {("cifar10", "Linf"): 8 / 255, ("cifar10", "L2"): 0.5}
"""The leaderboards of data sets of ours, and their radii."""
_ATTACK = "autoattack"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One operating point of a run as an entry of RobustBench; what a field means stands next to it.

    Raises:
        ValueError: If ``name`` is no name of a file.
    """

    lam: float = described("Robustness of the point, in [0, 1].", default=1.0)
    width: float = described("Fraction of channels of the point, a trained one.", default=1.0)
    nb_images: int | None = described(
        "Test images to attack, the first ones; all if not given, as RobustBench wants.", min=1
    )
    eps: float | None = described("Radius of the attacks, such as 8/255; that of the training if not given.")
    norm: Norm | None = described("Linf or L2; that of the training if not given.")
    shard_size: int = described("Test images to attack at once.", default=250, min=1)
    seed: int = described("Seed of the attacks.", default=0, min=0)
    name: str | None = described(
        "What the entry is called, such as Wang2020Once_RN18; folder, lam and width if not given."
    )
    title: str = described("Of the paper.", default="Once-for-all adversarial training with art_oat")
    authors: str = described("Of the paper.", default="")
    link: str = described("To the paper.", default="")
    venue: str = described("Of the paper.", default="Unpublished")
    architecture: str | None = described("As people call it; the name of the network if not given.")
    additional_data: bool | None = described(
        "Whether more than the training images was used; must be said for pretrained weights, else no."
    )

    def __post_init__(self) -> None:
        plain_fields(self)
        is_name = self.name is None or (self.name != "" and PurePath(self.name).name == self.name)
        refuse([] if is_name else [f"name must be one of a file, without folders, got {self.name!r}."])

    def checked_threat(self, recipe: Recipe, nb_test: int) -> ThreatModel:
        """Return the ball.

        Raises:
            ValueError: If it is none, or another value does not fit the run; names every fault.
        """
        ball: dict[str, Any] = {"eps": self.eps, "norm": self.norm}
        measurement = Measurement(attacks=(_ATTACK,), shard_size=self.shard_size, seed=self.seed, **ball)
        measurement.check(recipe)
        faults = []
        if self.nb_images is not None and self.nb_images > nb_test:
            faults.append(f"nb_images must be at most {nb_test}, the number of test images, got {self.nb_images}.")
        if recipe.pretrained is not None and self.additional_data is None:
            faults.append("additional_data must be said, True or False, of a network that was pretrained.")
        refuse(faults)
        return measurement.threat(recipe)

    def entry(
        self, recipe: Recipe, threat: ThreatModel, accuracies: tuple[float, float], *, is_doubtful: bool
    ) -> dict[str, Any]:
        """Return the JSON of the leaderboard.

        Args:
            recipe: How the network was trained.
            threat: What the attacker may do.
            accuracies: Clean, and under AutoAttack, as fractions.
            is_doubtful: Whether AutoAttack warned that its figure may be too high.
        """
        clean, robust = (f"{100 * share:.2f}" for share in accuracies)
        return {
            "link": self.link,
            "name": self.title,
            "authors": self.authors,
            "additional_data": bool(self.additional_data),
            "number_forward_passes": 1,
            "dataset": PurePath(recipe.data).stem,
            "venue": self.venue,
            "architecture": self.architecture or self._architecture(recipe),
            "eps": format_eps(threat.eps),
            "clean_acc": clean,
            "reported": robust,
            "autoattack_acc": robust,
            "footnote": self._footnote(recipe),
            "unreliable": is_doubtful,
        }

    def _architecture(self, recipe: Recipe) -> str:
        return recipe.network + (f", {100 * self.width:g}% of the channels" if self.width != 1 else "")

    def _footnote(self, recipe: Recipe) -> str:
        kind = "trained" if self.lam in recipe.lambdas else "between trained ones"
        widths = f", width {self.width:g}" if len(recipe.widths) > 1 else ""
        return (
            f"A point of one network with a dial: lam {self.lam:g} ({kind}){widths}, folded into an ordinary network. "
            "Other points of it are entries of their own."
        )

    def reservations(self, recipe: Recipe, threat: ThreatModel, data: Dataset) -> list[str]:
        """Say what RobustBench would not take."""
        found = []
        board = (recipe.data, threat.norm)
        if board not in _BOARDS:
            boards = " and ".join(f"{name} in {norm}" for name, norm in _BOARDS)
            found.append(f"it has leaderboards for {boards}, not for {PurePath(recipe.data).stem} in {threat.norm}")
        elif format_eps(threat.eps) != format_eps(_BOARDS[board]):
            found.append(f"its radius there is {format_eps(_BOARDS[board])}, not {format_eps(threat.eps)}")
        nb_images, nb_test = self.nb_images or len(data.test.x), len(data.test.x)
        if nb_images < nb_test:
            found.append(f"it wants all {nb_test} test images attacked, not {nb_images}")
        return found
