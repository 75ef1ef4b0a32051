"""Owns the measurement of a trade-off: every operating point against every attack."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, get_args

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from art_oat.attack import Norm, TensorAttack, is_correct, withstand
from art_oat.classifier import OATClassifier
from art_oat.condition import OperatingPoint
from art_oat.evaluation.cost import Cost, measure_costs
from art_oat.evaluation.robustness import AutoAttack, attack_by_name, within_ball
from art_oat.frontier import Frontier, MeasuredPoint
from art_oat.inputs import Array, as_array, class_indices, count_faults, refuse
from art_oat.model import OATModel
from art_oat.surgery import fold

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TradeoffCurve(Frontier):
    """Clean and robust accuracy, and cost, of one network at its operating points.

    Args:
        points: One per operating point.
        eps: Radius of the attacks, in units of ``x``.
        norm: Norm of the attacks.
        latency_batch_size: How many samples make up the batch that a point's ``latency`` is of.
    """

    eps: float
    norm: Norm = "Linf"
    latency_batch_size: int = 1

    @classmethod
    def measure(
        cls,
        classifier: OATClassifier,
        x: Array,
        y: Array,
        *,
        eps: float,
        attack: str | Sequence[str] = "autoattack",
        norm: Norm = "Linf",
        lambdas: Iterable[float] | None = None,
        widths: Iterable[float] | None = None,
        nb_robust: int | None = None,
        batch_size: int = 250,
        seed: int = 0,
        nb_workers: int = 1,
        latency_batch_size: int = 1,
        verbose: bool = True,
    ) -> Self:
        """Measure every combination of lam and width.

        Every sample is attacked at every point, on the pinned network with the classifier's preprocessing. The robust
        accuracy is the share of samples that stand all attacks tried at the point, and so the minimum over them,
        sample by sample; each attack's own figure is kept beside it.

        What a width costs is measured first, while no attack runs: of the folded network, which is what one ships,
        on its device and with torch's number of threads.

        Args:
            classifier: What is measured; its ``clip_values`` bound the attacks.
            x: Inputs, ``(N, *input_shape)``, finite and within ``clip_values``.
            y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
            eps: Radius of the attacks, in units of ``x``.
            attack: ``"autoattack"`` (standard version), ``"pgd-K"`` (K steps of ``2.5 eps / K``), or several.
            norm: ``"Linf"`` or ``"L2"``.
            lambdas: Where to measure; None for the trained lams.
            widths: Where to measure; None for the trained widths.
            nb_robust: Attack a subset of this size, drawn with the class shares of ``y``; None for all. Clean
                accuracy is measured on all.
            batch_size: How many samples are attacked at once.
            seed: What the subset and the attacks are drawn from; the same seed gives the same accuracies.
            nb_workers: How many points to measure at once, each in a process of its own; worth it on a CPU, where
                AutoAttack on a small network leaves cores idle.
            latency_batch_size: How many samples make up the batch that is timed at each width.
            verbose: Whether to show progress.

        Raises:
            TypeError: If ``classifier`` is not an ``OATClassifier``.
            ValueError: If an argument is not as above; names every fault.
        """
        if not isinstance(classifier, OATClassifier):
            raise TypeError(f"classifier must be an OATClassifier, got {type(classifier).__name__}.")
        x, y = as_array(x), as_array(y)
        names = [attack] if isinstance(attack, str) else list(attack) if isinstance(attack, Sequence) else [attack]
        counts = {"batch_size": batch_size, "nb_workers": nb_workers, "latency_batch_size": latency_batch_size}
        faults = [*classifier.data_faults(x, y), *count_faults(counts), *_subset_faults(nb_robust, len(x))]
        attacks, attack_faults = _attacks(names, eps, norm, classifier)
        points, point_faults = _points(classifier.model, lambdas, widths)
        refuse([*faults, *attack_faults, *point_faults])
        labels = class_indices(y, classifier.nb_classes)
        subject = _Subject(classifier, x, labels, _subset(labels, nb_robust, seed), batch_size)
        costs = _costs(subject, points, latency_batch_size)
        tasks = (delayed(_measure_point)(subject, point, attacks, seed) for point in points)
        measured = Parallel(nb_workers, return_as="generator")(tasks)
        title = f"{' and '.join(attacks)} at each point"
        progress = tqdm(measured, title, len(points), disable=not verbose, unit="point")
        return cls(tuple(replace(it, **asdict(costs[it.width])) for it in progress), eps, norm, latency_batch_size)

    def _header(self) -> dict[str, str | float]:
        return {"eps": self.eps, "norm": self.norm, "latency_batch_size": self.latency_batch_size}

    @classmethod
    def _from_rows(cls, rows: Sequence[dict[str, str]]) -> Self:
        norm = rows[0]["norm"]
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {get_args(Norm)}, got {norm!r}.")
        points = Frontier._from_rows(rows).points
        latency_batch_size = int(rows[0].get("latency_batch_size") or 1)  # from before latency was measured: none
        return cls(points, float(rows[0]["eps"]), norm, latency_batch_size)  # type: ignore[arg-type]

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the trade-off: both accuracies against lam, and against each other, with standard errors.

        Args:
            path: Where to save the figure; the ending gives the format, PNG without one. None for nowhere.

        Returns:
            The Matplotlib figure.
        """
        from art_oat.evaluation.plot import plot_tradeoff  # Matplotlib is slow to import

        return plot_tradeoff(self, None if path is None else Path(path))


