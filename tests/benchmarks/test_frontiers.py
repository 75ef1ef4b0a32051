from dataclasses import replace

import numpy as np
import pytest

from art_oat import Frontier
from art_oat.frontier import MeasuredPoint
from benchmarks.frontiers import Arm, accuracies, joined, largest_gap, resampled, robust_at, summary

LAMBDAS = (0.0, 1.0)


def frontier(*points: tuple[float, float]) -> Frontier:
    return Frontier(tuple(MeasuredPoint(0.0, 1.0, clean, robust, 1, 1) for clean, robust in points))


def arm(name: str, clean: list[float], robust: list[float], seconds: float = 1.0) -> Arm:
    """Accuracies per lam, made of 100 images by one seed."""
    order = np.random.default_rng(1).permutation(100) / 100
    right = np.array([[order < share for share in shares] for shares in (clean, robust)], dtype=float)
    lambdas = LAMBDAS if len(clean) > 1 else (1.0,)
    return Arm(name, lambdas, right[:, :, np.newaxis], seconds, "processor", 100, "commit")


def test_between_two_points_robust_accuracy_is_on_a_straight_line_and_beyond_the_last_there_is_none():
    points = frontier((0.9, 0.1), (0.7, 0.5), (0.6, 0.4))  # the last is beaten in both
    clean = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    np.testing.assert_allclose(robust_at(points, clean), [0.5, 0.5, 0.5, 0.3, 0.1, np.nan])


@pytest.mark.parametrize(
    ("ours", "theirs", "gap"),
    [
        (((0.9, 0.1), (0.7, 0.5)), ((0.9, 0.1), (0.7, 0.5)), 0.0),
        (((0.9, 0.1), (0.7, 0.5)), ((0.9, 0.2), (0.7, 0.5)), 0.1),
        (((0.9, 0.1), (0.7, 0.5)), ((0.8, 0.1), (0.7, 0.2)), -0.2),
        (((0.9, 0.1), (0.7, 0.5)), ((0.9, 0.1), (0.8, 0.4), (0.7, 0.5)), 0.1),  # a bulge
    ],
)
def test_the_largest_gap_is_at_equal_clean_accuracy(ours, theirs, gap):
    assert largest_gap(frontier(*ours), frontier(*theirs)) == pytest.approx(gap)


@pytest.mark.slow
def test_equal_frontiers_have_ratio_one_and_differ_nowhere():
    ours = arm("oat", [0.9, 0.7], [0.1, 0.5])
    theirs = joined([arm("lam-0", [0.9], [0.1]), arm("lam-1", [0.7], [0.5])])
    figures = {row["figure"]: row for row in summary(ours, theirs, 10)}
    area = (0.9 - 0.1) * 0.1 + (0.7 - 0.1) * 0.4
    assert float(figures["hypervolume, one network"]["value"]) == pytest.approx(area, abs=1e-4)
    assert [figures["hypervolume ratio"][name] for name in ("value", "low", "high")] == ["1.0000"] * 3
    assert float(figures["robust difference at lam 1"]["value"]) == 0
    assert float(figures["ratio of training times"]["value"]) == 0.5
    assert float(figures["ratio of weights"]["value"]) == 0.5


def test_images_that_were_not_asked_do_not_count():
    ours, theirs = (arm("oat", [0.9, 0.7], [0.1, 0.5]) for _ in range(2))
    ours.right[1, :, :, 50:] = np.nan
    kept = np.nanmean(ours.right[1, 1])
    found = resampled(ours, theirs, lambda a, _: float(a[-1, 1]))
    assert float(found["value"]) == pytest.approx(kept, abs=1e-4)


def test_seeds_that_agree_are_no_more_images():
    one = arm("oat", [0.9, 0.7], [0.1, 0.5])
    three = replace(one, right=np.repeat(one.right, 3, axis=2))
    np.testing.assert_allclose(accuracies(one)[1][1], np.sqrt([0.1 * 0.9 / 100, 0.5 * 0.5 / 100]))
    np.testing.assert_allclose(accuracies(three), accuracies(one))


def test_the_interval_of_an_accuracy_is_that_of_its_standard_error():
    ours = arm("oat", [0.9, 0.7], [0.1, 0.5])
    found = resampled(ours, ours, lambda a, _: float(a[-1, 1]))
    width = float(found["high"]) - float(found["low"])
    assert width == pytest.approx(2 * 1.96 * np.sqrt(0.5 * 0.5 / 100), rel=0.1)  # 2,000 resamples


@pytest.mark.slow
def test_where_the_one_network_was_judged_beyond_1_the_comparison_keeps_to_common_lams_and_adds_the_rest():
    def arm(name, clean, robust, lambdas):
        right = np.array([[[share]] for share in clean]), np.array([[[share]] for share in robust])
        return Arm(name, lambdas, np.stack(right), 1.0, "processor", 1, "")

    ours = arm("oat", [0.9, 0.7, 0.5], [0.0, 0.2, 0.3], (0.0, 1.0, 1.6))
    theirs = arm("dedicated", [0.9, 0.6], [0.0, 0.2], (0.0, 1.0))
    found = {row["figure"]: float(row["value"]) for row in summary(ours, theirs, 10)}
    assert found["hypervolume ratio"] == pytest.approx(0.6 * 0.2 / (0.5 * 0.2), abs=1e-4)
    assert found["hypervolume ratio, with lams beyond 1"] == pytest.approx(
        (0.6 * 0.2 + 0.4 * 0.1) / (0.5 * 0.2), abs=1e-4
    )
    assert found["clean range ratio"] == pytest.approx(0.2 / 0.3, abs=1e-4)
    assert found["clean range ratio, with lams beyond 1"] == pytest.approx(0.4 / 0.3, abs=1e-4)
    assert "robust difference at lam 1.6" not in found
