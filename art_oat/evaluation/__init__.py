"""Measures what a network keeps under attack, at every operating point."""

from art_oat.evaluation.evaluation import evaluate
from art_oat.evaluation.robustness import AutoAttack, AutoAttackWarning
from art_oat.evaluation.robustness_report import RobustnessReport
from art_oat.evaluation.tradeoff import TradeoffCurve
from art_oat.evaluation.transfer import TransferMatrix

__all__ = [
    "AutoAttack",
    "AutoAttackWarning",
    "RobustnessReport",
    "TradeoffCurve",
    "TransferMatrix",
    "evaluate",
]
