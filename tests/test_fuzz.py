"""Random networks convert and train right, or are refused where they must be."""

import csv
from pathlib import Path

import pytest

from benchmarks.fuzz import NB_SEEDS, RESULTS
from tests.fuzz import COMMON, REFUSED, build, check

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("seed", range(40))
def test_a_random_network_is_converted_and_trained_right_or_refused(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 500))
def test_many_random_networks_are_converted_and_trained_right_or_refused(seed):
    check(seed)


def test_the_seeds_meet_every_kind_of_block():
    met = {type(block) for seed in range(150) for block in build(seed).blocks}
    assert met == {*COMMON, *REFUSED}


def test_a_seed_gives_one_network():
    first, second = (build(7).state_dict() for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_the_readme_gives_the_figures_of_the_study():
    lines = RESULTS.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# python -m benchmarks.fuzz;")
    counts = {row["outcome"]: int(row["networks"]) for row in csv.DictReader(lines[1:])}
    assert sum(counts.values()) == NB_SEEDS
    refused = sum(number for outcome, number in counts.items() if outcome.startswith("refused"))
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert f"Of {NB_SEEDS} random networks, {counts['right']} come out right and {refused} are refused" in text
    assert counts["right"] + refused == NB_SEEDS
