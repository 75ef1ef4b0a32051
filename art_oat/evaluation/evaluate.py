"""Measures robustness at one operating point, and checks what every measurement is given."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from art.estimators.classification import PyTorchClassifier

from art_oat.attacks import Attack
from art_oat.checks import Array, as_array, refuse
from art_oat.classifier import OATClassifier, PinnedClassifier, data_faults
from art_oat.condition import OperatingPoint
from art_oat.evaluation.options import DEFAULTS, EvaluationOptions, ThreatModel, options_faults
from art_oat.evaluation.report import RobustnessReport
from art_oat.evaluation.runner import Evaluation, Point
from art_oat.evaluation.suite import suites_of
from art_oat.model import OATModel
from art_oat.numbers import KindFault

_UNUSED = ("carries_examples", "nb_robust", "latency_batch_size")


def evaluate(
    classifier: PyTorchClassifier,
    x: Array,
    y: Array,
    *,
    eps: float | ThreatModel,
    attack: str | Attack | Mapping[str, str | Attack] = "autoattack",
    lam: float | None = None,
    width: float | None = None,
    options: EvaluationOptions = DEFAULTS,
) -> RobustnessReport:
    """Attack a classifier, and say sample by sample what broke it.

    Samples are attacked in fixed shards, in their order; every attack runs on what the ones before it left. It draws
    from the seed, the shard and its own name: neither the number of workers nor a stop changes the result.

    Args:
        classifier: An ``OATClassifier``, a view of it, or any ``PyTorchClassifier`` to compare with, whose
            preprocessing must be differentiable in torch or estimate its gradient. It answers in evaluation mode.
        x: Inputs, ``(N, *input_shape)``, finite and within the classifier's ``clip_values``; uint8 is as in
            :mod:`art_oat.levels`, and scaled shard by shard.
        y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
        eps: Radius in Linf, in units of ``x``; or a :class:`ThreatModel`, for another norm.
        attack: A name, such as ``"autoattack"``, ``"screen"`` or ``"pgd-20x3"``, or an attack, or a mapping of one name
            to one of these, see :data:`~art_oat.evaluation.suite.Attacks`.
        lam: Where an ``OATClassifier`` is attacked; robustness has no default, unless only one lam is trained. None for
            everything else.
        width: Likewise; None for the default.
        options: How the evaluation runs.

    Raises:
        TypeError: If ``classifier`` is of another kind.
        ValueError: If an argument is not as above; names every fault.
        RuntimeError: If an attack leaves its ball.
    """
    x, y = as_array(x, "x"), as_array(y, "y")
    return _evaluation(classifier, x, y, ThreatModel.of(eps), attack, (lam, width), options).run()[0]


def _evaluation(
    classifier: PyTorchClassifier,
    x: Array,
    y: Array,
    threat: ThreatModel,
    attack: str | Attack | Mapping[str, str | Attack],
    dials: tuple[float | None, float | None],
    options: EvaluationOptions,
) -> Evaluation:
    """Check what :func:`evaluate` is given."""
    point, faults = _point(classifier, *dials)
    suites, attack_faults = suites_of(attack, classifier, **asdict(threat))
    faults = [*data_faults(classifier, x, y), *options_faults(options, unused=_UNUSED), *attack_faults, *faults]
    if options.nb_workers != 1 and not isinstance(classifier, OATClassifier | PinnedClassifier):
        kind = type(classifier).__name__
        faults.append(f"nb_workers must be 1 for a {kind}: ART copies it through files of its own.")
    if len(suites) > 1:
        faults.append(f"attack must be one, got {len(suites)}. TradeoffCurve.measure takes several.")
    refuse(faults)
    return Evaluation(classifier, x, y, [point], suites, threat, options)


def _point(classifier: Any, lam: float | None, width: float | None) -> tuple[Point, list[str]]:
    if isinstance(classifier, OATClassifier):
        points, faults = checked_points(classifier.model, [lam], [width])
        return (points[0] if points else None), [*_unnamed_faults(lam, classifier.model), *faults]
    if not isinstance(classifier, PyTorchClassifier):
        raise TypeError(f"classifier must be a PyTorchClassifier, got {type(classifier).__name__}.")
    point = classifier.point if isinstance(classifier, PinnedClassifier) else None
    fixed = lam is None and width is None
    return point, [] if fixed else [f"lam and width must be None for a {type(classifier).__name__}: it has no dials."]


def _unnamed_faults(lam: float | None, model: OATModel) -> list[str]:
    """Ask for a lam where there is a choice: accuracy has a default, robustness has none."""
    if lam is not None or len(model.lambdas) == 1:
        return []
    return [
        "lam must be named, since robustness has no default, got None. Trained are "
        f"{', '.join(f'{one:g}' for one in model.lambdas)}: lam={model.lambdas[-1]:g} is the most robust of them."
    ]


def checked_points(
    model: OATModel, lambdas: Iterable[float | None] | None, widths: Iterable[float | None] | None
) -> tuple[list[OperatingPoint], list[str]]:
    """Return every combination, each once, None for the trained lams or widths; and what is wrong with the others."""
    lists: dict[str, list[Any]] = {}
    points, faults = [], []
    for name, given, trained in (("lambdas", lambdas, model.lambdas), ("widths", widths, model.widths)):
        lists[name] = [*(trained if given is None else given)] if isinstance(given, Iterable | None) else []
        if not lists[name]:
            faults.append(f"{name} must be several numbers, at least one, or None, got {given}.")
    for pair in itertools.product(*lists.values()):
        try:
            points.append(model.point(*pair))
        except (TypeError, ValueError) as error:
            faults.append(KindFault(error) if isinstance(error, TypeError) else str(error))
    return list(dict.fromkeys(points)), list(dict.fromkeys(faults))
