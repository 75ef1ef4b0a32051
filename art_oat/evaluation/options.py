"""What an attacker may do in an evaluation, and how it runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from art.estimators.classification import PyTorchClassifier

from art_oat.attacks import Norm, Radius
from art_oat.group import ALONE, Group
from art_oat.numbers import count_faults, flag_faults, plain_fields, seed_faults, shown


@dataclass(frozen=True)
class ThreatModel:
    """The ball that attacked inputs stay in; a plain ``eps`` means one in Linf.

    Attributes:
        eps: Radius, in units of ``x``; above 0.
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``.
        allow_large_eps: Whether ``eps`` may be half the range of ``x`` or more, see
            :class:`~art_oat.attacks.radius.Radius`. Otherwise that is refused as a number in another unit.
    """

    eps: float
    norm: Norm = "Linf"
    allow_large_eps: bool = False

    def __post_init__(self) -> None:
        plain_fields(self)

    @classmethod
    def of(cls, eps: float | ThreatModel) -> ThreatModel:
        """Return what is meant by a radius, or by a threat model itself."""
        return eps if isinstance(eps, ThreatModel) else cls(eps)

    def radius(self, classifier: PyTorchClassifier) -> Radius:
        """Return ``eps`` in the range of a classifier's inputs."""
        return Radius(self.eps, self.norm, classifier.clip_values, classifier.input_shape)


@dataclass(frozen=True)
class EvaluationOptions:
    """How an evaluation runs. Its results depend on ``shard_size``, ``seed`` and ``carries_examples`` alone.

    Attributes:
        shard_size: How many samples are attacked at once, and kept together.
        seed: What the attacks draw from, and the subset of ``nb_robust``; in ``[0, 2**32)``.
        verbose: Whether to show progress.
        state: Folder where every finished shard is kept. An evaluation that was stopped continues from there, and
            attacks nothing twice. A folder of other settings, weights or data is refused. None to keep nothing.
        nb_workers: How many shards to attack at once, each in a process of its own. This helps on a CPU, where attacks
            on a small network leave cores idle.
        uses_group: Whether the processes of a ``torch.distributed`` group share the shards. All of them must call the
            measurement alike, and all get the whole result. Otherwise each call attacks everything by itself. ``state``
            is then a folder that all see; any number of processes goes on from what another number left.
        carries_examples: Whether examples found at one point are tried first at the next; for ``TradeoffCurve``.
        nb_robust: Attack a subset of this size, drawn with the class shares of ``y``; None for all; for
            ``TradeoffCurve``. Clean accuracy is measured on all.
        latency_batch_size: How many samples make up the batch that is timed at each width; for ``TradeoffCurve``.
    """

    shard_size: int = 250
    seed: int = 0
    verbose: bool = True
    state: str | Path | None = None
    nb_workers: int = 1
    uses_group: bool = False
    carries_examples: bool = True
    nb_robust: int | None = None
    latency_batch_size: int = 1

    def __post_init__(self) -> None:
        plain_fields(self)

    def group(self) -> Group:
        """Return the processes that share the evaluation.

        Raises:
            RuntimeError: If processes were started together that form no group.
        """
        return Group.here() if self.uses_group else ALONE

    def faults(self, *, unused: Collection[str] = ()) -> list[str]:
        """Say all that is wrong with the options of a measurement that makes no use of some."""
        names = ("shard_size", "nb_workers", "latency_batch_size", "nb_robust")
        counts = {name: getattr(self, name) for name in names if name not in unused}
        faults = count_faults({name: count for name, count in counts.items() if (name, count) != ("nb_robust", None)})
        faults += seed_faults(self.seed)
        faults += flag_faults({name: getattr(self, name) for name in ("verbose", "uses_group", "carries_examples")})
        idle = [it.name for it in fields(self) if it.name in unused and getattr(self, it.name) != it.default]
        if idle:
            faults.append(f"{' and '.join(idle)} must be left out here: this measurement does not use it.")
        if not isinstance(self.state, str | Path | None):
            faults.append(f"state must be the path of a folder, or None, got {shown(self.state)}.")
        return faults


def options_faults(options: Any, *, unused: Collection[str] = ()) -> list[str]:
    """Say all that is wrong with the options of a measurement; see :meth:`EvaluationOptions.faults`.

    Raises:
        TypeError: If they are of another kind.
    """
    if not isinstance(options, EvaluationOptions):
        raise TypeError(f"options must be EvaluationOptions, got {shown(options)}.")
    return options.faults(unused=unused)


DEFAULTS = EvaluationOptions()
