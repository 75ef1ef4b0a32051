"""Runs an evaluation: every shard of the samples against every suite of attacks, at every point."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from art_oat.attacks import check_radii, display_name
from art_oat.attacks.autoattack import AutoAttackWarning, autoattack_package
from art_oat.checks import Array, class_indices
from art_oat.classifier import OATClassifier, PinnedClassifier, PreprocessedNetwork, data_tensors
from art_oat.condition import OperatingPoint
from art_oat.contexts import evaluating
from art_oat.evaluation.options import EvaluationOptions, ThreatModel
from art_oat.evaluation.report import RobustnessReport
from art_oat.evaluation.shards import Progress, Shard, ShardResult, Tell
from art_oat.evaluation.suite import AttackSuite
from art_oat.evaluation.workers import end_with, manager
from art_oat.fingerprint import differences, fingerprint, unsaid
from art_oat.group import Group
from art_oat.levels import marked
from art_oat.lock import locked_file
from art_oat.storage import digest, read_json, write_json

_SETTINGS = "evaluation.json"

Point = OperatingPoint | None
"""Where a conditional network is attacked; None for a plain one."""


@dataclass(frozen=True)
class Evaluation:
    """A classifier, inputs ``x [N, ...]`` and labels, and the suites that attack them at each point in turn.

    Examples are carried from one point to the next. ``index`` says which samples of a larger set these are, ``[N]``.
    """

    classifier: PyTorchClassifier
    x: Array
    y: Array
    points: list[Point]
    suites: list[AttackSuite]
    threat: ThreatModel
    options: EvaluationOptions
    index: NDArray[np.int64] | None = None

    def run(self) -> list[RobustnessReport]:
        """Attack every shard; return a report per point and suite, points first."""
        check_radii([self.threat.radius(self.classifier)], allow_large_eps=True)  # what is too large is refused by now
        group = self.options.group()
        group.check_same("the settings, data and weights of an evaluation", self._compared)
        shards = self._shard_results(group)
        reports = []
        for point, suite in itertools.product(self.points, self.suites):
            results = [shard[_key(point, suite)] for shard in shards]
            own = suite.name, self.threat.eps, self.threat.norm, point, results
            reports.append(RobustnessReport.joined(*own, attacks=[*suite.attacks], index=self.index))
        for warning in dict.fromkeys(warning for report in reports for warning in report.warnings if group.is_first):
            warnings.warn(warning, AutoAttackWarning, stacklevel=3)  # where evaluate or measure was called
        return reports

    def _shard_results(self, group: Group) -> list[dict[str, ShardResult]]:
        """Attack this process's share of the shards, in workers of its own; return what all processes found."""
        nb_shards = -(-len(self.x) // self.options.shard_size)
        numbers = range(nb_shards)[group.share(nb_shards)]
        nb_attacks = len(self.points) * sum(len(suite.attacks) for suite in self.suites)
        title = " and ".join(display_name(suite.name) for suite in self.suites)
        title += f", process 1 of {group.size}" if group.size > 1 else ""
        is_quiet = not (self.options.verbose and group.is_first)
        bar = tqdm(total=len(numbers) * nb_attacks, desc=title, disable=is_quiet, unit="attack")
        is_pinned = isinstance(self.classifier, OATClassifier | PinnedClassifier)  # always in evaluation mode
        mode = nullcontext() if is_pinned else evaluating(self.classifier.model)
        with self._claimed(group) as folder, bar, mode, _telling(bar, self.options.nb_workers) as tell:
            tasks = (delayed(self._work)(os.getpid(), number, folder, tell) for number in numbers)
            watched = {"initializer": end_with, "initargs": (os.getpid(),)}  # from the start, before the first task
            found = list(Parallel(self.options.nb_workers, return_as="generator", **watched)(tasks))
            return group.gathered(found)

    def _work(self, owner: int, number: int, folder: Path | None, tell: Tell) -> dict[str, ShardResult]:
        """Attack one shard for a process, and not without it."""
        end_with(owner)
        return self.run_shard(number, folder, tell)

    def run_shard(self, number: int, folder: Path | None, tell: Tell) -> dict[str, ShardResult]:
        """Attack one shard at every point by every suite, as far as that is not done; keep each result at once."""
        index = slice(number * self.options.shard_size, (number + 1) * self.options.shard_size)
        x, y = _as_tensors(self.classifier, self.x[index], self.y[index])
        shard = Shard(x, y, number, self.threat, self.options, self.classifier.clip_values)
        path = None if folder is None else folder / f"shard-{number:05d}.npz"
        if path is not None:
            shard.read(path)
        for point, suite in itertools.product(self.points, self.suites):
            key = _key(point, suite)
            if key in shard.results:
                tell(Progress("kept from before", len(suite.attacks), is_kept=True))
                continue
            tell_where = partial(_tell_where, tell, point)
            network = as_module(self.classifier, point)
            shard.results[key] = shard.attack(network, suite.name, suite.at(point), tell_where)
            if path is not None:
                shard.write(path)
        return shard.results

    @contextmanager
    def _claimed(self, group: Group) -> Iterator[Path | None]:
        """Have the state folder of this evaluation for this group alone; that of another is refused, and stays."""
        if self.options.state is None:
            yield None
            return
        folder, settings = Path(self.options.state), self._settings

        def claim() -> None:
            self._is_new(folder, settings)
            stack.enter_context(locked_file(folder / _SETTINGS))  # within it, as what is around it may be out of reach
            if self._is_new(folder, settings):
                write_json(folder / _SETTINGS, settings)

        with ExitStack() as stack:
            group.first(claim)
            if any(group.gathered([self._is_new(folder, settings)])):
                raise ValueError(f"state must be a folder that all {group.size} processes see, got {folder}.")
            yield folder

    def _is_new(self, folder: Path, settings: dict[str, Any]) -> bool:
        """Whether a folder is that of no evaluation yet; refuse that of another."""
        silent = [suite.name for suite in self.suites if unsaid(suite.description)]
        if silent:
            raise ValueError(
                f"with state, an attack must say its settings, so that another is not taken for it, which "
                f"{', '.join(silent)} does not. Give it a __repr__, or leave state out."
            )
        kept = _kept_settings(folder / _SETTINGS)
        if kept is not None and (different := differences(kept, settings)):
            raise ValueError(
                f"state must be a folder of this evaluation, but {folder} holds another: {different}. Name another "
                "folder, or delete it."
            )
        return kept is None

    def _compared(self) -> dict[str, Any]:
        """What every process of a group must have alike; an attack that does not say its settings goes by its name."""
        said = {it.name: "" if unsaid(it.description) else it.description for it in self.suites}
        return self._settings | {"attacks": said}

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """Everything that a result depends on."""
        classifier, threat, options = self.classifier, self.threat, self.options
        model = classifier.model.model if isinstance(classifier, PinnedClassifier) else classifier.model
        return {
            "points": fingerprint([None if point is None else [*point] for point in self.points]),
            "attacks": {suite.name: suite.description for suite in self.suites},
            **{name: fingerprint(getattr(threat, name)) for name in ("eps", "norm")},
            **{name: fingerprint(getattr(options, name)) for name in ("seed", "carries_examples", "shard_size")},
            "versions": [f"{name} {version(name)}" for name in ("art-oat", "torch", autoattack_package())],
            "clip_values": fingerprint(classifier.clip_values),
            "channels_first": bool(classifier.channels_first),
            "preprocessing": fingerprint(classifier.preprocessing_operations),
            "x": digest(marked(self.x, classifier.clip_values)),
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
        kept = read_json(path)
    except ValueError:
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


def _key(point: Point, suite: AttackSuite) -> str:
    return suite.name if point is None else f"{point.lam!r}x{point.width!r} {suite.name}"


def _tell_where(tell: Tell, point: Point, progress: Progress) -> None:
    where = f"lam {point.lam:g}, " if point is not None else ""
    where += f"width {point.width:g}, " if point is not None and point.width != 1 else ""
    tell(progress._replace(text=where + progress.text))


def _show(bar: Any, progress: Progress) -> None:
    if progress.is_kept and not bar.disable:
        bar.initial += progress.nb_done  # it says nothing of how long the rest takes
    bar.set_postfix_str(progress.text, refresh=False)
    bar.update(progress.nb_done)
    bar.refresh()


@contextmanager
def _telling(bar: Any, nb_workers: int) -> Iterator[Tell]:
    """Give what shows progress on a bar, also from other processes."""
    if nb_workers == 1:
        yield partial(_show, bar)
        return
    with manager() as shared, ThreadPoolExecutor(1) as listener:
        queue = shared.Queue()
        listener.submit(_listen, queue, bar)
        try:
            yield queue.put
        finally:
            queue.put(None)


def _listen(queue: Any, bar: Any) -> None:
    for progress in iter(queue.get, None):
        _show(bar, progress)
