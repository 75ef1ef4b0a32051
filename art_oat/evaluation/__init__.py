"""Measures what a network keeps under attack, at every operating point."""

from art_oat.evaluation.robustness import AutoAttack
from art_oat.evaluation.tradeoff import TradeoffCurve

__all__ = ["AutoAttack", "TradeoffCurve"]
