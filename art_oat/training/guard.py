"""Owns what notices that training by a weak attack has stopped making the network robust."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from art_oat.attacks import BoundAttack, is_correct
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
    by more than 3 standard errors; at any width, among all samples or among those of the largest lam. Every other
    sample has that, the rest the other lams above 0 in turn. Where the reference is what guessing reaches, within as
    many errors, nothing has been learned yet that could be lost; and few samples are no proof: with 30, a fall from one
    half to a tenth is just seen.

    Args:
        classifier: Is trained.
        weak: What it is trained by.
        strong: What it shall stand.
        x: Held-out inputs, ``[N, ...]``; up to 128 of them are drawn.
        y: Class indices, ``[N]``.
        seed: Of the draw and the attacks, the same for every epoch.

    Attributes:
        has_tripped: Whether there was a collapse.
        standing: Share that stands after the stronger attack, where the network does worst; NaN before an epoch.
        reference: What that was compared with.
    """

    def __init__(
        self, classifier: OATClassifier, weak: BoundAttack, strong: BoundAttack, x: Tensor, y: Tensor, seed: int
    ) -> None:
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:NB_HELD_OUT].to(x.device)
        self.classifier = classifier
        self.weak, self.strong = weak, strong
        self.x, self.y = x[chosen], y[chosen]
        *others, largest = [lam for lam in classifier.model.lambdas if lam > 0]
        turns = itertools.chain.from_iterable((largest, other) for other in itertools.cycle(others or [largest]))
        self.lam = torch.tensor(list(itertools.islice(turns, len(chosen))), dtype=torch.float64).to(x)
        self._groups = (torch.ones_like(self.lam, dtype=torch.bool), self.lam == self.lam.max())
        self.seed = seed
        self.has_tripped = False
        self.standing = math.nan
        self.reference = math.nan
        self._best: dict[str, float] = {}

    def has_collapsed(self) -> bool:
        """Attack the network as it is now; remember what stands, and whether that is a collapse."""
        found: dict[str, tuple[float, float, int]] = {}
        for width in self.classifier.model.widths:
            strong, weak = self._stands(self.strong, width), self._stands(self.weak, width)
            for number, group in enumerate(self._groups):
                name = f"{width:g} {number}"
                reference = max(_share(weak[group]), self._best.get(name, 0.0))
                found[name] = _share(strong[group]), reference, int(group.sum())
        worst = max(found, key=lambda name: (self._is_collapse(*found[name]), found[name][1] - found[name][0]))
        self.standing, self.reference, _ = found[worst]
        self.has_tripped = self._is_collapse(*found[worst])
        if not self.has_tripped:
            self._best = {name: max(share, self._best.get(name, 0.0)) for name, (share, _, _) in found.items()}
        return self.has_tripped

    def _is_collapse(self, standing: float, reference: float, nb_samples: int) -> bool:
        """Whether a share of some samples lies so far below another that it is neither noise nor unlearned."""
        guessing = 1 / self.classifier.nb_classes
        has_learned = reference - guessing > _noise(reference, guessing, nb_samples)
        is_fall = reference - standing > max((1 - _LEAST_SHARE) * reference, _noise(reference, standing, nb_samples))
        return has_learned and is_fall

    def _stands(self, attack: BoundAttack, width: float) -> Tensor:
        """Return which held-out samples are answered right after an attack, bool ``[N]``."""
        x_adv = attack(self.x, self.y, self.lam, torch.Generator().manual_seed(self.seed), width=width)
        stands = torch.zeros_like(self.y, dtype=torch.bool)
        for lam in self.lam.unique().tolist():
            group = self.lam == lam
            stands[group] = is_correct(self.classifier.at(lam, width).as_module(), x_adv[group], self.y[group])
        return stands

    def take_standing(self) -> float:
        """Return what stands, once; NaN until the network is attacked again."""
        standing, self.standing = self.standing, math.nan
        return standing

    def state_dict(self) -> dict[str, Any]:
        """Return what was best so far, and whether there was a collapse."""
        return {"best": dict(self._best), "has_tripped": self.has_tripped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self._best, self.has_tripped = dict(state["best"]), state["has_tripped"]


def _share(stands: Tensor) -> float:
    return float(stands.double().mean())


def _noise(first: float, second: float, nb_samples: int) -> float:
    """Three standard errors of a difference of shares; one success and one failure more, for shares of 0 and 1."""
    smoothed = [(share * nb_samples + 1) / (nb_samples + 2) for share in (first, second)]
    return _NB_ERRORS * math.sqrt(sum(share * (1 - share) for share in smoothed) / nb_samples)
