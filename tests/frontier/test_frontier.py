import copy
import dataclasses
import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch

from art_oat import Frontier, OperatingPoint
from art_oat.frontier import MeasuredPoint
from tests.frontier.points import SLIM, costly, point


@pytest.mark.parametrize(
    ("pairs", "reference", "area"),
    [
        ([(0.9, 0.5)], (0.1, 0.2), 0.8 * 0.3),
        ([(0.9, 0.2), (0.8, 0.5), (0.5, 0.6)], (0, 0), 0.9 * 0.2 + 0.8 * (0.5 - 0.2) + 0.5 * (0.6 - 0.5)),
        ([(0.9, 0.5), (0.8, 0.4), (0.9, 0.3)], (0, 0), 0.9 * 0.5),  # two are dominated
        ([(0.05, 0.5), (0.5, 0.0)], (0.1, 0.0), 0),  # both lie below the reference
    ],
)
def test_the_area_is_that_of_the_union_of_the_rectangles_of_all_points(pairs, reference, area):
    points = tuple(point(0, *pair) for pair in pairs)
    for ordered in (points, points[::-1]):
        assert Frontier(ordered).area(reference) == pytest.approx(area)


def test_selection_takes_the_best_clean_accuracy_that_keeps_the_robust_one():
    frontier = Frontier((point(0, 0.9, 0.1), point(0.1, 0.8, 0.45), point(1, 0.7, 0.6)))
    assert frontier.select(min_robust=0.45) == OperatingPoint(0.1)
    assert frontier.select() == OperatingPoint(0)
    assert frontier.select(min_robust=0.5, min_clean=0.6) == OperatingPoint(1)


def test_among_equals_selection_takes_the_narrower_network():
    frontier = Frontier((point(0.1, 0.8, 0.5, 1.0), point(0.1, 0.8, 0.5, 0.5)))
    assert frontier.select(min_robust=0.4) == OperatingPoint(0.1, 0.5)


@pytest.mark.parametrize(
    ("requirements", "expected"),
    [
        ({}, OperatingPoint(0, 1.0)),
        ({"max_macs": 1e6}, OperatingPoint(0, 1.0)),
        ({"max_macs": 999_999}, OperatingPoint(0, 0.5)),
        ({"max_latency_ms": 2.5}, OperatingPoint(0, 0.5)),
        ({"max_parameters": 999}, OperatingPoint(0, 0.5)),
        ({"max_latency_ms": 5, "min_robust": 0.4}, OperatingPoint(1, 0.5)),
        ({"max_macs": 2e6, "max_latency_ms": 20, "min_robust": 0.5, "min_clean": 0.7}, OperatingPoint(1, 1.0)),
    ],
)
def test_selection_takes_the_best_point_that_costs_no_more_than_allowed(requirements, expected):
    assert SLIM.select(**requirements) == expected


@pytest.mark.parametrize(
    "points",
    [
        (point(0, 1 / 3, 0.1), MeasuredPoint(0.1, 0.5, 0.5, 0.25, 7, 3, {"pgd-7": 0.25})),
        (costly(0, 0.9, 0.1, 1 / 3), point(1, 0.7, 0.6)),
        (dataclasses.replace(point(0, 0.9, 0.1), warnings=("a, b", "c")), point(1, 0.7, 0.6)),
    ],
)
def test_csv_gives_back_what_was_written_and_which_points_are_without(tmp_path, points):
    Frontier(points).to_csv(tmp_path / "new" / "curve.csv")
    assert Frontier.from_csv(tmp_path / "new" / "curve.csv") == Frontier(points)


def test_a_csv_has_columns_for_costs_only_where_one_is_known(tmp_path):
    for name, measured in (("with", costly(0, 0.9, 0.1, 1.0)), ("without", point(0, 0.9, 0.1))):
        Frontier((measured,)).to_csv(tmp_path / name)
    columns = {name: (tmp_path / name).read_text().splitlines()[0].split(",") for name in ("with", "without")}
    assert columns["without"][:6] == ["lam", "width", "clean", "robust", "nb_clean", "nb_robust"]
    assert columns["with"] == [*columns["without"][:6], "macs", "parameters", "latency", *columns["without"][6:]]


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


def test_a_frontier_without_points_is_refused():
    with pytest.raises(ValueError, match="at least one measured point"):
        Frontier(())


@pytest.mark.parametrize("kind", [np.float32, np.array, torch.tensor, Fraction])
def test_points_and_requirements_are_numbers_of_any_kind(kind):
    given = dataclasses.replace(point(0, 0.9, 0.1), clean=kind(0.5), by_attack={"pgd-3": kind(0.5)})
    assert given == dataclasses.replace(point(0, 0.9, 0.1), clean=0.5, by_attack={"pgd-3": 0.5})
    assert [type(it) for it in (given.clean, *given.by_attack.values())] == [float, float]
    for requirement in ({"min_robust": 0.5}, {"min_clean": 0.5}, {"threat": 0.5}):
        ((name, bound),) = requirement.items()
        assert SLIM.select(**{name: kind(bound)}) == SLIM.select(**requirement)


HULL = Frontier((point(0, 0.9, 0.1), point(0.2, 0.7, 0.2), point(1, 0.6, 0.5)))  # the middle one lies below the line


@pytest.mark.parametrize(
    ("threat", "lam"),
    [
        (0, 0),
        (0.42, 0),  # 0.58 * 0.9 + 0.42 * 0.1 = 0.564, against 0.558
        (0.43, 1),  # 0.57 * 0.9 + 0.43 * 0.1 = 0.556, against 0.557: equal at 0.3 / 0.7
        (1, 1),
    ],
)
def test_threat_weighs_clean_against_robust_accuracy(threat, lam):
    assert HULL.select(threat=threat) == OperatingPoint(lam)


def test_with_the_highest_threat_the_most_robust_point_that_meets_the_requirements_is_taken():
    assert SLIM.select(threat=1) == OperatingPoint(1, 1.0)
    assert SLIM.select(threat=1, min_clean=0.8) == OperatingPoint(0, 1.0)
    assert SLIM.select(threat=1, max_macs=5e5) == OperatingPoint(1, 0.5)


def test_a_point_stays_unless_another_beats_it_in_accuracies_and_costs():
    twin = dataclasses.replace(SLIM.points[3], lam=0.9)  # as good as another in everything: neither beats the other
    worse = dataclasses.replace(SLIM.points[0], lam=0.5, robust=0.1)
    given = Frontier((worse, *SLIM.points, twin))
    assert [p.operating_point for p in given.pareto().points] == [
        *(OperatingPoint(0, 1.0), OperatingPoint(0, 0.5)),
        *(OperatingPoint(0.9, 1.0), OperatingPoint(1, 1.0), OperatingPoint(1, 0.5)),
    ]
    kept = {p.operating_point for p in given.pareto(costs=()).points}
    assert kept == {OperatingPoint(0, 1.0), OperatingPoint(1, 1.0), OperatingPoint(0.9, 1.0)}  # width 0.5 is beaten


def test_the_order_of_points_does_not_matter_for_what_no_other_beats():
    assert {Frontier(order).pareto() for order in itertools.permutations(SLIM.points)} == {SLIM.pareto()}


def test_a_cost_that_not_every_point_has_does_not_count_and_is_refused_by_name():
    partly = Frontier((*SLIM.points, point(0.5, 0.95, 0.7)))
    assert partly.pareto().points == (partly.points[-1],)
    with pytest.raises(
        ValueError, match=r"costs must be some of what was measured at every point, \(\), got \('macs',"
    ):
        partly.pareto(costs=("macs",))
