import subprocess
import sys
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


@pytest.mark.slow
def test_the_study_runs_from_training_to_comparison():
    command = [sys.executable, "-m", "benchmarks.tradeoff", "--data", "digits", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "lam-0.4" in done.stdout
