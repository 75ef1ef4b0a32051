"""Owns the named recipes: combinations of attack, loss and the rest that were measured together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from art_oat.attack import Norm, attack_named
from art_oat.attack.named import ONE_STEP, name_faults
from art_oat.classifier import OATClassifier
from art_oat.inputs import refuse
from art_oat.training.awp import WeightPerturbation
from art_oat.training.loss import LossName, loss_by_name, objective_of

RecipeName = Literal["published", "robust", "fast"]


@dataclass(frozen=True)
class Combination:
    """What a training is combined from, as plain values.

    Attributes:
        attack: What trains, as :func:`~art_oat.attack.attack_named` takes it.
        fallback: Likewise: what goes on where robustness collapses; None to trust ``attack``.
        loss: As :func:`~art_oat.training.loss_by_name` takes it; with ``"trades"``, PGD attacks the divergence.
        awp: ``gamma`` of :class:`~art_oat.WeightPerturbation`; None for none.
        ema: Decay of the average of weights; None for none.
    """

    attack: str = "pgd-7"
    fallback: str | None = None
    loss: LossName = "oat"
    awp: float | None = None
    ema: float | None = None

    def faults(self, *, eps: float, eps_step: float | None, norm: Norm) -> list[str]:
        """Say what is wrong, also with the size of the attacks; of ``ema`` the trainer says it."""
        faults = name_faults(self.attack, eps=eps, norm=norm, eps_step=self._step_of_attack(eps_step))
        if self.fallback is not None:
            faults += name_faults(self.fallback, eps=eps, norm=norm, eps_step=eps_step)
        for check in (
            lambda: loss_by_name(self.loss),
            lambda: None if self.awp is None else WeightPerturbation(self.awp),
        ):
            try:
                check()
            except ValueError as error:
                faults.append(str(error))
        return list(dict.fromkeys(faults))

    def arguments(self, classifier: OATClassifier, *, eps: float, eps_step: float | None, norm: Norm) -> dict[str, Any]:
        """Return what :class:`~art_oat.OATTrainer` takes.

        Args:
            classifier: Is trained.
            eps: Radius of the attacks.
            eps_step: Their step; None for their defaults. One step is always ``eps`` long.
            norm: Of the attacks.

        Raises:
            ValueError: If something is not as above; names every fault.
        """
        refuse(self.faults(eps=eps, eps_step=eps_step, norm=norm))
        loss = loss_by_name(self.loss)
        named = partial(attack_named, classifier=classifier, eps=eps, norm=norm)
        return {
            "attack": named(self.attack, eps_step=self._step_of_attack(eps_step), objective=objective_of(loss)),
            "fallback": None if self.fallback is None else named(self.fallback, eps_step=eps_step),
            "loss": loss,
            "weight_perturbation": None if self.awp is None else WeightPerturbation(self.awp),
            "ema": self.ema,
        }

    def _step_of_attack(self, eps_step: float | None) -> float | None:
        """Keep a step that is meant for the fallback from an attack that takes none."""
        return None if self.attack == ONE_STEP and self.fallback is not None else eps_step


COMBINATIONS: Mapping[RecipeName, Combination] = {
    "published": Combination(),
    "robust": Combination(awp=0.01, ema=0.999),
    "fast": Combination(attack="n-fgsm", fallback="pgd-7", ema=0.999),
}
"""By name; why they are what they are is measured in ``benchmarks/ablation.py``."""


def combination(name: RecipeName) -> Combination:
    """Return what a recipe combines.

    Args:
        name: ``"published"``: PGD-7 and the hybrid loss, as OAT was published. ``"robust"``: also perturbs weights and
            averages them. ``"fast"``: one step in place of seven, guarded by PGD-7, and averaged weights.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in COMBINATIONS:
        raise ValueError(f"recipe must be one of {get_args(RecipeName)}, got {name!r}.")
    return COMBINATIONS[name]
