"""Owns the named recipes: combinations of attack, loss and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from art_oat.attacks import Norm, attack_named
from art_oat.attacks.registry import is_one_step, name_faults
from art_oat.checks import refusals, refuse
from art_oat.classifier import OATClassifier
from art_oat.training.awp import WeightPerturbation
from art_oat.training.loss import LossName, loss_by_name, objective_of
from art_oat.training.sampling import StratifiedSampling

RecipeName = Literal["dial", "published", "robust", "fast"]


@dataclass(frozen=True)
class Combination:
    """What a training is combined from, as plain values.

    Attributes:
        attack: What trains, as :func:`~art_oat.attacks.attack_named` takes it.
        fallback: Likewise: what goes on where robustness collapses; None to trust ``attack``.
        loss: As :func:`~art_oat.training.loss_by_name` takes it; with ``"trades"``, PGD attacks the divergence.
        awp: ``gamma`` of :class:`~art_oat.WeightPerturbation`; None for none.
        ema: Decay of the average of weights; None for none.
        weight_of_one: How often lam = 1 is drawn for once of each other lam above 0.
        clean_share: Share of the epochs, the first, that train on clean inputs alone.
    """

    attack: str = "pgd-7"
    fallback: str | None = None
    loss: LossName = "oat"
    awp: float | None = None
    ema: float | None = None
    weight_of_one: float = 1.0
    clean_share: float = 0.0

    def faults(self, *, eps: float, eps_step: float | None, norm: Norm) -> list[str]:
        """Say what is wrong, also with the size of the attacks; of ``ema`` the trainer says it."""
        faults = name_faults(self.attack, eps=eps, norm=norm, eps_step=self._step_of_attack(eps_step))
        if self.fallback is not None and is_one_step(self.fallback):
            faults.append(f"fallback must take many steps, such as pgd-7, got {self.fallback}.")
        elif self.fallback is not None:
            found = name_faults(self.fallback, eps=eps, norm=norm, eps_step=eps_step)
            faults += [f"fallback: {fault}" for fault in found if fault not in faults]
        return faults + refusals(
            lambda: loss_by_name(self.loss),
            lambda: None if self.awp is None else WeightPerturbation(self.awp),
        )

    def changed(self, **given: Any) -> Combination:
        """Return the combination with some parts exchanged, and what goes with these where it is not given itself.

        Without its attack, there is nothing for the fallback to guard; with ``"trades"``, weights are perturbed by
        0.005 where they are perturbed, as published.
        """
        if given.get("attack", self.attack) != self.attack:
            given = {"fallback": None, **given}
        if given.get("loss", self.loss) == "trades" and self.awp is not None:
            given = {"awp": 0.005, **given}
        return replace(self, **given)

    def arguments(
        self,
        classifier: OATClassifier,
        *,
        eps: float,
        eps_step: float | None,
        norm: Norm,
        allow_large_eps: bool = False,
    ) -> dict[str, Any]:
        """Return what :class:`~art_oat.OATTrainer` takes.

        Args:
            classifier: Is trained.
            eps: Radius of the attacks.
            eps_step: Their step; None for their defaults. One step is always ``eps`` long.
            norm: Of the attacks.
            allow_large_eps: Whether ``eps`` may be half the range of the inputs, or more; the trainer has to be told,
                too.

        Raises:
            ValueError: If something is not as above; names every fault.
        """
        refuse(self.faults(eps=eps, eps_step=eps_step, norm=norm))
        loss = loss_by_name(self.loss)
        weighs_one = self.weight_of_one != 1 and 1.0 in classifier.model.lambdas
        named = partial(
            attack_named,
            classifier=classifier,
            eps=eps,
            norm=norm,
            objective=objective_of(loss),
            allow_large_eps=allow_large_eps,
        )
        return {
            "attack": named(self.attack, eps_step=self._step_of_attack(eps_step)),
            "fallback": None if self.fallback is None else named(self.fallback, eps_step=eps_step),
            "loss": loss,
            "weight_perturbation": None if self.awp is None else WeightPerturbation(self.awp),
            "ema": self.ema,
            "sampling": StratifiedSampling({1.0: self.weight_of_one} if weighs_one else {}),
            "clean_share": self.clean_share,
        }

    def _step_of_attack(self, eps_step: float | None) -> float | None:
        """Keep a step that is meant for the fallback from an attack that takes none."""
        return None if is_one_step(self.attack) and self.fallback is not None else eps_step


COMBINATIONS: Mapping[RecipeName, Combination] = {
    "dial": Combination(weight_of_one=5.0, clean_share=0.5),
    "published": Combination(),
    "robust": Combination(awp=0.01, ema=0.999),
    "fast": Combination(attack="n-fgsm", fallback="pgd-7", ema=0.999),
}
"""By name; why they are what they are is measured in ``benchmarks/screens.py`` and ``benchmarks/ablation.py``."""


def combination(name: RecipeName) -> Combination:
    """Return what a recipe combines.

    Args:
        name: ``"dial"``: PGD-7 and the hybrid loss; half of the epochs are clean, and lam = 1 is drawn five times as
            often as each other lam above 0. ``"published"``: neither, as OAT was published. ``"robust"``: as published,
            but perturbs weights and averages them. ``"fast"``: one step in place of seven, guarded by PGD-7, and
            averaged weights.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in COMBINATIONS:
        raise ValueError(f"recipe must be one of {get_args(RecipeName)}, got {name!r}.")
    return COMBINATIONS[name]
