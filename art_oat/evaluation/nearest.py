"""Looks for the nearest wrong answer to each sample at every operating point, and checks it at stated radii."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from art_oat.attacks import Attack, BoundAttack, ClipValues, ScalableAttack, TensorAttack, format_eps
from art_oat.attacks.metrics import taken_back
from art_oat.attacks.registry import kind_of
from art_oat.checks import Array, class_indices, refuse
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.evaluation.options import EvaluationOptions, ThreatModel, options_faults
from art_oat.evaluation.runner import Evaluation
from art_oat.evaluation.suite import AttackSuite, suites_of
from art_oat.evaluation.tradeoff import carrying_order, checked, subset
from art_oat.numbers import number_faults, shown


@dataclass(frozen=True)
class Nearest:
    """How far the nearest wrong answers lie, ``[P, N]``, as :class:`~art_oat.evaluation.SecurityCurve` has it."""

    points: tuple[OperatingPoint, ...]
    nearest: NDArray[np.float64]
    searched: NDArray[np.float64]
    attack: str
    check: str
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Search:
    """A classifier, samples ``x [N, ...]`` with labels, and the ball to search; see ``SecurityCurve.measure``."""

    classifier: OATClassifier
    x: Array
    y: Array
    threat: ThreatModel
    options: EvaluationOptions

    def run(
        self,
        attack: str | Attack,
        check: str | Attack,
        check_eps: Sequence[float],
        dials: tuple[Iterable[float] | None, Iterable[float] | None],
    ) -> Nearest:
        """Attack for the nearest errors, then at each radius of the check; refuse what is wrong before."""
        classifier, options = self.classifier, self.options
        points, (suite, *others) = checked(classifier, (self.x, self.y), self.threat, attack, dials, options)
        checks, faults = self._checks(check_eps, check)
        faults += [f"attack must be one, got {1 + len(others)}."] if others else _one_radius_faults(suite)
        faults += options_faults(replace(options, nb_robust=None), unused=("latency_batch_size",))
        refuse(faults)
        index = subset(class_indices(self.y, classifier.nb_classes), options.nb_robust, options.seed)
        searched = self._found("search", self.threat, _Searching.of(suite, self.threat), points, index)
        lowered = [self._found(f"check-{n}", *pair, points, index) for n, pair in enumerate(checks)]
        name = checks[0][1].name if checks else ""
        return Nearest(tuple(points), np.minimum.reduce([searched, *lowered]), searched, suite.name, name, index)

    def _checks(self, check_eps: Any, check: Any) -> tuple[list[tuple[ThreatModel, AttackSuite]], list[str]]:
        """Return by which attacks to check in which balls, and what is wrong with them."""
        if isinstance(check_eps, str) or not isinstance(check_eps, Sequence):
            return [], [f"check_eps must be several radii, or none, got {shown(check_eps)}."]
        largest = self.threat.eps
        radii = {f"check_eps[{number}]": eps for number, eps in enumerate(check_eps)}
        faults = number_faults(radii, f"lie in (0, {format_eps(largest)}]", lambda eps: 0 < eps <= largest)
        pairs = []
        for eps in check_eps if not faults else ():
            ball = replace(self.threat, eps=eps)
            suites, own = suites_of(check, self.classifier, **asdict(ball))
            faults += own + ([f"check must be one attack, got {len(suites)}."] if len(suites) > 1 else [])
            pairs += [(ball, suite) for suite in suites]
        return pairs, list(dict.fromkeys(faults))

    def _found(
        self,
        name: str,
        ball: ThreatModel,
        suite: AttackSuite,
        points: Sequence[OperatingPoint],
        index: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Return how far the wrong answers lie that a suite finds within a ball, ``[P, N]``, cleared of rounding.

        A search carries no examples from point to point: one would break a sample, and end the search for a nearer one.
        """
        options, order = self.options, carrying_order(points)
        state = None if options.state is None else Path(options.state) / name
        own = replace(options, state=state, carries_examples=options.carries_examples and name != "search")
        evaluation = Evaluation(self.classifier, self.x[index], self.y[index], order, [suite], ball, own, index)
        found = {report.point: report.distances for report in evaluation.run()}
        distances = np.array([found[point] for point in points], dtype=np.float64)
        return np.where(np.isfinite(distances), np.minimum(distances, ball.eps), distances)


@dataclass(frozen=True)
class _Searching(AttackSuite):
    """A suite whose attacks may go beyond a ball: what they find there was not found."""

    threat: ThreatModel

    @classmethod
    def of(cls, suite: AttackSuite, threat: ThreatModel) -> _Searching:
        return cls(suite.name, suite.attacks, suite.description, threat)

    def at(self, point: OperatingPoint | None) -> dict[str, TensorAttack]:
        return {name: self._within(attack) for name, attack in super().at(point).items()}

    def _within(self, attack: TensorAttack) -> TensorAttack:
        def within(
            network: nn.Module,
            x: Tensor,
            y: Tensor,
            *,
            clip_values: ClipValues | None = None,
            generator: torch.Generator | None = None,
        ) -> Tensor:
            x_adv = attack(network, x, y, clip_values=clip_values, generator=generator)
            return taken_back(x, x_adv, self.threat.eps, self.threat.norm, clip_values)

        return within


def _one_radius_faults(suite: AttackSuite) -> list[str]:
    """Refuse what is known to look at one radius alone: the curve would say that all is well below it."""
    name = suite.description if isinstance(suite.description, str) else ""
    if kind := kind_of(name):
        has_one_radius = not kind.finds_nearest(name)
    else:
        free = [attack for attack in suite.attacks.values() if not isinstance(attack, BoundAttack)]
        has_one_radius = any(isinstance(attack, ScalableAttack) for attack in free)
    if not has_one_radius:
        return []
    advice = "Use fmn-100x10, or search:pgd-20 for PGD-20 at several radii."
    return [f"attack must look for the nearest error, which {suite.name} does not: it goes to one radius. {advice}"]
