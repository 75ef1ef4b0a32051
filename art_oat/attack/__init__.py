"""Attacks that train and measure a network, on tensors; and attacks from outside, aimed at operating points."""

from art_oat.attack.aim import AimedAttack, Attack, aim, borrowed_hosts, is_tensor_attack, trial_faults
from art_oat.attack.named import attack_named
from art_oat.attack.outcome import distance, is_correct, withstand
from art_oat.attack.pgd import NFGSM, PGD, Objective
from art_oat.attack.protocol import ClipValues, Norm, TensorAttack
from art_oat.attack.unit_images import UnitImages, unit_range_faults

__all__ = [
    "NFGSM",
    "PGD",
    "AimedAttack",
    "Attack",
    "ClipValues",
    "Norm",
    "Objective",
    "TensorAttack",
    "UnitImages",
    "aim",
    "attack_named",
    "borrowed_hosts",
    "distance",
    "is_correct",
    "is_tensor_attack",
    "trial_faults",
    "unit_range_faults",
    "withstand",
]
