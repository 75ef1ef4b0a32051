"""Detects that training by a weak attack has stopped making the network robust."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from art_oat.attacks import BoundAttack, is_correct
from art_oat.classifier import OATClassifier
from art_oat.levels import Inputs

NB_HELD_OUT = 128
"""Samples that are attacked after every epoch; an accuracy of one half on them has a standard error of 4 points."""

_NB_ERRORS = 3.0


class CatastrophicOverfittingWarning(UserWarning):
    """Robust accuracy collapsed while training by the attack that was asked for; it goes on by another."""


class Guard:
    """Attacks held-out samples after every epoch, by the attack of the training and by a stronger one.

    Collapse = robust accuracy under ``strong`` fell below half of max(best so far, accuracy under ``weak``), by more
    than 3 standard errors. One width is enough, and so are the samples of the largest lam, which are every other one;
    the rest have the other lams above 0 in turn. A reference within 3 standard errors of guessing does not count. Few
    samples prove little: with 30, a fall from one half to a tenth is just seen. The phenomenon is catastrophic
    overfitting (Wong et al. 2020, arXiv:2001.03994).

    Args:
        classifier: Is trained.
        weak: The attack of the training.
        strong: The attack that the network should resist.
        x: Held-out inputs, ``[N, ...]``; up to 128 of them are drawn.
        y: Class indices, ``[N]``.
        seed: Of the draw and the attacks, the same for every epoch.

    Attributes:
        has_tripped: Whether there was a collapse.
        holdout_robust: Accuracy under ``strong`` where the network does worst; NaN before an epoch.
        reference: What that was compared with.
    """

    def __init__(
        self, classifier: OATClassifier, weak: BoundAttack, strong: BoundAttack, x: Inputs, y: Tensor, seed: int
    ) -> None:
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:NB_HELD_OUT].to(x.device)
        self.classifier = classifier
        self.weak, self.strong = weak, strong
        self.x, self.y = x[chosen], y[chosen]
        *others, largest = [lam for lam in classifier.model.lambdas if lam > 0]
        in_turn = itertools.chain.from_iterable((largest, other) for other in itertools.cycle(others or [largest]))
        self.lam = torch.tensor(list(itertools.islice(in_turn, len(chosen))), dtype=torch.float64).to(self.x)
        self.seed = seed
        self.has_tripped = False
        self.holdout_robust = self.reference = math.nan
        self._best: dict[str, float] = {}

    def has_collapsed(self) -> bool:
        """Attack the network as it is now, and compare with the best so far."""
        groups = (torch.ones_like(self.lam, dtype=torch.bool), self.lam == self.lam.max())
        found: dict[str, tuple[float, float, int]] = {}
        for width in self.classifier.model.widths:
            strong, weak = (self.robust_correct(attack, width) for attack in (self.strong, self.weak))
            for number, group in enumerate(groups):
                name = f"{width:g} {number}"
                reference = max(_share(weak[group]), self._best.get(name, 0.0))
                found[name] = _share(strong[group]), reference, int(group.sum())
        nb_classes = self.classifier.nb_classes
        collapses = {name: is_collapse(*figures, nb_classes) for name, figures in found.items()}
        worst = max(found, key=lambda name: (collapses[name], found[name][1] - found[name][0]))
        self.holdout_robust, self.reference, _ = found[worst]
        self.has_tripped = collapses[worst]
        if not self.has_tripped:
            self._best = {name: max(robust, self._best.get(name, 0.0)) for name, (robust, _, _) in found.items()}
        return self.has_tripped

    def robust_correct(self, attack: BoundAttack, width: float) -> Tensor:
        """Return which held-out samples are classified correctly after an attack, bool ``[N]``."""
        x_adv = attack(self.x, self.y, self.lam, torch.Generator().manual_seed(self.seed), width=width)
        correct = torch.zeros_like(self.y, dtype=torch.bool)
        for lam in self.lam.unique().tolist():
            group = self.lam == lam
            correct[group] = is_correct(self.classifier.at(lam, width).as_module(), x_adv[group], self.y[group])
        return correct

    def take_holdout_robust(self) -> float:
        """Return ``holdout_robust``, once; NaN until the network is attacked again."""
        found, self.holdout_robust = self.holdout_robust, math.nan
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what was best so far, and whether there was a collapse."""
        return {"best": dict(self._best), "has_tripped": self.has_tripped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self._best, self.has_tripped = dict(state["best"]), state["has_tripped"]


def is_collapse(robust: float, reference: float, nb_samples: int, nb_classes: int) -> bool:
    """Whether an accuracy lies so far below a reference that it is neither noise nor not yet learned."""
    guessing = 1 / nb_classes
    has_learned = reference - guessing > _noise(reference, guessing, nb_samples)
    return has_learned and reference - robust > max(reference / 2, _noise(reference, robust, nb_samples))


def _share(correct: Tensor) -> float:
    return float(correct.double().mean())


def _noise(first: float, second: float, nb_samples: int) -> float:
    """Three standard errors of a difference of shares; one success and one failure more, for shares of 0 and 1."""
    smoothed = [(share * nb_samples + 1) / (nb_samples + 2) for share in (first, second)]
    return _NB_ERRORS * math.sqrt(sum(share * (1 - share) for share in smoothed) / nb_samples)
