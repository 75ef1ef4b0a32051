"""Attacks that train and measure a network, on tensors; and attacks from outside, aimed at operating points."""

from art_oat.attack.aim import AimedAttack, Attack, aim, is_tensor_attack, radii_of
from art_oat.attack.named import attack_named
from art_oat.attack.outcome import distance, is_correct, withstand
from art_oat.attack.pgd import NFGSM, PGD, Objective
from art_oat.attack.protocol import ClipValues, Norm, TensorAttack
from art_oat.attack.radius import Radius, check_radii, format_apart, format_eps, parse_eps
from art_oat.attack.unit_range import UnitRange, unit_range_faults

__all__ = [
    "NFGSM",
    "PGD",
    "AimedAttack",
    "Attack",
    "ClipValues",
    "Norm",
    "Objective",
    "Radius",
    "TensorAttack",
    "UnitRange",
    "aim",
    "attack_named",
    "check_radii",
    "distance",
    "format_apart",
    "format_eps",
    "is_correct",
    "is_tensor_attack",
    "parse_eps",
    "radii_of",
    "unit_range_faults",
    "withstand",
]
