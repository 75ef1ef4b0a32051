"""Attacks that train and measure a network, on tensors; and attacks from outside, bound to operating points."""

from art_oat.attacks.bind import (
    Attack,
    BoundAttack,
    bind,
    borrowed_hosts,
    is_tensor_attack,
    radii_of,
    trial_faults,
)
from art_oat.attacks.metrics import distance, is_correct, robust_correct
from art_oat.attacks.pgd import NFGSM, PGD, Objective
from art_oat.attacks.protocol import ClipValues, Norm, TensorAttack
from art_oat.attacks.radius import Radius, check_radii, format_apart, format_eps, parse_eps
from art_oat.attacks.registry import attack_named
from art_oat.attacks.unit_images import UnitImages, unit_range_faults

__all__ = [
    "NFGSM",
    "PGD",
    "Attack",
    "BoundAttack",
    "ClipValues",
    "Norm",
    "Objective",
    "Radius",
    "TensorAttack",
    "UnitImages",
    "attack_named",
    "bind",
    "borrowed_hosts",
    "check_radii",
    "distance",
    "format_apart",
    "format_eps",
    "is_correct",
    "is_tensor_attack",
    "parse_eps",
    "radii_of",
    "robust_correct",
    "trial_faults",
    "unit_range_faults",
]
