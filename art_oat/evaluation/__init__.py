"""What a network keeps under attack, at every operating point."""

from art_oat.attacks.autoattack import AutoAttack, AutoAttackWarning
from art_oat.evaluation.calibration import Calibration
from art_oat.evaluation.displacement import Displacements
from art_oat.evaluation.evaluate import evaluate
from art_oat.evaluation.flatness import Flatness
from art_oat.evaluation.model_card import CardFacts, write_card
from art_oat.evaluation.options import EvaluationOptions, ThreatModel
from art_oat.evaluation.report import RobustnessReport
from art_oat.evaluation.security import SecurityCurve
from art_oat.evaluation.tradeoff import TradeoffCurve
from art_oat.evaluation.transferability import TransferMatrix

__all__ = [
    "AutoAttack",
    "AutoAttackWarning",
    "Calibration",
    "CardFacts",
    "Displacements",
    "EvaluationOptions",
    "Flatness",
    "RobustnessReport",
    "SecurityCurve",
    "ThreatModel",
    "TradeoffCurve",
    "TransferMatrix",
    "evaluate",
    "write_card",
]
