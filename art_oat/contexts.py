"""What is changed for a while and comes back: evaluation mode, torch's global generators, and the arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Set networks to evaluation mode within the block, and every part of them back to its own mode after it."""
    modes = {module: module.training for network in networks for module in network.modules()}
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the tensors, without a graph, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


_CPU = torch.device("cpu")


@contextmanager
def borrowed_generators(device: torch.device = _CPU, seed: int | None = None) -> Iterator[None]:
    """Restore the global generators of the CPU and of ``device`` after the block; others are never touched.

    Args:
        device: Where the block computes.
        seed: What both are seeded with first; None leaves that to the block.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
            for own in devices:
                with torch.cuda.device(own):
                    torch.cuda.manual_seed(seed)
        yield
