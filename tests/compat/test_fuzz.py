"""Random networks convert and train right, or are refused where they must be."""

from pathlib import Path

import pytest

from art_oat.storage import read_rows
from tests.compat.__main__ import RESULTS
from tests.compat.fuzz import COMMON, LAST, NB_SEEDS, build, check

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("seed", range(40))
def test_a_random_network_is_converted_and_trained_right_or_refused(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, NB_SEEDS))
def test_many_random_networks_are_converted_and_trained_right_or_refused(seed):
    check(seed)


def test_the_seeds_meet_every_kind_of_block():
    met = {type(block) for seed in range(150) for block in build(seed).blocks}
    assert met == {*COMMON, *LAST}


def test_a_seed_gives_one_network():
    first, second = (build(7).state_dict() for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_the_guide_gives_the_figures_of_the_study():
    rows = read_rows(RESULTS / "fuzz.csv")
    assert rows[0]["made by"].startswith("python -m tests.compat fuzz;")
    counts = {row["outcome"]: int(row["networks"]) for row in rows}
    assert sum(counts.values()) == NB_SEEDS
    refused = sum(number for outcome, number in counts.items() if outcome.startswith("refused"))
    text = " ".join(GUIDE.read_text(encoding="utf-8").split())
    assert f"Of {NB_SEEDS} random networks, {counts['right']} come out right and {refused} are refused" in text
    assert counts["right"] + refused == NB_SEEDS
