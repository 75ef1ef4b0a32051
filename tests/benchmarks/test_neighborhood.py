import numpy as np
import pytest

from benchmarks.ablation import CONFIGS
from benchmarks.frontiers import Arm
from benchmarks.neighborhood import JUDGED, NEIGHBORS, found_by_seeds, verdict


@pytest.mark.parametrize(("low", "high", "expected"), [(1.01, 1.2, "better"), (0.8, 0.99, "worse")])
def test_a_verdict_needs_an_interval_that_leaves_no_difference_out(low, high, expected):
    assert verdict({"low": f"{low}", "high": f"{high}"}) == expected
    assert verdict({"low": "0.9", "high": "1.1"}) == "no difference shown"


@pytest.mark.parametrize("name", NEIGHBORS)
@pytest.mark.parametrize("data", CONFIGS)
def test_every_part_changes_a_recipe_that_there_is(name, data):
    assert NEIGHBORS[name].changed(CONFIGS[data].recipe, seed=1).seed == 1


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(("name", "nb_right", "expected"), [("regional", 0, 1), ("regional", 100, 3), ("n-fgsm", 0, 3)])
def test_a_part_that_is_worse_on_the_first_seed_gets_no_other_unless_it_is_a_rival(name, nb_right, expected):
    def judged(part, seeds):
        right = np.zeros((2, 3, len(seeds), 200))
        right[..., : 100 if part == "oat" else nb_right] = 1
        return Arm(part, JUDGED, right, 1.0, "processor", 4, "")

    assert found_by_seeds(name, (0, 1, 2), judged)["nb_seeds"] == expected
