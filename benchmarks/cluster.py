"""A cluster on paper: how long its processes compute and communicate, from stated figures of hardware.

No figure here was measured by us. Where each is from is said beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

PER_NODE = 8
"""GPUs of a machine."""


@dataclass(frozen=True)
class Accelerator:
    """A GPU.

    Attributes:
        name: Of it.
        peak: FLOP/s of dense matrix products in bfloat16, as the vendor's data sheet has them.
        dollars: Lowest and highest price of an hour, as rented in 2025; a rough range, and no offer.
    """

    name: str
    peak: float
    dollars: tuple[float, float]


H100 = Accelerator("H100 SXM", 989.4e12, (2.0, 7.0))
A100 = Accelerator("A100 SXM", 312e12, (1.0, 4.0))
UTILIZATIONS = (0.08, 0.2, 0.35)
"""Shares of the peak that a training may reach: low, middle, high.

timm trains ConvNeXt-T by AMP at 819 images/s on an RTX 3090 (benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv), 0.31
of its 71e12 FLOP/s. That GPU computes 76 FLOPs in the time of a byte from memory, an H100 295: if memory limits
both, the H100 has 3.6 times the speed, 0.08 of its peak. The high share is that of well-tuned matrix products.
"""


class Protocol(NamedTuple):
    """One of the ways in which NCCL sums; latencies in seconds, of the tuning table of its source (tuning.cc)."""

    is_tree: bool
    share: float  # of the bandwidth
    start: float
    within: float  # for each step inside a machine
    between: float


PROTOCOLS = (
    Protocol(is_tree=False, share=1.0, start=8.4e-6, within=3.4e-6, between=14e-6),  # ring, Simple
    Protocol(is_tree=False, share=0.25, start=6.6e-6, within=0.6e-6, between=2.7e-6),  # ring, LL
    Protocol(is_tree=True, share=0.9, start=8.4e-6, within=4.0e-6, between=14e-6),  # tree, Simple
    Protocol(is_tree=True, share=0.25, start=6.8e-6, within=0.6e-6, between=5.0e-6),  # tree, LL
)


@dataclass(frozen=True)
class Fabric:
    """What connects GPUs.

    Attributes:
        name: Of it.
        within: Bytes/s that a GPU sends to others of its machine, while it receives as many.
        between: Bytes/s that a whole machine sends to others, likewise.
    """

    name: str
    within: float
    between: float

    def seconds(self, nb_bytes: float, nb: int) -> float:
        """Return how long ``nb`` processes take to sum so many bytes each, by the best of NCCL's protocols.

        A ring moves ``2 (n - 1) / n`` times the bytes through each link in ``2 (n - 1)`` steps, of which
        ``2 (machines - 1)`` go between machines. A tree moves 2 times the bytes, in
        ``2 (GPUs of a machine - 1 + log2(machines))`` steps.
        """
        if nb == 1:
            return 0.0
        nb_nodes = math.ceil(nb / PER_NODE)
        bandwidth = self.within if nb_nodes == 1 else min(self.within, self.between)
        return min(_seconds(protocol, nb_bytes / bandwidth, nb, nb_nodes) for protocol in PROTOCOLS)


def _seconds(protocol: Protocol, once: float, nb: int, nb_nodes: int) -> float:
    between = 2 * math.log2(nb_nodes) if protocol.is_tree else 2 * (nb_nodes - 1)
    within = 2 * (nb / nb_nodes - 1) if protocol.is_tree else 2 * (nb - 1) - between
    moved = 2.0 if protocol.is_tree else 2 * (nb - 1) / nb
    return protocol.start + within * protocol.within + between * protocol.between + moved * once / protocol.share


INFINIBAND = Fabric("8 x 400 Gb/s", within=0.8 * 450e9, between=0.9 * 8 * 50e9)
"""Of a DGX H100: NVLink 4 with 450 GB/s in each direction, and a 400 Gb/s adapter for each GPU (data sheet).

The shares that remain of it, 0.8 and 0.9, are what tests of NCCL report for large messages.
"""
ETHERNET = Fabric("1 x 100 Gb/s", within=0.8 * 450e9, between=0.9 * 12.5e9)
"""The same machines with a single adapter of 100 Gb/s each."""
FABRICS = (INFINIBAND, ETHERNET)

CALL = 5e-6
"""Seconds of the processor for a call of torch, not compiled: at the lower end of the 5 to 25 that are reported."""
HOST_LINK = 50e9
"""Bytes/s from the memory of a machine to each of its GPUs: of the 64e9 of PCIe 5 x16, what pinned memory reaches."""
