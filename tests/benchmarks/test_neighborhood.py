import pytest

from benchmarks.ablation import CONFIGS
from benchmarks.neighborhood import NEIGHBORS, verdict


@pytest.mark.parametrize(("low", "high", "expected"), [(1.01, 1.2, "better"), (0.8, 0.99, "worse")])
def test_a_verdict_needs_an_interval_that_leaves_no_difference_out(low, high, expected):
    assert verdict({"low": f"{low}", "high": f"{high}"}) == expected
    assert verdict({"low": "0.9", "high": "1.1"}) == "no difference shown"


@pytest.mark.parametrize("name", NEIGHBORS)
@pytest.mark.parametrize("data", CONFIGS)
def test_every_part_changes_a_recipe_that_there_is(name, data):
    assert NEIGHBORS[name].changed(CONFIGS[data].recipe, seed=1).seed == 1
