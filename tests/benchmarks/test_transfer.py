"""The study of transfer: its tasks, its differences, and what the README says of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.record import RESULTS, read
from benchmarks.transfer import KEPT_DIAL, PROTOCOLS, Outcome, Split, colored, compared, every_digit, few, tabled

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


def outcome(clean: list[float], robust: list[float], validation: float) -> Outcome:
    return Outcome(np.tile(clean, 10), np.tile(robust, 10), 0.1, validation, validation, 0.5, 1.0)


def test_the_best_lam_is_chosen_on_validation_images_and_differences_are_in_points_of_the_test_images():
    good, bad = outcome([1, 1, 1, 0], [1, 0], 0.4), outcome([1, 0, 0, 0], [0, 0], 0.9)
    index = {0: np.arange(40)}
    found = {0: {(protocol, kind): [good] for protocol in (*PROTOCOLS, KEPT_DIAL) for kind in ("natural", "scratch")}}
    for protocol in PROTOCOLS:
        found[0][protocol, "oat"] = [good, bad]  # worse on the test images, but better on those of validation
    found[0][KEPT_DIAL, "oat"] = [bad]
    arms = tabled(found, index, (0.0, 1.0), (0.0,))
    rows = {(row["protocol"], row["judge"], row["against"]): row for row in compared(arms)}
    row = rows["full-network", "clean", "natural"]
    assert (row["best lam"], row["value"]) == ("1", "-50.00")
    assert rows["full-network", "autoattack", "the same at lam 0"]["value"] == "-50.00"
    assert rows[KEPT_DIAL, "clean", "scratch"]["value"] == "-50.00"


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_the_readme_says_what_was_measured(data):
    """Each difference in the README's table is one of the kept results."""
    section = README.read_text(encoding="utf-8").partition("## Transfer")[2].partition("\n## ")[0]
    lines = re.findall(rf"^\| {data} \|(.*)\|$", section, flags=re.MULTILINE)
    assert lines
    kept = {
        (row["protocol"], row["judge"], row["against"]): row for row in read(RESULTS / f"transfer_{data}_summary.csv")
    }
    for line in lines:
        protocol, judge, lam, *cells = (cell.strip() for cell in line.split("|"))
        for against, cell in zip(("the same at lam 0", "natural", "scratch"), cells, strict=True):
            row = kept[protocol, judge.lower(), against]
            value, low, high = (f"{float(row[name]):+.1f}" for name in ("value", "low", "high"))
            assert (lam, cell) == (row["best lam"], f"{value} [{low}, {high}]")
