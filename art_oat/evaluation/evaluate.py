"""Owns the measurement of robustness: shards of samples against engines, at every point, to be gone on with."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import Manager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from art_oat.attacks import Norm, Radius, check_radii
from art_oat.attacks.autoattack import AutoAttackWarning, autoattack_package
from art_oat.checks import Array, as_array, class_indices, count_faults, refuse
from art_oat.classifier import OATClassifier, PinnedClassifier, PreprocessedNetwork, data_faults, data_tensors
from art_oat.condition import OperatingPoint
from art_oat.contexts import evaluating
from art_oat.evaluation.report import RobustnessReport
from art_oat.evaluation.shards import Rules, Shard, ShardFile, Verdict
from art_oat.evaluation.suite import Engine, Judge, display_name, engines
from art_oat.model import OATModel
from art_oat.storage import differences, digest, fingerprint, unsaid, write_json

KEPT = "kept from before"
Point = OperatingPoint | None
"""Where a conditional network is judged; None for a plain one."""


def evaluate(
    classifier: PyTorchClassifier,
    x: Array,
    y: Array,
    *,
    eps: float,
    attack: Judge | Mapping[str, Judge] = "autoattack",
    norm: Norm = "Linf",
    lam: float | None = None,
    width: float | None = None,
    shard_size: int = 250,
    state: str | Path | None = None,
    seed: int = 0,
    nb_workers: int = 1,
    allow_large_eps: bool = False,
    verbose: bool = True,
) -> RobustnessReport:
    """Attack a classifier, and say sample by sample what broke it.

    Samples are judged in fixed shards, in their order. Every attack runs on what still stands in a shard, drawn from
    the seed, the shard and its own name: so the result depends neither on the workers nor on where it was stopped.

    Args:
        classifier: An ``OATClassifier``, a view of it, or any ``PyTorchClassifier`` to compare with, whose
            preprocessing must be differentiable in torch or estimate its gradient. It is judged in evaluation mode.
        x: Inputs, ``(N, *input_shape)``, finite and within the classifier's ``clip_values``.
        y: Class indices ``(N,)`` or one-hot labels ``(N, K)``.
        eps: Radius, in units of ``x``.
        attack: ``"autoattack"`` (standard version), ``"autoattack-plus"``, ``"screen"`` (APGD-CE and targeted APGD-DLR
            alone: quick, and not AutoAttack), ``"pgd-K"`` (K steps of ``2.5 eps / K``), ``"pgd-KxR"`` (with R
            restarts), ``"art:NAME"`` or ``"torchattacks:NAME"`` (its defaults, steps of ``eps / 4``); or an attack, as
            ``OATTrainer`` takes it; or a mapping of one name to one of these. Names of libraries and attacks other
            than ``PGD`` and ``AutoAttack`` need an ``OATClassifier``.
        norm: ``"Linf"``, ``"L2"`` or ``"L1"`` (not for PGD).
        lam: Where an ``OATClassifier`` is attacked; it must be named, as robustness has no default, unless only one
            lam is trained. None for everything else.
        width: Likewise; None for the default.
        shard_size: How many samples are attacked at once.
        state: Folder where every shard is kept as soon as it is judged. An evaluation that was stopped goes on
            there, and attacks nothing twice; one of other settings, weights or data is refused. None to keep nothing.
        seed: What all attacks are drawn from.
        nb_workers: How many shards to judge at once, each in a process of its own.
        allow_large_eps: Whether ``eps`` may be half the range of ``x``, or more, see
            :class:`~art_oat.attacks.radius.Radius`; that is refused as a number in another unit otherwise.
        verbose: Whether to show progress.

    Raises:
        TypeError: If ``classifier`` is of another kind.
        ValueError: If an argument is not as above; names every fault.
        RuntimeError: If an attack leaves its ball.
    """
    point, point_faults = _point(classifier, lam, width)
    evaluation, faults = plan(
        classifier,
        x,
        y,
        eps=eps,
        attack=attack,
        norm=norm,
        points=[point],
        shard_size=shard_size,
        seed=seed,
        allow_large_eps=allow_large_eps,
    )
    faults += [*point_faults, *count_faults({"nb_workers": nb_workers})]
    if nb_workers != 1 and not isinstance(classifier, OATClassifier | PinnedClassifier):
        kind = type(classifier).__name__
        faults.append(f"nb_workers must be 1 for a {kind}: ART copies it through files of its own.")
    if len(evaluation.engines) > 1:
        faults.append(f"attack must be one, got {len(evaluation.engines)}. TradeoffCurve.measure takes several.")
    refuse(faults)
    (report,) = evaluation.run(state, nb_workers=nb_workers, verbose=verbose)
    return report


def _point(classifier: Any, lam: float | None, width: float | None) -> tuple[Point, list[str]]:
    if isinstance(classifier, OATClassifier):
        points, faults = checked_points(classifier.model, [(lam, width)])
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


def plan(
    classifier: PyTorchClassifier,
    x: Array,
    y: Array,
    *,
    eps: float,
    attack: Judge | Sequence[Judge] | Mapping[str, Judge],
    norm: Norm,
    points: Sequence[Point],
    shard_size: int,
    seed: int,
    carries_examples: bool = True,
    index: NDArray[np.int64] | None = None,
    allow_large_eps: bool = False,
) -> tuple[Evaluation, list[str]]:
    """Return what is to be measured, and all that is wrong with it; see :func:`evaluate`."""
    x, y = as_array(x), as_array(y)
    faults = [*data_faults(classifier, x, y), *count_faults({"shard_size": shard_size}), *seed_faults(seed)]
    judges, engine_faults = engines(attack, classifier, eps=eps, norm=norm, allow_large_eps=allow_large_eps)
    rules = Rules(eps, norm, classifier.clip_values, seed, carries_examples)
    evaluation = Evaluation(classifier, x, y, list(points), judges, rules, shard_size, index)
    return evaluation, [*faults, *engine_faults]


def checked_points(
    model: OATModel, pairs: Iterable[tuple[float | None, float | None]]
) -> tuple[list[OperatingPoint], list[str]]:
    """Return the operating points that pairs (lam, width) mean, each once, and what is wrong with the others."""
    points: list[OperatingPoint] = []
    faults: list[str] = []
    for pair in pairs:
        try:
            points.append(model.point(*pair))
        except (TypeError, ValueError) as error:
            faults.append(str(error))
    return list(dict.fromkeys(points)), list(dict.fromkeys(faults))


def seed_faults(seed: Any) -> list[str]:
    """Say why nothing can be drawn from a seed."""
    is_whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    return [] if is_whole and seed >= 0 else [f"seed must be a whole number, at least 0, got {seed!r}."]


@dataclass(frozen=True)
class Evaluation:
    """What is measured.

    Attributes:
        classifier: What is attacked.
        x: Inputs, ``[N, ...]``.
        y: Labels.
        points: Where, in the order in which examples are carried on.
        engines: By what.
        rules: What holds for all attacks.
        shard_size: How many samples make up a shard; the last may be smaller.
        index: Which samples of a larger set these are, for the reports; None for all of it.
    """

    classifier: PyTorchClassifier
    x: Array
    y: Array
    points: list[Point]
    engines: list[Engine]
    rules: Rules
    shard_size: int
    index: NDArray[np.int64] | None = None

    def run(self, state: str | Path | None, *, nb_workers: int, verbose: bool) -> list[RobustnessReport]:
        """Judge every shard; return a report per point and engine, points first."""
        radius = Radius(self.rules.eps, self.rules.norm, self.rules.clip_values, self.classifier.input_shape)
        check_radii([radius], allow_large_eps=True)  # what is too large is refused by now
        folder = None if state is None else self._opened(Path(state))
        nb_shards = -(-len(self.x) // self.shard_size)
        nb_stages = len(self.points) * sum(len(engine.stages) for engine in self.engines)
        title = " and ".join(display_name(engine.name) for engine in self.engines)
        bar = tqdm(total=nb_shards * nb_stages, desc=title, disable=not verbose, unit="attack")
        with bar, _evaluating(self.classifier), _told(_Progress(bar), nb_workers) as tell:
            tasks = (delayed(self.judge)(number, folder, tell) for number in range(nb_shards))
            shards = list(Parallel(nb_workers, return_as="generator")(tasks))
        reports = [
            RobustnessReport.joined(
                engine.name,
                self.rules.eps,
                self.rules.norm,
                point,
                [verdicts[_key(point, engine)] for verdicts in shards],
                stages=[*engine.stages],
                index=self.index,
            )
            for point, engine in itertools.product(self.points, self.engines)
        ]
        for warning in dict.fromkeys(warning for report in reports for warning in report.warnings):
            warnings.warn(warning, AutoAttackWarning, stacklevel=3)  # where evaluate or measure was called
        return reports

    def judge(self, number: int, folder: Path | None, tell: Callable[[tuple[str, int]], Any]) -> dict[str, Verdict]:
        """Judge one shard at every point by every engine, as far as that was not done; keep each verdict at once."""
        index = slice(number * self.shard_size, (number + 1) * self.shard_size)
        shard = Shard(*_as_tensors(self.classifier, self.x[index], self.y[index]), number, self.rules)
        file = ShardFile(None if folder is None else folder / f"shard-{number:05d}.npz")
        file.read(shard)
        for point, engine in itertools.product(self.points, self.engines):
            key = _key(point, engine)
            if key in file.verdicts:
                tell((KEPT, len(engine.stages)))
                continue
            where = f"lam {point.lam:g}, " if point is not None else ""
            where += f"width {point.width:g}, " if point is not None and point.width != 1 else ""

            def tell_where(what: str, nb_done: int, where: str = where) -> None:
                tell((where + what, nb_done))

            verdict = shard.judge(as_module(self.classifier, point), engine.name, engine.at(point), tell_where)
            file.add(key, verdict, shard)
        return file.verdicts

    def _opened(self, folder: Path) -> Path:
        """Make the folder of a new evaluation, or refuse that of another."""
        silent = [engine.name for engine in self.engines if unsaid(engine.description)]
        if silent:
            raise ValueError(
                f"with state, an attack must say its settings, so that another is not taken for it, which "
                f"{', '.join(silent)} does not. Give it a __repr__, or leave state out."
            )
        path, settings = folder / "evaluation.json", self._settings()
        kept = _kept_settings(path)
        if kept is None:
            write_json(path, settings)
        elif different := differences(kept, settings):
            raise ValueError(
                f"state must be a folder of this evaluation, but {folder} holds another: {different}. Name another "
                "folder, or delete it."
            )
        return folder

    def _settings(self) -> dict[str, Any]:
        """Everything that a verdict depends on."""
        classifier = self.classifier
        model = classifier.model.model if isinstance(classifier, PinnedClassifier) else classifier.model
        return {
            "points": fingerprint([None if point is None else [*point] for point in self.points]),
            "attacks": {engine.name: engine.description for engine in self.engines},
            **{name: fingerprint(getattr(self.rules, name)) for name in ("eps", "norm", "seed", "carries_examples")},
            "versions": [f"{name} {version(name)}" for name in ("art-oat", "torch", autoattack_package())],
            "shard_size": fingerprint(self.shard_size),
            "clip_values": fingerprint(classifier.clip_values),
            "channels_first": bool(classifier.channels_first),
            "preprocessing": fingerprint(classifier.preprocessing_operations),
            "x": digest(self.x),
            "y": digest(class_indices(self.y, classifier.nb_classes)),
            "weights": digest(*(tensor for _, tensor in sorted(model.state_dict().items()))),
        }


def _kept_settings(path: Path) -> Any:
    """Read what an evaluation was made of; None where there is none yet."""
    if not path.exists():
        if path.parent.exists() and (not path.parent.is_dir() or any(path.parent.glob("shard-*.npz"))):
            raise ValueError(f"state must be a folder of this evaluation, but {path.parent} is none. Name another.")
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # no JSON, or no text
        kept = None
    if not isinstance(kept, dict):
        raise ValueError(f"state must be a folder of this evaluation, but {path} is damaged. Delete the folder.")
    return kept


def as_module(classifier: PyTorchClassifier, point: Point) -> nn.Module:
    """Return what is attacked as one module, preprocessing included."""
    if isinstance(classifier, OATClassifier):
        assert point is not None
        return classifier.at(*point).as_module()
    if isinstance(classifier, PinnedClassifier):
        return classifier.as_module()
    operations = [operation for operation in classifier.preprocessing_operations if operation.apply_predict]
    return PreprocessedNetwork(classifier.model, operations, channels_first=classifier.channels_first)


def _as_tensors(classifier: PyTorchClassifier, x: Array, y: Array) -> tuple[Tensor, Tensor]:
    if isinstance(classifier, OATClassifier):
        return classifier.as_tensors(x, y)
    return data_tensors(classifier, x, y, next(classifier.model.parameters()))


def _key(point: Point, engine: Engine) -> str:
    return engine.name if point is None else f"{point.lam!r}x{point.width!r} {engine.name}"


def _evaluating(classifier: PyTorchClassifier) -> AbstractContextManager[None]:
    """Let a plain network answer in evaluation mode; pinned ones always do."""
    is_plain = not isinstance(classifier, OATClassifier | PinnedClassifier)
    return evaluating(classifier.model) if is_plain else nullcontext()


class _Progress:
    """Shows on a bar what is going on."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def __call__(self, event: tuple[str, int]) -> None:
        what, nb_done = event
        if what == KEPT and not self.bar.disable:
            self.bar.initial += nb_done  # it took no time, and tells nothing of what is left
        self.bar.set_postfix_str(what, refresh=False)
        self.bar.update(nb_done)
        self.bar.refresh()


@contextmanager
def _told(progress: _Progress, nb_workers: int) -> Iterator[Callable[[tuple[str, int]], Any]]:
    """Give what tells of progress, also from other processes."""
    if nb_workers == 1:
        yield progress
        return
    with Manager() as manager:
        events = manager.Queue()
        thread = Thread(target=_pass_on, args=(events, progress), daemon=True)
        thread.start()
        try:
            yield events.put
        finally:
            events.put(None)
            thread.join()


def _pass_on(events: Any, progress: _Progress) -> None:
    for event in iter(events.get, None):
        progress(event)
