"""Attacks a network at every lam, and at all lams at once, and answers each result at every lam."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from art_oat.attacks import (
    PGD,
    ClipValues,
    TensorAttack,
    ball_faults,
    bind,
    check_radii,
    format_apart,
    is_correct,
    is_tensor_attack,
    radii_of,
    trial_faults,
    within_ball,
)
from art_oat.checks import Array, refusals, refuse
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.evaluation.evaluate import checked_points
from art_oat.evaluation.options import EvaluationOptions, ThreatModel, options_faults

NB_STEPS = 50
MIN_LAMS = 2
_UNUSED = ("state", "nb_workers", "uses_group", "carries_examples", "nb_robust", "latency_batch_size")


class Mixture(nn.Module):
    """What a network answers on average whose lam is drawn for every query: ``log(mean_b softmax(f_b(x)))``.

    Its cross-entropy is ``-log`` of the mean probability of the label, so an attack on it follows the gradients of all
    networks at once.

    Args:
        networks: ``f_b``, each giving scores ``[N, K]``; at least one.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.channels_first = getattr(networks[0], "channels_first", True)
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Return logarithms of the mean probabilities, ``[N, K]``, for inputs ``[N, ...]``."""
        logs = torch.stack([network(x).log_softmax(dim=1) for network in self.networks])
        return logs.logsumexp(dim=0) - math.log(len(self.networks))


@dataclass(frozen=True, eq=False)
class CrossAnswers:
    """Which images are answered right at each lam after attacks at each lam, and the shares of them.

    Args:
        lambdas: ``A`` lams, at least two, ascending; each is attacked, and answers.
        right: Bool ``[A + 2, A, N]``, at each lam: images as they are, then attacked at each lam, then attacked at all
            lams at once.

    Raises:
        ValueError: If ``right`` has another shape, or there are fewer than two lams or no images.
    """

    lambdas: tuple[float, ...]
    right: NDArray[np.bool_]

    def __post_init__(self) -> None:
        shape, nb_lams = np.shape(self.right), len(self.lambdas)
        is_fitting = shape[:-1] == (nb_lams + 2, nb_lams) and shape[-1] > 0
        if nb_lams < MIN_LAMS or not is_fitting:
            raise ValueError(
                f"right must have shape [A + 2, A, N] for A lams, at least {MIN_LAMS}, and N images, at least 1, "
                f"got {list(shape)} for {nb_lams} lams."
            )

    @cached_property
    def _robust(self) -> NDArray[np.float64]:
        """Chance that an image is right as it is and attacked, ``[A + 1, A + 1, N]``; the last column draws lam."""
        chances = np.concatenate([self.right, self.right.mean(axis=1, keepdims=True)], axis=1)
        robust: NDArray[np.float64] = np.minimum(chances[:1], chances[1:])
        return robust

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """The whole matrix, ``[A + 3, A + 1]``.

        Rows: not attacked; attacked at each lam; at all at once; the worst of these, image by image. Columns: answered
        at each lam; at a lam drawn at random.
        """
        clean = self.right[0].mean(axis=1)
        worst_case = self._robust.min(axis=0).mean(axis=1)
        return np.vstack([[*clean, clean.mean()], self._robust.mean(axis=2), worst_case])

    @property
    def nb_images(self) -> int:
        """On how many images everything was measured."""
        return len(self.right[0, 0])

    @property
    def clean(self) -> NDArray[np.float64]:
        """Accuracy without attack at each lam, ``[A]``."""
        return self.shares[0, :-1]

    @property
    def robust(self) -> NDArray[np.float64]:
        """Share of images that are robust at lam b (column) against an attack at lam a (row), ``[A, A]``."""
        return self.shares[1:-2, :-1]

    @property
    def at_once(self) -> NDArray[np.float64]:
        """Share of images that are robust at each lam against the attack on all lams at once, ``[A]``."""
        return self.shares[-2, :-1]

    @property
    def worst_case(self) -> NDArray[np.float64]:
        """Share of images that are robust at each lam against all attacks, ``[A]``.

        If it is much less than the diagonal of ``robust``, the attack is weak at this lam.
        """
        return self.shares[-1, :-1]


def name_of(attack: Any) -> str:
    """Return what an attack is called in tables and pictures."""
    return f"PGD-{attack.nb_steps}" if isinstance(attack, PGD) else getattr(attack, "__name__", type(attack).__name__)


def checked(
    classifier: Any,
    data: tuple[Array, Array],
    threat: ThreatModel,
    attack: Any,
    lambdas: Iterable[float] | None,
    width: float | None,
    options: EvaluationOptions,
) -> list[OperatingPoint]:
    """Return where to attack, lams ascending; see :meth:`TransferMatrix.measure`."""
    if not isinstance(classifier, OATClassifier):
        raise TypeError(f"classifier must be an OATClassifier, got {type(classifier).__name__}.")
    points, point_faults = checked_points(classifier.model, lambdas, [width])
    if not point_faults and len(points) < MIN_LAMS:
        point_faults.append(f"lambdas must hold at least {MIN_LAMS} different lams, got {lambdas}.")
    radius = threat.radius(classifier)
    radii = [radius, *radii_of(attack, classifier)]
    large = [fault for it in radii for fault in it.faults(allow_large_eps=threat.allow_large_eps)]
    faults = [*classifier.data_faults(*data), *options_faults(options, unused=_UNUSED)]
    refuse([*faults, *_attack_faults(attack, classifier, threat), *dict.fromkeys(large), *point_faults])
    check_radii([radius], allow_large_eps=True)
    return sorted(points, key=lambda point: point.lam)


def _attack_faults(attack: Any, classifier: OATClassifier, threat: ThreatModel) -> list[str]:
    """Say why an attack cannot be made, or would not be the one that the matrix is labeled with."""
    faults, is_own = ball_faults(threat.eps, threat.norm), is_tensor_attack(attack)
    if not (faults or is_own):
        faults += refusals(lambda: PGD.for_evaluation(threat.eps, NB_STEPS, threat.norm))
    if attack is not None:
        faults += refusals(lambda: refuse(trial_faults(attack, classifier)))
    if is_own and getattr(attack, "eps", threat.eps) != threat.eps:
        expected, got = format_apart(threat.eps, attack.eps)
        faults.append(f"attack must have the eps given, {expected}, got one with {got}.")
    if is_own and getattr(attack, "norm", threat.norm) != threat.norm:
        faults.append(f"attack must have the norm given, {threat.norm!r}, got one with {attack.norm!r}.")
    return faults


def cross_answers(
    classifier: OATClassifier,
    points: Sequence[OperatingPoint],
    data: tuple[Array, Array],
    threat: ThreatModel,
    attacks: tuple[Any, TensorAttack],
    options: EvaluationOptions,
) -> NDArray[np.bool_]:
    """Attack at each point by one attack, and all points at once by the other; return which answers are right."""
    bound = bind(attacks[0], classifier)
    networks = [classifier.at(*point).as_module() for point in points]
    targets = [*zip(networks, map(bound.at, points), strict=True), (Mixture(networks), attacks[1])]
    checked = [(network, within_ball(attack, threat.eps, threat.norm)) for network, attack in targets]
    bar = tqdm(checked, f"{name_of(attacks[0])} at each lam", disable=not options.verbose, unit="lam")
    return right_after(bar, networks, *classifier.as_tensors(*data), classifier.clip_values, options)


def right_after(
    targets: Iterable[tuple[nn.Module, TensorAttack]],
    networks: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    clip_values: ClipValues | None,
    options: EvaluationOptions,
) -> NDArray[np.bool_]:
    """Return which samples each network gets right: as they are, then attacked on each target, ``[T + 1, A, N]``."""

    def right(inputs: Tensor) -> NDArray[np.bool_]:
        return torch.stack([is_correct(it, inputs, y, options.shard_size) for it in networks]).cpu().numpy()

    rows, batches = [right(x)], [*zip(x.split(options.shard_size), y.split(options.shard_size), strict=True)]
    for network, attack in targets:
        draws: dict[str, Any] = {"generator": torch.Generator().manual_seed(options.seed)}
        x_adv = [attack(network, *batch, clip_values=clip_values, **draws) for batch in batches]
        rows.append(right(torch.cat(x_adv)))
    return np.stack(rows)
