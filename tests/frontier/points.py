"""Measured points to choose among."""

import dataclasses

from art_oat import Frontier
from art_oat.frontier import MeasuredPoint


def point(lam: float, clean: float, robust: float, width: float = 1.0) -> MeasuredPoint:
    return MeasuredPoint(lam, width, clean, robust, 400, 100, {"pgd-20": min(robust + 0.1, 1), "autoattack": robust})


def costly(lam: float, clean: float, robust: float, width: float) -> MeasuredPoint:
    """A point whose costs fall with the square of its width, to a million MACs and 10 ms at width 1."""
    costs = {"macs": round(1e6 * width**2), "parameters": round(1e3 * width**2), "latency": 0.01 * width**2}
    return dataclasses.replace(point(lam, clean, robust, width), **costs)


SLIM = Frontier(
    (costly(0, 0.8, 0.2, 0.5), costly(1, 0.7, 0.4, 0.5), costly(0, 0.9, 0.3, 1.0), costly(1, 0.75, 0.6, 1.0))
)
