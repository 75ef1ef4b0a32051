"""Conversion, pinning and folding keep every answer of networks that this project did not write."""

import pytest

from tests.surgery.test_any_network import ROUNDING
from tests.zoo import QUICK, examine


@pytest.mark.parametrize("family", QUICK, ids=lambda family: family.constructor)
def test_every_form_of_a_network_from_a_zoo_answers_alike(family):
    outcome = examine(family)
    # attention and products of features pass rounding on enlarged
    assert outcome.worst < 100 * ROUNDING
    assert outcome.nb_norms > 10


def test_the_families_are_at_least_25():
    assert len({family.module for family in QUICK}) >= 25
