import numpy as np
import pytest

from benchmarks.mixing import ahead, arm
from benchmarks.mixtures import Subject, best_first

ENDS = [(0.9, 0.0), (0.5, 0.4)]


def test_points_are_taken_in_the_order_of_what_they_add_to_the_area():
    points = [(0.6, 0.3), (0.8, 0.3), (0.7, 0.35), (0.4, 0.4)]
    # 0.8 x 0.3 holds 0.6 x 0.3; then 0.7 x 0.35 adds 0.05 above it; the last adds nothing
    assert best_first(ENDS, points, 2) == [1, 2]
    assert len(best_first(ENDS, points, 9)) == 4


@pytest.mark.parametrize(("clean", "robust", "expected"), [(0.7, 0.2, 0.0), (0.7, 0.3, 10.0), (0.4, 0.3, -10.0)])
def test_a_mixture_is_ahead_of_the_line_between_the_points_of_the_dial(clean, robust, expected):
    dial = np.array([[0.9, 0.5], [0.0, 0.4]])
    assert ahead(0)(np.array([[clean], [robust]]), dial) == pytest.approx(expected)


def test_answers_of_all_parts_stand_at_their_seed_and_image():
    def subject(seed, index):
        return Subject("it", None, None, None, np.array(index), seed, 0.1)

    answers = [
        (subject(0, [7, 9]), [[[1, 0], [1, 0], [0, 0]]]),
        (subject(1, [9, 3]), [[[0, 1], [0, 1], [0, 1]]]),
    ]
    right = arm("it", answers, last=2).right
    nan = np.nan
    np.testing.assert_equal(right[:, 0, 0], [[nan, 1, 0], [nan, 0, 0]])
    np.testing.assert_equal(right[:, 0, 1], [[1, nan, 0], [1, nan, 0]])
