"""Conversion, pinning, folding and slimming keep every answer of networks that this project did not write."""

import pytest

from tests.compat.zoo import NOT_SLIMMABLE, QUICK, SLOW, examine
from tests.surgery.test_any_network import ROUNDING

# the same is shown in a moment by the other families and by the networks of test_foreign.py
TAKE_SECONDS = (
    "dicenet_wd5", "enet_cityscapes", "erfnet_cityscapes", "igcv3_wd4", "menet108_8x1_g3", "mobilenetv2_wd4",
    "peleenet", "regnetx002", "resneta10", "ror3_56_cifar10", "sparsenet121", "sqnxt23_w1",
)  # fmt: skip
FAMILIES = [
    pytest.param(family, marks=[pytest.mark.slow] if family.constructor in TAKE_SECONDS else []) for family in QUICK
]


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.constructor)
def test_every_form_of_a_network_from_a_zoo_answers_alike_and_is_slimmed_unless_it_is_known_why_not(family):
    outcome = examine(family)
    # attention and products of features pass rounding on enlarged
    assert outcome.worst < 100 * ROUNDING
    assert outcome.nb_norms > 10
    assert outcome.refusal.startswith("cannot slim") == (family.module in NOT_SLIMMABLE)
    assert (outcome.slimmed is None) == (family.module in NOT_SLIMMABLE)


def test_the_families_are_at_least_25():
    assert len({family.module for family in QUICK}) >= 25
    assert {*TAKE_SECONDS} <= {family.constructor for family in QUICK}


def test_whatever_is_known_not_to_be_slimmable_is_in_the_zoo():
    assert NOT_SLIMMABLE.keys() <= {family.module for family in (*QUICK, *SLOW)}
