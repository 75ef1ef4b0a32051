import copy
import dataclasses
import math
import pickle

import pytest

from art_oat import Frontier, MeasuredPoint, OperatingPoint


def point(lam: float, clean: float, robust: float, width: float = 1.0) -> MeasuredPoint:
    return MeasuredPoint(lam, width, clean, robust, 400, 100, {"pgd-20": min(robust + 0.1, 1), "autoattack": robust})


def test_the_area_of_one_point_is_its_rectangle():
    assert Frontier((point(0, 0.9, 0.5),)).area((0.1, 0.2)) == pytest.approx(0.8 * 0.3)


def test_the_area_of_several_points_is_that_of_their_union():
    points = (point(0, 0.9, 0.2), point(0.5, 0.8, 0.5), point(1, 0.5, 0.6))
    expected = 0.9 * 0.2 + 0.8 * (0.5 - 0.2) + 0.5 * (0.6 - 0.5)
    assert Frontier(points).area() == pytest.approx(expected)
    assert Frontier(points[::-1]).area() == pytest.approx(expected)


def test_a_dominated_point_adds_no_area():
    points = (point(0, 0.9, 0.5), point(0.5, 0.8, 0.4), point(0.6, 0.9, 0.3))
    assert Frontier(points).area() == pytest.approx(0.9 * 0.5)


def test_a_point_below_the_reference_adds_no_area():
    assert Frontier((point(0, 0.05, 0.5), point(1, 0.5, 0.0))).area((0.1, 0.0)) == 0


def test_standard_errors_are_binomial():
    assert point(0, 0.9, 0.5).clean_error == pytest.approx(math.sqrt(0.9 * 0.1 / 400))
    assert point(0, 0.9, 0.5).robust_error == pytest.approx(math.sqrt(0.5 * 0.5 / 100))


def test_selection_takes_the_best_clean_accuracy_that_keeps_the_robust_one():
    frontier = Frontier((point(0, 0.9, 0.1), point(0.1, 0.8, 0.45), point(1, 0.7, 0.6)))
    assert frontier.select(min_robust=0.45) == OperatingPoint(0.1)
    assert frontier.select() == OperatingPoint(0)
    assert frontier.select(min_robust=0.5, min_clean=0.6) == OperatingPoint(1)


def test_among_equals_selection_takes_the_narrower_network():
    frontier = Frontier((point(0.1, 0.8, 0.5, 1.0), point(0.1, 0.8, 0.5, 0.5)))
    assert frontier.select(min_robust=0.4) == OperatingPoint(0.1, 0.5)


def test_a_requirement_that_fails_is_named_with_what_is_missing():
    frontier = Frontier((point(0, 0.9, 0.1), point(1, 0.7, 0.6)))
    with pytest.raises(ValueError, match=r"min_robust = 0.7 is missed by 0.100: the best is 0.600 at lam 1"):
        frontier.select(min_robust=0.7)


def test_requirements_that_fail_only_together_are_named():
    frontier = Frontier((point(0, 0.9, 0.1), point(1, 0.7, 0.6)))
    with pytest.raises(ValueError, match=r"each is met somewhere, but not together: the closest, lam 1 at width 1"):
        frontier.select(min_robust=0.5, min_clean=0.8)


@pytest.mark.parametrize("name", ["min_robust", "min_clean"])
def test_a_requirement_that_is_no_fraction_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\], got 45"):
        Frontier((point(0, 0.9, 0.1),)).select(**{name: 45})


def test_csv_gives_back_what_was_written(tmp_path):
    frontier = Frontier((point(0, 1 / 3, 0.1), MeasuredPoint(0.1, 0.5, 0.5, 0.25, 7, 3, {"pgd-7": 0.25})))
    frontier.to_csv(tmp_path / "new" / "curve.csv")
    assert Frontier.from_csv(tmp_path / "new" / "curve.csv") == frontier


def test_a_csv_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="must be a CSV that to_csv wrote"):
        Frontier.from_csv(path)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_frontier_is_copied_hashed_and_written_out(make_copy):
    frontier = Frontier((point(0, 0.9, 0.1), point(1, 0.7, 0.6)))
    assert make_copy(frontier) == frontier
    assert hash(make_copy(frontier)) == hash(frontier)
    assert dataclasses.asdict(frontier)["points"][0]["by_attack"] == {"pgd-20": 0.2, "autoattack": 0.1}


@pytest.mark.parametrize(
    "faulty", [{"clean": 3}, {"robust": -0.1}, {"nb_robust": 0}, {"lam": 7}, {"by_attack": {"a": 2}}]
)
def test_a_point_that_cannot_be_is_refused(faulty):
    with pytest.raises(ValueError, match="must lie in"):
        dataclasses.replace(point(0, 0.9, 0.1), **faulty)


def test_a_frontier_without_points_is_refused():
    with pytest.raises(ValueError, match="at least one measured point"):
        Frontier(())
