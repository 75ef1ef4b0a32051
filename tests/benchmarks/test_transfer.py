"""The study of transfer: its tasks, its differences, and what the README says of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.record import RESULTS, read
from benchmarks.transfer import (
    PROTOCOLS,
    Outcome,
    Split,
    best_lams,
    colored,
    compared,
    every_digit,
    few,
    interval,
    kept,
    mean,
)

README = Path(__file__).parents[2] / "README.md"


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


def outcome(clean: list[float], validation: float) -> Outcome:
    return Outcome(np.array(clean), np.array(clean[:2]), 0.1, validation, validation, 0.5, 1.0)


GOOD, BAD = outcome([1, 1, 1, 0], 0.4), outcome([1, 0, 0, 0], 0.9)


def test_the_lam_is_chosen_on_validation_images_and_differences_are_in_points_of_the_test_images():
    found = {(protocol, kind): {0.0: [[GOOD]]} for protocol in PROTOCOLS for kind in ("natural", "scratch")}
    for protocol in PROTOCOLS:
        found[protocol, "oat"] = {
            0.0: [[GOOD]],
            1.0: [[BAD]],
        }  # better on validation images alone
    rows = {(row["protocol"], row["judge"], row["lam"], row["against"]): row for row in compared(found)}
    row = rows["full-network", "clean", "chosen", "natural"]
    assert (row["lams chosen"], row["value"]) == ("1", "-50.00")
    assert rows["full-network", "autoattack", "1", "lam 0"]["value"] == "-50.00"
    assert rows["fixed-feature", "clean", "0", "scratch"]["value"] == "+0.00"
    assert ("fixed-feature", "clean", "0", "lam 0") not in rows


def test_every_seed_and_draw_chooses_a_lam_of_its_own_and_of_equal_ones_the_smallest():
    by_lam = {0.0: [[GOOD, BAD], [GOOD, GOOD]], 1.0: [[BAD, GOOD], [GOOD, BAD]]}
    assert best_lams(by_lam, "clean") == [[1.0, 0.0], [0.0, 1.0]]


def test_seeds_count_alike_whatever_their_images():
    values = [[np.zeros(5), np.ones(50)], [np.ones(100), np.ones(1)]]
    assert mean(values) == pytest.approx((0.5 + 1) / 2)


def test_an_interval_holds_the_spread_of_seeds_which_many_images_do_not_narrow():
    generator = np.random.default_rng(0)
    seeds = generator.normal(0.5, 0.1, 8)
    values = [[seed + 0.01 * generator.standard_normal(1000)] for seed in seeds]
    low, high = interval(values)
    # a bootstrap of n means has their standard deviation (with n in place of n - 1) over the root of n; s.d. of 1,000
    # resamples' percentiles: some 4%
    assert high - low == pytest.approx(2 * 1.96 * seeds.std() / 8**0.5, rel=0.15)


def test_what_is_kept_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "outcome.json"
    (made,) = kept(path, {"eps": 1}, lambda: [GOOD])
    (again,) = kept(path, {"eps": 1}, lambda: [BAD])
    np.testing.assert_array_equal(made.right, GOOD.right)
    np.testing.assert_array_equal(again.right, GOOD.right)
    with pytest.raises(ValueError, match="must hold outcomes of the same settings"):
        kept(path, {"eps": 2}, lambda: [BAD])


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_the_readme_says_what_was_measured(data):
    """Each difference in the README's table is one of the kept results."""
    section = README.read_text(encoding="utf-8").partition("## Transfer")[2].partition("\n## ")[0]
    lines = re.findall(rf"^\| {data}, (.*)\|$", section, flags=re.MULTILINE)
    assert len(lines) == 4
    kept_rows = read(RESULTS / f"transfer_{data}_summary.csv")
    kept_by = {(row["protocol"], row["judge"], row["lam"], row["against"]): row for row in kept_rows}
    for line in lines:
        name, lam, *cells = (cell.strip() for cell in line.split("|"))
        protocol, judge = name.lower().split(", ")
        for against, cell in zip(("lam 0", "natural", "scratch"), cells, strict=False):
            row = kept_by[protocol, judge, lam, against]
            value, low, high = (f"{float(row[column]):+.1f}" for column in ("value", "low", "high"))
            assert cell == f"{value} [{low}, {high}]"
