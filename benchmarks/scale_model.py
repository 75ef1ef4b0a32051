"""Steps of a training over processes, on paper: from measured FLOPs and messages, on the machines of ``cluster.py``."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

import torch

from art_oat import StratifiedSampling
from art_oat.layers import DEFAULT_LAMBDAS
from benchmarks.cluster import CALL, HOST_LINK, Accelerator, Fabric
from benchmarks.exchange import Message

NB_DRAWS = 100


@dataclass(frozen=True)
class Work:
    """What a step computes.

    Attributes:
        clean: FLOPs of a clean sample, forward and back.
        attacked: FLOPs of an attacked one on top of that: its attack, and forward and back after it.
        nb_calls: Calls of torch in a step that compute tensors.
        image: Bytes of a sample.
    """

    clean: float
    attacked: float
    nb_calls: int
    image: int

    def flops(self, nb_samples: float, nb_attacked: float) -> float:
        return nb_samples * self.clean + nb_attacked * self.attacked


@dataclass(frozen=True)
class Times:
    """Seconds of a step, and what they go to.

    Attributes:
        even: Arithmetic, were it shared out evenly.
        calls: How much longer the processor takes to call it, if it does.
        uneven: How much longer the process takes that has the most attacked samples.
        sending: Exchanges between processes.
        loading: Samples on their way to the GPU.
        backward: Of the last pass backward, with which DistributedDataParallel could send.
    """

    even: float
    calls: float
    uneven: float
    sending: float
    loading: float
    backward: float

    @property
    def total(self) -> float:
        return self.even + self.calls + self.uneven + self.sending + self.loading

    @property
    def overlapped(self) -> float:
        """The least that could be, were gradients sent while the last pass backward computes the others."""
        return self.total - min(self.sending, self.backward)

    def most_lost_to(self, ideal: Times, share: float) -> str:
        """Return what takes most beyond a share of other times."""
        names = {"uneven shares": "uneven", "calls": "calls", "sending": "sending", "loading": "loading"}
        lost = {name: getattr(self, part) - share * getattr(ideal, part) for name, part in names.items()}
        return max(lost, key=lambda name: lost[name])


@dataclass(frozen=True)
class Cluster:
    """What a training runs on.

    Attributes:
        accelerator: Each GPU.
        utilization: Share of its peak that is reached.
        fabric: What connects them.
        has_own_samples: Whether a process loads its samples alone, and not the batch of all.
    """

    accelerator: Accelerator
    utilization: float
    fabric: Fabric
    has_own_samples: bool

    def times(self, work: Work, messages: Counter[Message], joint: int, nb: int) -> Times:
        """Return what a step on a batch of ``joint`` samples takes on ``nb`` GPUs."""
        rate = self.accelerator.peak * self.utilization
        own, attacked = math.ceil(joint / nb), nb_attacked(joint)
        even = work.flops(joint, attacked) / nb / rate
        called = max(even, work.nb_calls * CALL)
        most = work.flops(own, most_attacked(joint, nb, at_random=self.has_own_samples)) / rate
        return Times(
            even=even,
            calls=called - even,
            uneven=max(most - called, 0.0),
            sending=sum(count * self._seconds(message, nb) for message, count in messages.items()),
            loading=(own if self.has_own_samples else joint) * work.image / HOST_LINK,
            backward=2 / 3 * work.clean * attacked / nb / rate,
        )

    def _seconds(self, message: Message, nb: int) -> float:
        """Gathering objects takes two exchanges, of sizes and of what is in them, and a call for each to unpack it."""
        if message.function == "all_reduce":
            return self.fabric.seconds(message.nb_bytes, nb)
        return self.fabric.seconds(8 * nb, nb) + self.fabric.seconds(message.nb_bytes * nb, nb) + nb * CALL


def nb_attacked(joint: int) -> int:
    """Return how many samples of a batch have a lam above 0."""
    return joint - math.ceil(joint / len(DEFAULT_LAMBDAS))


@cache
def most_attacked(joint: int, nb: int, *, at_random: bool) -> float:
    """Return how many attacked samples the process has that has the most.

    Dealt in turns, as the library does with a batch that every process has, the numbers differ by one at most. Where
    each process loads samples of its own, lams are drawn for all of them together, and the numbers are random: then it
    is the mean of the largest, over draws.
    """
    lam = StratifiedSampling().draw(DEFAULT_LAMBDAS, joint, torch.Generator().manual_seed(0))
    if not at_random:
        return float(max(int((lam[rank::nb] > 0).sum()) for rank in range(nb)))
    generator = torch.Generator().manual_seed(0)
    draws = [lam[torch.randperm(joint, generator=generator)] for _ in range(NB_DRAWS)]
    return sum(float(torch.stack([(it[rank::nb] > 0).sum() for rank in range(nb)]).max()) for it in draws) / NB_DRAWS
