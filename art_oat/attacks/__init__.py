"""Attacks that train and evaluate a network, and attacks of other libraries, bound to operating points."""

from art_oat.attacks.bind import (
    BoundAttack,
    bind,
    borrowed_hosts,
    compile_faults,
    is_tensor_attack,
    scaling_faults,
    trial_faults,
)
from art_oat.attacks.by_lam import ByLam
from art_oat.attacks.ddn import DDN
from art_oat.attacks.fmn import FMN
from art_oat.attacks.library import radii_of
from art_oat.attacks.metrics import distance, is_correct, robust_correct, within_ball
from art_oat.attacks.pgd import NFGSM, PGD
from art_oat.attacks.protocol import Attack, ClipValues, Norm, Objective, ScalableAttack, TensorAttack
from art_oat.attacks.radius import Radius, ball_faults, check_radii, format_apart, format_eps, parse_eps
from art_oat.attacks.radius_search import RadiusSearch
from art_oat.attacks.registry import AttackKind, AttackSpec, attack_named, display_name, register
from art_oat.attacks.unit_images import UnitImages, unit_range_faults
from art_oat.draws import Rows, draw, drawing_for

__all__ = [
    "DDN",
    "FMN",
    "NFGSM",
    "PGD",
    "Attack",
    "AttackKind",
    "AttackSpec",
    "BoundAttack",
    "ByLam",
    "ClipValues",
    "Norm",
    "Objective",
    "Radius",
    "RadiusSearch",
    "Rows",
    "ScalableAttack",
    "TensorAttack",
    "UnitImages",
    "attack_named",
    "ball_faults",
    "bind",
    "borrowed_hosts",
    "check_radii",
    "compile_faults",
    "display_name",
    "distance",
    "draw",
    "drawing_for",
    "format_apart",
    "format_eps",
    "is_correct",
    "is_tensor_attack",
    "parse_eps",
    "radii_of",
    "register",
    "robust_correct",
    "scaling_faults",
    "trial_faults",
    "unit_range_faults",
    "within_ball",
]
