"""Measured points of one network: what they reach and cost, and the choice among them."""

from art_oat.frontier.frontier import Frontier
from art_oat.frontier.point import MeasuredPoint
from art_oat.frontier.policy import AdaptivePolicy

__all__ = ["AdaptivePolicy", "Frontier", "MeasuredPoint"]
