"""Attacks that train and measure a network, on tensors; and attacks from outside, aimed at operating points."""

from art_oat.attack.aim import AimedAttack, Attack, aim, is_tensor_attack
from art_oat.attack.named import attack_named
from art_oat.attack.outcome import distance, is_correct, withstand
from art_oat.attack.pgd import NFGSM, PGD, Objective
from art_oat.attack.protocol import ClipValues, Norm, TensorAttack
from art_oat.attack.unit_range import UnitRange, unit_range_faults

__all__ = [
    "NFGSM",
    "PGD",
    "AimedAttack",
    "Attack",
    "ClipValues",
    "Norm",
    "Objective",
    "TensorAttack",
    "UnitRange",
    "aim",
    "attack_named",
    "distance",
    "is_correct",
    "is_tensor_attack",
    "unit_range_faults",
    "withstand",
]
