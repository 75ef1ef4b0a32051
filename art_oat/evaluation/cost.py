"""What a plain network costs, measured on this machine, and how costs are written for people."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from art_oat.checks import refuse
from art_oat.contexts import evaluating
from art_oat.numbers import count_faults, number_faults, plain

_MIN_ROUNDS = 5
_PREFIXES = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3}


@dataclass(frozen=True)
class Cost:
    """What one plain network costs.

    Attributes:
        macs: Multiply-accumulates of one sample, in convolutions and matrix products.
        parameters: How many numbers its parameters hold.
        latency: Seconds per batch; the median of several.
    """

    macs: int
    parameters: int
    latency: float


def measure_costs(
    networks: Mapping[float, nn.Module], input_shape: Sequence[int], *, batch_size: int = 1, seconds: float = 0.2
) -> dict[float, Cost]:
    """Count and time plain networks, in evaluation mode and without gradients; they are left as they were.

    Multiply-accumulates are half of what torch's ``FlopCounterMode`` counts: convolutions and matrix products, not
    recurrent layers and fused attention. Padding counts as input. The networks are timed in turns (A B C A B C ...),
    so that whatever else slows the machine slows all of them alike.

    Args:
        networks: By width, for instance; a network runs on the device and in the dtype of its first real parameter.
        input_shape: Shape of one sample.
        batch_size: How many samples the latency is that of.
        seconds: How long to time each network; above 0. Slow networks are timed five times nevertheless.

    Returns:
        A cost per network, under the same keys.

    Raises:
        TypeError: If ``batch_size`` or ``seconds`` is of another kind.
        ValueError: If either is not as above.
    """
    above_0 = number_faults({"seconds": seconds}, "be a number above 0", lambda it: it > 0)
    refuse([*count_faults({"batch_size": batch_size}), *above_0])
    batch_size, seconds = plain(batch_size), plain(seconds)
    with evaluating(*networks.values()), torch.no_grad():
        macs = {key: _count_macs(network, input_shape) for key, network in networks.items()}
        latencies = _time({key: (it, _batch(it, batch_size, input_shape)) for key, it in networks.items()}, seconds)
    sizes = {key: sum(it.numel() for it in network.parameters()) for key, network in networks.items()}
    return {key: Cost(macs[key], sizes[key], latencies[key]) for key in networks}


def _batch(network: nn.Module, size: int, input_shape: Sequence[int]) -> Tensor:
    """Return inputs of 0.5: what they hold changes neither the count nor the time."""
    real = next((it for it in network.parameters() if it.is_floating_point()), torch.empty(0))
    return real.new_full((size, *input_shape), 0.5)


def _count_macs(network: nn.Module, input_shape: Sequence[int]) -> int:
    with FlopCounterMode(display=False) as counter:
        network(_batch(network, 1, input_shape))
    return int(counter.get_total_flops()) // 2


def _time(subjects: Mapping[float, tuple[nn.Module, Tensor]], seconds: float) -> dict[float, float]:
    """Return the median seconds per pass of networks that take turns, after a pass each that does not count."""
    rounds: list[list[float]] = []
    for network, x in subjects.values():
        _seconds(network, x)
    end = time.perf_counter() + seconds * len(subjects)
    while len(rounds) < _MIN_ROUNDS or time.perf_counter() < end:
        rounds.append([_seconds(network, x) for network, x in subjects.values()])
    return {key: statistics.median(times) for key, times in zip(subjects, zip(*rounds, strict=True), strict=True)}


def _seconds(network: nn.Module, x: Tensor) -> float:
    _finish(x.device)
    started = time.perf_counter()
    network(x)
    _finish(x.device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    """Wait for what an accelerator still has to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def readable(values: Sequence[float | None], unit: str) -> list[str]:
    """Write numbers with three digits and one prefix for all, that of the largest: ``0.29 G``, ``1.16 G``.

    Args:
        values: At least 0; None for one that is not known, which is left empty.
        unit: Follows the prefix: ``"s"`` gives ``12 ms``, ``" MACs"`` gives ``0.29 G MACs``.
    """
    largest = max((value for value in values if value is not None), default=0)
    prefix = next((it for it, scale in _PREFIXES.items() if scale <= largest), "m" if largest else "")
    scaled = [None if value is None else float(f"{value / _PREFIXES[prefix]:.3g}") for value in values]
    written = [None if value is None else f"{value:g} {prefix}{unit}" for value in scaled]
    return ["" if text is None else " ".join(text.split()) for text in written]
