"""Owns what notices that training by a weak attack has stopped making the network robust."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from art_oat.attack import AimedAttack, is_correct
from art_oat.classifier import OATClassifier

NB_HELD_OUT = 128
"""Samples that are attacked after every epoch; an accuracy of one half on them has a standard error of 4 points."""

_LEAST_SHARE = 0.5
_NB_ERRORS = 3.0


class CatastrophicOverfittingWarning(UserWarning):
    """Robust accuracy collapsed while training by the attack that was asked for; it goes on by another."""


class Guard:
    """Attacks held-out samples after every epoch, by the attack of the training and by a stronger one.

    In catastrophic overfitting (Wong et al. 2020, arXiv:2001.03994) the network stands the one step that it is trained
    by, and falls to many, from one epoch to the next. Robust accuracy has collapsed where the stronger attack leaves
    less than half of what it left after the best epoch so far, or of what the attack of the training leaves, and that
    by more than 3 standard errors, at any width. Where that is what guessing reaches, within as many errors, nothing
    has been learned yet that could be lost. Each sample has one lam, the lams above 0 in turn.

    Args:
        classifier: Is trained.
        weak: What it is trained by.
        strong: What it shall stand.
        x: Held-out inputs, ``[N, ...]``; up to 128 of them are drawn.
        y: Class indices, ``[N]``.
        seed: Of the draw and the attacks, the same for every epoch.
    """

    def __init__(
        self, classifier: OATClassifier, weak: AimedAttack, strong: AimedAttack, x: Tensor, y: Tensor, seed: int
    ) -> None:
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:NB_HELD_OUT].to(x.device)
        self.classifier = classifier
        self.weak, self.strong = weak, strong
        self.x, self.y = x[chosen], y[chosen]
        attacked = itertools.cycle(lam for lam in classifier.model.lambdas if lam > 0)
        self.lam = torch.tensor(list(itertools.islice(attacked, len(chosen))), dtype=torch.float64).to(x)
        self.seed = seed
        self.has_tripped = False
        self.standing = math.nan
        self.reference = math.nan
        self._best: dict[float, float] = {}

    def has_collapsed(self) -> bool:
        """Attack the network as it is now; remember what stands, and whether that is a collapse."""
        found = {width: (self._stand(self.strong, width), self._stand(self.weak, width)) for width in self._widths}
        references = {width: max(weak, self._best.get(width, 0.0)) for width, (_, weak) in found.items()}
        worst = min(found, key=lambda width: found[width][0] - references[width])
        self.standing, self.reference = found[worst][0], references[worst]
        self.has_tripped = self._is_collapse(self.standing, self.reference)
        if not self.has_tripped:
            self._best = {width: max(strong, self._best.get(width, 0.0)) for width, (strong, _) in found.items()}
        return self.has_tripped

    @property
    def _widths(self) -> tuple[float, ...]:
        return self.classifier.model.widths

    def _is_collapse(self, standing: float, reference: float) -> bool:
        guessing = 1 / self.classifier.nb_classes
        has_learned = reference - guessing > self._noise(guessing)
        return has_learned and reference - standing > max((1 - _LEAST_SHARE) * reference, self._noise(reference))

    def _noise(self, share: float) -> float:
        return _NB_ERRORS * math.sqrt(share * (1 - share) / len(self.y))

    def _stand(self, attack: AimedAttack, width: float) -> float:
        """Share of the held-out samples that is answered right after an attack."""
        x_adv = attack(self.x, self.y, self.lam, torch.Generator().manual_seed(self.seed), width=width)
        right = 0
        for lam in self.lam.unique().tolist():
            group = self.lam == lam
            view = self.classifier.at(lam, width).as_module()
            right += int(is_correct(view, x_adv[group], self.y[group]).sum())
        return right / len(self.y)

    def state_dict(self) -> dict[str, Any]:
        """Return what was best so far, and whether there was a collapse."""
        return {"best": dict(self._best), "has_tripped": self.has_tripped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self._best, self.has_tripped = dict(state["best"]), state["has_tripped"]