@dataclass(frozen=True)
class _Subject:
    classifier: OATClassifier
    x: Array
    y: NDArray[np.int64]
    attacked: NDArray[np.int64]
    batch_size: int

    def tensors(self, index: NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        return self.classifier.as_tensors(self.x[index], self.y[index])


def _subset_faults(nb_robust: int | None, nb_samples: int) -> list[str]:
    if nb_robust is None:
        return []
    if faults := count_faults({"nb_robust": nb_robust}):
        return faults
    is_fitting = nb_robust <= nb_samples
    return [] if is_fitting else [f"nb_robust must be at most {nb_samples}, the number of samples, got {nb_robust}."]


def _attacks(
    names: Sequence[str], eps: float, norm: Norm, classifier: OATClassifier
) -> tuple[dict[str, TensorAttack], list[str]]:
    attacks: dict[str, TensorAttack] = {}
    faults = [] if names else ["attack must name at least one attack, got none."]
    for name in names:
        try:
            attack = attack_by_name(name, eps, norm)
        except ValueError as error:
            faults.append(str(error))
            continue
        if isinstance(attack, AutoAttack):
            faults += attack.faults(classifier.nb_classes, classifier.clip_values)
        attacks[name] = within_ball(attack, eps, norm)
    return attacks, list(dict.fromkeys(faults))


def _points(
    model: OATModel, lambdas: Iterable[float] | None, widths: Iterable[float] | None
) -> tuple[list[OperatingPoint], list[str]]:
    points: list[OperatingPoint] = []
    faults: list[str] = []
    try:
        pairs = list(
            itertools.product(model.lambdas if lambdas is None else lambdas, model.widths if widths is None else widths)
        )
    except TypeError:
        return [], [f"lambdas and widths must each be several numbers, or None, got {lambdas} and {widths}."]
    if not pairs:
        faults.append("lambdas and widths must each hold at least one number, got none.")
    for pair in pairs:
        try:
            points.append(model.point(*pair))
        except (TypeError, ValueError) as error:
            faults.append(str(error))
    return list(dict.fromkeys(points)), list(dict.fromkeys(faults))


def _costs(subject: _Subject, points: Sequence[OperatingPoint], batch_size: int) -> dict[float, Cost]:
    """What each width costs; lam changes numbers in the folded network, not its size."""
    widths, model = dict.fromkeys(point.width for point in points), subject.classifier.model
    networks = {width: fold(model, OperatingPoint(points[0].lam, width)) for width in widths}
    x, _ = subject.tensors(slice(1))
    as_network_sees_it = subject.classifier.preprocessed(nn.Identity())(x)
    return measure_costs(networks, as_network_sees_it.shape[1:], batch_size=batch_size)


def _subset(y: NDArray[np.int64], size: int | None, seed: int) -> NDArray[np.int64]:
    """Indices of a stratified subset, ascending: every so-many-th of the samples in random order within each class."""
    if size is None:
        return np.arange(len(y))
    order = np.random.default_rng(seed).permutation(len(y))
    by_class = order[np.argsort(y[order], kind="stable")]
    positions = ((np.arange(size) + 0.5) * len(y) / size).astype(np.int64)
    indices: NDArray[np.int64] = np.sort(by_class[positions])
    return indices


def _measure_point(
    subject: _Subject, point: OperatingPoint, attacks: dict[str, TensorAttack], seed: int
) -> MeasuredPoint:
    network = subject.classifier.at(*point).as_module()
    clean = is_correct(network, *subject.tensors(slice(None)), subject.batch_size)
    x, y = subject.tensors(subject.attacked)
    standing: dict[str, Tensor] = {}
    for name, attack in attacks.items():
        _, standing[name] = withstand(
            network,
            x,
            y,
            attack,
            clip_values=subject.classifier.clip_values,
            generator=torch.Generator().manual_seed(seed),
            batch_size=subject.batch_size,
        )
    robust = torch.stack(list(standing.values())).all(dim=0)
    by_attack = {name: _share(mask) for name, mask in standing.items()}
    return MeasuredPoint(point.lam, point.width, _share(clean), _share(robust), len(clean), len(robust), by_attack)


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())
