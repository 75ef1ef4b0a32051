"""Attacks a shard, a fixed group of samples, point after point, and keeps on disk what was found."""

from __future__ import annotations

import io
import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from art_oat.attacks import ClipValues, Norm, TensorAttack, distance, is_correct, within_ball
from art_oat.attacks.autoattack import AutoAttack
from art_oat.checks import one_line
from art_oat.evaluation.options import EvaluationOptions, ThreatModel
from art_oat.storage import digest, replaced

ROBUST = ""
"""What broke a sample that nothing broke."""
WRONG = "no attack"
"""What broke a sample that is answered wrongly as it is."""
CARRIED = "carried"
"""What broke a sample that an example found at another point breaks."""


class Progress(NamedTuple):
    """What is going on in a shard: how many attacks have ended, and whether their results were kept from before."""

    text: str
    nb_done: int = 0
    is_kept: bool = False


Tell: TypeAlias = Callable[[Progress], Any]


@dataclass(frozen=True)
class ShardResult:
    """What one suite of attacks found at one point, on the samples of one shard.

    Attributes:
        broken_by: What broke each sample first, ``[N]``: an attack's name, ``WRONG``, ``CARRIED``, or ``ROBUST``.
        seconds: How long it took.
        notices: What AutoAttack warned of.
        distances: How far from its input lies what broke each sample, ``[N]``: 0 for ``WRONG``, infinite for
            ``ROBUST``; None if not known.
    """

    broken_by: NDArray[np.str_]
    seconds: float
    notices: tuple[str, ...] = ()
    distances: NDArray[np.float64] | None = None


class Examples(NamedTuple):
    """The last adversarial example found for each sample, at whatever point: inputs, and which samples have one."""

    x_adv: Tensor
    is_found: Tensor


@dataclass
class _Findings:
    """What has broken each sample on one network so far."""

    network: nn.Module
    x: Tensor
    y: Tensor
    norm: Norm

    def __post_init__(self) -> None:
        self.broken_by = np.full(len(self.x), ROBUST, dtype=object)
        self.distances = np.full(len(self.x), np.inf)

    def left(self) -> Tensor:
        """Return the samples that nothing has broken yet."""
        return torch.from_numpy(np.flatnonzero(self.broken_by == ROBUST)).to(self.y.device)

    def check(self, index: Tensor, x: Tensor, name: str) -> Tensor:
        """Note which of the samples ``index [M]`` are answered wrongly at ``x [M, ...]``; return that, ``[M]``."""
        fooled = ~is_correct(self.network, x, self.y[index], len(self.y)) if len(index) else index.bool()
        broken = index[fooled].cpu().numpy()
        self.broken_by[broken] = name
        self.distances[broken] = distance(self.x[index[fooled]], x[fooled], self.norm).cpu().numpy()
        return fooled


