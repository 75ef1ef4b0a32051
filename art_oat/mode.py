"""Owns evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
