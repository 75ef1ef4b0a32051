from pathlib import Path

import pytest

from benchmarks import tradeoff
from benchmarks.tradeoff import Claim

ROOT = Path(__file__).parents[2]


def test_a_claim_that_the_figures_do_not_bear_out_fails():
    assert Claim("a", low=1).is_kept({"a": 1.0})
    assert not Claim("a", low=1).is_kept({"a": 0.9})
    assert not Claim("a", high=1).is_kept({"a": 1.1})


@pytest.mark.parametrize(("data", "name"), tradeoff.CLAIMS)
def test_the_readme_says_what_was_measured(data, name):
    assert tradeoff.check(data, name)
