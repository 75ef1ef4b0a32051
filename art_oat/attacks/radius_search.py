"""Attacks of one radius, made to look for the nearest wrong answer: ``search:pgd-20``, ``search:screen``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_oat.attacks.autoattack import AutoAttack
from art_oat.attacks.bind import is_tensor_attack
from art_oat.attacks.metrics import distance, is_correct
from art_oat.attacks.protocol import ClipValues, Norm, ScalableAttack
from art_oat.attacks.registry import AttackKind, AttackSpec, Use, attacks_named, display_name, name_faults, register
from art_oat.checks import refuse

_PREFIX = "search:"


@dataclass(frozen=True)
class RadiusSearch:
    """Bisection, sample by sample, over the radius of some attacks, each on what those before it left.

    The first round attacks at their radius, those after it at the middle between the least radius at which a sample
    was broken and the largest at which it was not. What is returned is the nearest example of all rounds: it lies at
    most ``radius / 2^(nb_rounds - 1)`` beyond where the attacks succeed, if they do so from some radius on.

    Args:
        attacks: On tensors, each with ``scaled(factor)``.
        norm: Norm of their ball.
        nb_rounds: How many radii are tried, and so how many times as long it takes, at least 1.
    """

    attacks: tuple[Any, ...]
    norm: Norm = "Linf"
    nb_rounds: int = 8
    keeps_batch: ClassVar[bool] = False
    """It attacks samples of one radius together."""

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        clip_values: ClipValues | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the nearest input found that is answered wrongly, or ``x``; see :class:`TensorAttack`."""
        best, nearest = torch.full_like(x.flatten(1)[:, 0], torch.inf), x.clone()
        low, share = torch.zeros_like(best), torch.ones_like(best)
        high = share.clone()
        for _ in range(self.nb_rounds):
            for factor in share[share > 0].unique().tolist():
                index = torch.nonzero(share == factor)[:, 0]
                x_adv = x[index].clone()
                for attack in self.attacks:
                    left = torch.nonzero(is_correct(network, x_adv, y[index]))[:, 0]
                    if len(left):
                        own, options = index[left], {"clip_values": clip_values, "generator": generator}
                        x_adv[left] = attack.scaled(factor)(network, x[own], y[own], **options)
                is_broken = ~is_correct(network, x_adv, y[index])
                far = torch.where(is_broken, distance(x[index], x_adv, self.norm), torch.inf)
                is_nearer = far < best[index]
                nearest[index[is_nearer]], best[index[is_nearer]] = x_adv[is_nearer], far[is_nearer]
                high[index[is_broken]], low[index[~is_broken]] = factor, factor
            share = torch.where(best.isfinite(), (low + high) / 2, 0)
        return nearest


def _search(spec: AttackSpec, classifier: PyTorchClassifier) -> Mapping[str, RadiusSearch]:
    attacks = tuple(attacks_named(_inner(spec.name), classifier, eps=spec.eps, norm=spec.norm).values())
    if not all(is_tensor_attack(it) and isinstance(it, ScalableAttack) for it in attacks):
        raise ValueError(
            f"attack must be one whose radius can be scaled, such as search:pgd-20 or search:screen, got {spec.name!r}."
        )
    refuse(
        [it for attack in attacks if isinstance(attack, AutoAttack) for it in _autoattack_faults(attack, classifier)]
    )
    return {spec.name: RadiusSearch(attacks, spec.norm)}


def _autoattack_faults(attack: AutoAttack, classifier: PyTorchClassifier) -> list[str]:
    return attack.faults(classifier.nb_classes, classifier.clip_values)


def _inner(name: str) -> str:
    return name.removeprefix(_PREFIX)


def _faults(spec: AttackSpec, use: Use) -> list[str]:
    return name_faults(_inner(spec.name), eps=spec.eps, norm=spec.norm, use=use)


register(
    AttackKind(
        pattern=f"{_PREFIX}(?!{_PREFIX}).+",
        spelled=f"{_PREFIX}NAME (NAME at 8 radii)",
        evaluate=_search,
        faults=_faults,
        norms=("Linf", "L2", "L1"),
        display=lambda name: f"{display_name(_inner(name))} by bisection",
        reserved=f"{_PREFIX}.*",
        finds_nearest=lambda _: True,
    )
)
