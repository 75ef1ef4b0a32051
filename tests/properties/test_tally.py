"""How much the properties try, all entries together."""

from tests.properties import (  # noqa: F401 - each counts its entries
    test_classifier,
    test_evaluation,
    test_files,
    test_frontier,
    test_model,
    test_numbers,
    test_training,
    test_transfer,
)
from tests.properties.entry import NB_CASES, OPEN


def test_at_least_2000_cases_are_tried():
    assert sum(nb_cases for name, nb_cases in NB_CASES.items() if name not in OPEN) >= 2000