@dataclass
class Shard:
    """Some samples ``x [N, ...]``, with class indices ``y [N]``, that are attacked together.

    Every attack draws from the ``number`` of the shard, the ``seed`` of the options, and its own name.
    """

    x: Tensor
    y: Tensor
    number: int
    threat: ThreatModel
    options: EvaluationOptions
    clip_values: ClipValues | None
    results: dict[str, ShardResult] = field(default_factory=dict)
    examples: dict[str, Examples] = field(default_factory=dict)

    def attack(self, network: nn.Module, suite: str, attacks: Mapping[str, TensorAttack], tell: Tell) -> ShardResult:
        """Run every attack of a suite on what the ones before it left; what is robust in the end has met them all.

        Args:
            network: Gives scores ``[N, K]``, in evaluation mode.
            suite: Name of the suite; it tries the examples it found at other points first.
            attacks: Its attacks by name.
            tell: Is told of every attack.
        """
        started, notices = time.perf_counter(), list[str]()
        findings = _Findings(network, self.x, self.y, self.threat.norm)
        findings.check(findings.left(), self.x, WRONG)
        none = Examples(self.x.clone(), torch.zeros_like(self.y, dtype=torch.bool))
        examples = self.examples.setdefault(suite, none)
        if self.options.carries_examples:
            left = findings.left()
            tried = left[examples.is_found[left]]
            findings.check(tried, examples.x_adv[tried], CARRIED)
        for name, attack in attacks.items():
            index = findings.left()
            tell(Progress(f"{name} on {len(index)} of {len(self.x)}"))
            if len(index):
                x_adv = self._attacked(network, attack, index, f"{suite}/{name}", notices)
                fooled = findings.check(index, x_adv, name)
                examples.x_adv[index[fooled]], examples.is_found[index[fooled]] = x_adv[fooled], True
            tell(Progress(f"{name}: {len(findings.left())} of {len(self.x)} not broken", 1))
        seconds = time.perf_counter() - started
        broken_by, told = findings.broken_by.astype(np.str_), tuple(dict.fromkeys(notices))
        return ShardResult(broken_by, seconds, told, findings.distances)

    def _attacked(
        self, network: nn.Module, attack: TensorAttack, index: Tensor, name: str, notices: list[str]
    ) -> Tensor:
        if isinstance(attack, AutoAttack):
            attack = replace(attack, notify=notices.append)
        entropy = [self.options.seed, self.number, zlib.crc32(name.encode())]
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        checked = within_ball(attack, self.threat.eps, self.threat.norm)
        return checked(network, self.x[index], self.y[index], clip_values=self.clip_values, generator=generator)

    def read(self, path: Path) -> None:
        """Take in the results and the examples of an ``.npz`` file that :meth:`write` wrote, if it is there.

        Raises:
            ValueError: If the file is damaged, or does not hold one result for each of these very samples.
        """
        if not path.exists():
            return
        content = path.read_bytes()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                results, examples = self._taken({name: file[name] for name in file.files})
        except Exception as error:  # whatever zipfile, zlib and NumPy raise
            raise ValueError(
                f"state must hold whole files, but {path} is damaged. Delete it, and its samples are attacked again. "
                f"{one_line(error)}"
            ) from error
        self.results |= results
        self.examples |= examples

    def _taken(self, kept: dict[str, NDArray[Any]]) -> tuple[dict[str, ShardResult], dict[str, Examples]]:
        """Return what arrays hold, if it is of these samples.

        Raises:
            KeyError: If something is missing.
            ValueError: If something is of another form.
        """
        if str(kept["samples"]) != digest(self.x, self.y):
            raise ValueError("It is of other samples.")
        results, examples = {}, {}
        for key in kept["keys"].tolist():
            names = ("broken_by", "seconds", "notices", "distances")
            broken_by, seconds, notices, distances = (kept[f"{name}:{key}"] for name in names)
            if distances.dtype != np.float64 or distances.shape != (len(self.x),) or not bool((distances >= 0).all()):
                raise ValueError(f"{key} must hold {len(self.x)} distances, got {distances.dtype} {distances.shape}.")
            if broken_by.dtype.kind != "U" or broken_by.shape != (len(self.x),) or not 0 <= float(seconds) < math.inf:
                raise ValueError(f"{key} must hold {len(self.x)} results, got {broken_by.dtype} {broken_by.shape}.")
            results[key] = ShardResult(broken_by, float(seconds), tuple(notices.tolist()), distances)
        for suite in kept["suites"].tolist():
            x_adv, is_found = (torch.from_numpy(kept[f"{name}:{suite}"]) for name in ("x_adv", "is_found"))
            is_like_x = (x_adv.dtype, x_adv.shape) == (self.x.dtype, self.x.shape) and bool(x_adv.isfinite().all())
            if not is_like_x or (is_found.dtype, is_found.shape) != (torch.bool, self.y.shape):
                raise ValueError(f"{suite} must hold {len(self.x)} finite examples, got {x_adv.dtype} {x_adv.shape}.")
            examples[suite] = Examples(x_adv.to(self.x), is_found.to(self.x.device))
        return results, examples

    def write(self, path: Path) -> None:
        """Write the results and the examples, in place of an older file."""
        arrays: dict[str, Any] = {"keys": np.array([*self.results]), "suites": np.array([*self.examples])}
        arrays["samples"] = np.array(digest(self.x, self.y))
        for name, it in self.results.items():
            notices = np.array(it.notices, dtype=np.str_)
            arrays |= {f"broken_by:{name}": it.broken_by, f"seconds:{name}": it.seconds, f"notices:{name}": notices}
            arrays[f"distances:{name}"] = np.asarray(it.distances, np.float64)
        for name, examples in self.examples.items():
            arrays |= {f"x_adv:{name}": examples.x_adv.cpu(), f"is_found:{name}": examples.is_found.cpu()}
        with replaced(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)


def kept_examples(folder: Path, suite: str) -> Tensor:
    """Return what an evaluation kept of all samples, in their order ``[N, ...]``: as a suite left each, broken or not.

    Args:
        folder: The state of an evaluation that is done.
        suite: Name of the suite.
    """
    parts = []
    for path in sorted(folder.glob("shard-*.npz")):
        with np.load(path, allow_pickle=False) as file:
            parts.append(torch.from_numpy(file[f"x_adv:{suite}"]))
    return torch.cat(parts)
