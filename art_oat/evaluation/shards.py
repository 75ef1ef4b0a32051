"""Owns the judging of a fixed shard of samples, point after point, and what is kept of it on disk."""

from __future__ import annotations

import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from art_oat.attacks import ClipValues, Norm, TensorAttack, is_correct
from art_oat.attacks.autoattack import AutoAttack, within_ball
from art_oat.storage import replaced

STANDS = ""
"""What broke a sample that stands."""
WRONG = "no attack"
"""What broke a sample that is answered wrongly as it is."""
CARRIED = "carried"
"""What broke a sample that an example found at another point breaks."""

Tell: TypeAlias = Callable[[str, int], None]
"""Is told what is going on, and how many stages have ended since it was last told."""


@dataclass(frozen=True)
class Verdict:
    """What one engine found at one point, on some samples.

    Attributes:
        broken_by: What broke each sample first, ``[N]``: a stage's name, ``WRONG``, ``CARRIED``, or ``STANDS``.
        seconds: How long it took.
        notices: What AutoAttack warned of.
    """

    broken_by: NDArray[np.str_]
    seconds: float
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """What holds for all attacks of an evaluation.

    Attributes:
        eps: Radius of the ball, in units of ``x``.
        norm: Its norm.
        clip_values: Smallest and largest value of an input, or None.
        seed: What every attack is drawn from, together with its name and the shard.
        carries_examples: Whether examples found at one point are tried first at the next.
    """

    eps: float
    norm: Norm
    clip_values: ClipValues | None
    seed: int
    carries_examples: bool


@dataclass
class Examples:
    """The last adversarial example found for each sample, at whatever point.

    Attributes:
        x_adv: Inputs, ``[N, ...]``; of samples without an example anything.
        is_found: Which samples have one, ``[N]``.
    """

    x_adv: Tensor
    is_found: Tensor

    @classmethod
    def none_of(cls, x: Tensor) -> Examples:
        """Return what is known before the first attack."""
        return cls(x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device))

    def add(self, index: Tensor, x_adv: Tensor) -> None:
        """Take in examples ``[M, ...]`` of the samples ``index [M]``."""
        self.x_adv[index] = x_adv
        self.is_found[index] = True


class Shard:
    """Some samples that are judged together.

    Args:
        x: Inputs, ``[N, ...]``.
        y: Class indices, ``[N]``.
        number: Tells the shard from others; every attack is drawn from it.
        rules: What holds for all attacks.
    """

    def __init__(self, x: Tensor, y: Tensor, number: int, rules: Rules) -> None:
        self.x = x
        self.y = y
        self.number = number
        self.rules = rules
        self.examples: dict[str, Examples] = {}

    def judge(self, network: nn.Module, engine: str, stages: Mapping[str, TensorAttack], tell: Tell) -> Verdict:
        """Run every stage of an engine on what still stands.

        Whatever stands in the end was attacked by every stage, on this network.

        Args:
            network: Gives scores ``[N, K]``, in evaluation mode.
            engine: Its name; examples are carried from one of its judgments to the next.
            stages: Its attacks by name.
            tell: Is told of every stage.
        """
        started = time.perf_counter()
        notices: list[str] = []
        broken_by = np.full(len(self.x), STANDS, dtype=object)
        standing = is_correct(network, self.x, self.y, len(self.x))
        broken_by[(~standing).cpu().numpy()] = WRONG
        if engine not in self.examples:
            self.examples[engine] = Examples.none_of(self.x)
        examples = self.examples[engine]
        if self.rules.carries_examples:
            tried = (standing & examples.is_found).nonzero().flatten()
            self._note(network, tried, examples.x_adv[tried], standing, broken_by, CARRIED)
        for name, attack in stages.items():
            index = standing.nonzero().flatten()
            tell(f"{name} on {len(index)} of {len(self.x)}", 0)
            if len(index):
                x_adv = self._attacked(network, attack, index, f"{engine}/{name}", notices)
                fooled = self._note(network, index, x_adv, standing, broken_by, name)
                examples.add(index[fooled], x_adv[fooled])
            tell(f"{name}: {int(standing.sum())} of {len(self.x)} stand", 1)
        return Verdict(broken_by.astype(np.str_), time.perf_counter() - started, tuple(dict.fromkeys(notices)))

    def _attacked(
        self, network: nn.Module, attack: TensorAttack, index: Tensor, name: str, notices: list[str]
    ) -> Tensor:
        rules = self.rules
        if isinstance(attack, AutoAttack):
            attack = replace(attack, notify=notices.append)
        seed = np.random.SeedSequence([rules.seed, self.number, zlib.crc32(name.encode())]).generate_state(1)
        generator = torch.Generator().manual_seed(int(seed[0]))
        checked = within_ball(attack, rules.eps, rules.norm)
        return checked(network, self.x[index], self.y[index], clip_values=rules.clip_values, generator=generator)

    def _note(
        self, network: nn.Module, index: Tensor, x_adv: Tensor, standing: Tensor, broken_by: NDArray[Any], name: str
    ) -> Tensor:
        """Write down which of the samples ``index [M]`` fall; return that, ``[M]``."""
        fooled = ~is_correct(network, x_adv, self.y[index], len(self.x)) if len(index) else index.bool()
        standing[index[fooled]] = False
        broken_by[index[fooled].cpu().numpy()] = name
        return fooled


@dataclass
class ShardFile:
    """Verdicts on a shard, and the examples found on the way; on disk as soon as there is something new.

    Args:
        path: An ``.npz`` file, read if it is there; None to keep nothing.
        verdicts: What was found, by a key each.
    """

    path: Path | None
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def read(self, shard: Shard) -> None:
        """Take in what is on disk: the verdicts here, the examples into the shard.

        Raises:
            ValueError: If the file is damaged.
        """
        if self.path is None or not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as file:
                kept = {name: file[name] for name in file.files}
            self._take(kept, shard)
        except OSError:  # it may be whole, and not readable now
            raise
        except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"state must hold whole files, but {self.path} is damaged. Delete it, and its samples are judged anew."
            ) from error

    def _take(self, kept: dict[str, NDArray[Any]], shard: Shard) -> None:
        for key in kept.pop("keys").tolist():
            broken_by, seconds, notices = (kept[f"{name}:{key}"] for name in ("broken_by", "seconds", "notices"))
            self.verdicts[key] = Verdict(broken_by, float(seconds), tuple(notices.tolist()))
        for engine in kept.pop("engines").tolist():
            x_adv, is_found = (torch.from_numpy(kept[f"{name}:{engine}"]) for name in ("x_adv", "is_found"))
            shard.examples[engine] = Examples(x_adv.to(shard.x), is_found.to(shard.x.device))

    def add(self, key: str, verdict: Verdict, shard: Shard) -> None:
        """Keep one more verdict."""
        self.verdicts[key] = verdict
        if self.path is None:
            return
        arrays: dict[str, Any] = {"keys": np.array([*self.verdicts]), "engines": np.array([*shard.examples])}
        for name, it in self.verdicts.items():
            notices = np.array(it.notices, dtype=np.str_)
            arrays |= {f"broken_by:{name}": it.broken_by, f"seconds:{name}": it.seconds, f"notices:{name}": notices}
        for name, examples in shard.examples.items():
            arrays |= {f"x_adv:{name}": examples.x_adv.cpu(), f"is_found:{name}": examples.is_found.cpu()}
        with replaced(self.path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
