"""The study of transfer: its tasks, its differences, and what the page of results says of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from art_oat.storage import read_rows
from benchmarks.tables import RESULTS
from benchmarks.transfer import outcomes
from benchmarks.transfer_tables import PROTOCOLS, Outcome, Study, best_lams, compared, interval, mean
from benchmarks.transfer_tasks import Split, colored, every_digit, few

RESULTS_PAGE = Path(__file__).parents[2] / "docs" / "results.md"


def test_no_image_is_in_two_parts_and_every_class_trains_in_its_share():
    every = every_digit()
    target = few(every, 200, 100, seed=3)
    parts = [{image.tobytes() for image in part.x} for part in target.data]
    assert [len(part.x) for part in target.data] == [200, 100, len(every.x) - 300]
    assert len(set.union(*parts)) == len({image.tobytes() for image in every.x})  # none in two parts
    assert set(np.bincount(target.data.train.y)) <= {19, 20, 21}
    np.testing.assert_array_equal(every.x[target.index], target.data.test.x)


def test_a_digit_in_color_is_dark_where_it_was_black_and_light_where_it_was_white():
    flat = np.concatenate([np.zeros((3, 1, 8, 8)), np.ones((3, 1, 8, 8))]).astype(np.float32)
    x = colored(Split(flat, np.arange(6))).x
    assert x.shape == (6, 3, 32, 32)
    assert x[:3].max() <= 0.4
    assert x[3:].min() >= 0.6
    assert len(np.unique(x[:, :, 0, 0])) == 18  # every image has colors of its own
    between = colored(Split(flat[:1] + 0.25, np.zeros(1))).x
    ground, figure = (colored(Split(flat[:1] + value, np.zeros(1))).x for value in (0.0, 1.0))
    np.testing.assert_allclose(between, ground + 0.25 * (figure - ground), rtol=1e-5)


def outcome(clean: list[float], validation: float, robust: list[float] | None = None) -> Outcome:
    """Accuracy on validation images, and a much lower one there under attack."""
    return Outcome(np.array(clean), np.array(robust or clean[:2]), 0.1, validation, 0.1 - validation / 10, 0.5, 1.0)


GOOD, BAD = outcome([1, 1, 1, 0], 0.4), outcome([1, 0, 0, 0], 0.9)


@pytest.mark.slow(seconds=1)
def test_the_lam_is_chosen_on_validation_images_and_differences_are_in_points_of_the_test_images():
    found = {(protocol, kind): {0.0: [[GOOD]]} for protocol in PROTOCOLS for kind in ("natural", "scratch")}
    for protocol in PROTOCOLS:
        found[protocol, "oat"] = {0.0: [[GOOD]], 1.0: [[BAD]]}  # better on validation images alone, and not attacked
    study = Study(found, [[np.arange(4)]])
    rows = {(row["protocol"], row["judge"], row["lam"], row["against"]): row for row in compared(study)}
    row = rows["full-network", "clean", "chosen", "natural"]
    assert (row["lams chosen"], row["value"]) == ("1", "-50.00")
    assert rows["full-network", "autoattack", "chosen", "natural"]["lams chosen"] == "0"
    assert rows["full-network", "autoattack", "1", "lam 0"]["value"] == "-50.00"
    assert rows["fixed-feature", "clean", "0", "scratch"]["value"] == "+0.00"
    assert ("fixed-feature", "clean", "0", "lam 0") not in rows


def test_every_seed_and_draw_chooses_a_lam_of_its_own_and_of_equal_ones_the_smallest():
    by_lam = {0.0: [[GOOD, BAD], [GOOD, GOOD]], 1.0: [[BAD, GOOD], [GOOD, BAD]]}
    assert best_lams(by_lam, "clean") == [[1.0, 0.0], [0.0, 1.0]]


def test_answers_lie_where_their_images_are():
    study = Study({}, [[np.array([2, 0]), np.array([1, 3])]])
    found = study.answers([[outcome([1, 0], 0.5), outcome([0, 1], 0.5, [1])]], "clean")
    np.testing.assert_array_equal(found, [[[0, np.nan, 1, np.nan], [np.nan, 0, np.nan, 1]]])
    found = study.answers([[outcome([1, 0], 0.5, [1]), outcome([0, 1], 0.5, [1])]], "autoattack")
    np.testing.assert_array_equal(found, [[[np.nan, np.nan, 1, np.nan], [np.nan, 1, np.nan, np.nan]]])


def test_seeds_count_alike_whatever_their_images():
    some = np.array([0.0, np.nan, np.nan])
    values = [[some, 1 - some], [np.ones(3), np.array([1.0, 1.0, np.nan])]]
    assert mean(values) == pytest.approx((0.5 + 1) / 2)


@pytest.mark.parametrize("nb_draws", [1, 6])
def test_an_image_that_several_draws_ask_is_one_image(nb_draws):
    answers = (np.random.default_rng(0).random(400) < 0.3).astype(float)
    low, high = interval([[answers] * nb_draws] * 2)
    # of a share of n images, by the normal approximation; the percentiles of 1,000 resamples vary by some 4%
    assert high - low == pytest.approx(2 * 1.96 * answers.std() / 400**0.5, rel=0.12)


def test_an_interval_gets_narrower_with_images_of_other_draws():
    answers = (np.random.default_rng(0).random(400) < 0.3).astype(float)
    first, second = answers.copy(), answers.copy()
    first[200:], second[:200] = np.nan, np.nan
    low, high = interval([[first, second]])
    assert high - low == pytest.approx(2 * 1.96 * answers.std() / 400**0.5, rel=0.12)


def test_outcomes_come_back_from_their_file_and_those_of_other_settings_are_refused(tmp_path):
    path = tmp_path / "outcome.json"
    for make in (GOOD, BAD):
        (found,) = outcomes(path, {"eps": 1}, lambda make=make: [make])
        np.testing.assert_array_equal(found.right, GOOD.right)
    with pytest.raises(ValueError, match="must hold what the same settings give"):
        outcomes(path, {"eps": 2}, lambda: [BAD])


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_the_page_of_results_says_what_was_measured(data):
    """Each difference in the page's table is one of the kept results."""
    section = RESULTS_PAGE.read_text(encoding="utf-8").partition("## Transfer")[2].partition("\n## ")[0]
    lines = re.findall(rf"^\| {data}, (.*)\|$", section, flags=re.MULTILINE)
    assert len(lines) == 4
    kept_rows = read_rows(RESULTS / f"transfer_{data}_summary.csv")
    kept_by = {(row["protocol"], row["judge"], row["lam"], row["against"]): row for row in kept_rows}
    for line in lines:
        name, lam, *cells = (cell.strip() for cell in line.split("|"))
        protocol, judge = name.lower().split(", ")
        for against, cell in zip(("lam 0", "natural", "scratch"), cells, strict=False):
            row = kept_by[protocol, judge, lam, against]
            value, low, high = (f"{float(row[column]):+.1f}" for column in ("value", "low", "high"))
            assert cell == f"{value} [{low}, {high}]"
