import copy
import dataclasses
import itertools
import math
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from art_oat import Frontier, OperatingPoint
from art_oat.frontier import MeasuredPoint


def point(lam: float, clean: float, robust: float, width: float = 1.0) -> MeasuredPoint:
    return MeasuredPoint(lam, width, clean, robust, 400, 100, {"pgd-20": min(robust + 0.1, 1), "autoattack": robust})


def costly(lam: float, clean: float, robust: float, width: float) -> MeasuredPoint:
    """A point whose costs fall with the square of its width, to a million MACs and 10 ms at width 1."""
    costs = {"macs": round(1e6 * width**2), "parameters": round(1e3 * width**2), "latency": 0.01 * width**2}
    return dataclasses.replace(point(lam, clean, robust, width), **costs)


SLIM = Frontier(
    (costly(0, 0.8, 0.2, 0.5), costly(1, 0.7, 0.4, 0.5), costly(0, 0.9, 0.3, 1.0), costly(1, 0.75, 0.6, 1.0))
)


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


@pytest.mark.parametrize(
    ("requirements", "expected"),
    [
        ({}, OperatingPoint(0, 1.0)),
        ({"max_macs": 1e6}, OperatingPoint(0, 1.0)),
        ({"max_macs": 999_999}, OperatingPoint(0, 0.5)),
        ({"max_latency": 0.0025}, OperatingPoint(0, 0.5)),
        ({"max_latency": 0.005, "min_robust": 0.4}, OperatingPoint(1, 0.5)),
        ({"max_macs": 2e6, "max_latency": 0.02, "min_robust": 0.5, "min_clean": 0.7}, OperatingPoint(1, 1.0)),
    ],
)
def test_selection_takes_the_best_point_that_costs_no_more_than_allowed(requirements, expected):
    assert SLIM.select(**requirements) == expected


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        (
            {"min_robust": 0.7},
            "no point has min_robust = 0.7. min_robust = 0.7 is missed by 0.100: the best is 0.600 at lam 1, width 1.",
        ),
        (
            {"max_macs": 1e5},
            "no point has max_macs = 100000. "
            "max_macs = 100000 is missed by 1.5e+05: the best is 2.5e+05 at lam 0, width 0.5.",
        ),
        (
            {"min_clean": 0.7, "min_robust": 0.7, "max_latency": 0.001},  # every point has the clean accuracy
            "no point has min_robust = 0.7 and max_latency = 0.001. "
            "min_robust = 0.7 is missed by 0.100: the best is 0.600 at lam 1, width 1. "
            "max_latency = 0.001 is missed by 0.0015: the best is 0.0025 at lam 0, width 0.5.",
        ),
    ],
)
def test_every_requirement_that_no_point_meets_is_named_with_what_is_missing(requirements, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SLIM.select(**requirements)


@pytest.mark.parametrize(
    ("other", "closest"),
    [
        ({"max_macs": 2.5e5}, "lam 1 at width 0.5, has robust 0.400 and macs 2.5e+05"),  # against 4 times the cost
        ({"max_macs": 9e5}, "lam 1 at width 1, has robust 0.600 and macs 1e+06"),  # a ninth too much, against 0.2
        ({"min_clean": 0.8}, "lam 1 at width 1, has robust 0.600 and clean 0.750"),  # short of 0.05, against 0.3
    ],
)
def test_the_closest_point_misses_the_least_share_of_samples_or_of_the_cost(other, closest):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        SLIM.select(min_robust=0.6, **other)
    assert f"each is met somewhere, but not together: the closest, {closest}" in str(caught.value)


def test_a_requirement_on_what_was_not_measured_is_refused():
    partly = Frontier((*SLIM.points, point(0, 0.9, 0.1)))
    assert partly.select(min_clean=0.85) == OperatingPoint(0, 1.0)
    with pytest.raises(ValueError, match=r"max_macs needs the macs of every point, got 1 of 5 without.*max_latency"):
        partly.select(max_macs=1e6, max_latency=1)


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (("max_macs", "max_latency"), (0, -1, math.nan, "1e6"), "{} must be a number above 0, got {!r}"),
        (("min_robust", "min_clean"), (45,), r"{} must lie in \[0, 1\], got {}"),
    ],
)
def test_a_requirement_that_cannot_be_is_refused(names, values, message):
    for name, value in itertools.product(names, values):
        with pytest.raises((TypeError, ValueError), match=message.format(name, value)):
            SLIM.select(**{name: value})


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


@pytest.mark.parametrize(
    ("message", "faulty"),
    [
        ("must lie in", [{"clean": 3}, {"robust": -0.1}, {"clean": "1"}, {"lam": 7}, {"by_attack": {"a": 2}}]),
        ("nb_robust must be a whole number, at least 1", [{"nb_robust": 0}, {"nb_robust": 2.5}]),
        (
            "macs and parameters must be at least 0 and latency above 0",
            [{"macs": -1}, {"parameters": -1}, {"latency": 0}, {"latency": math.nan}, {"macs": math.inf}],
        ),
    ],
)
def test_a_point_that_cannot_be_is_refused(message, faulty):
    for options in faulty:
        with pytest.raises((TypeError, ValueError), match=message):
            dataclasses.replace(point(0, 0.9, 0.1), **options)


def test_a_frontier_without_points_is_refused():
    with pytest.raises(ValueError, match="at least one measured point"):
        Frontier(())


@pytest.mark.parametrize("kind", [np.float32, np.array, torch.tensor, Fraction])
def test_points_and_requirements_are_numbers_of_any_kind(kind):
    given = dataclasses.replace(point(0, 0.9, 0.1), clean=kind(0.5), by_attack={"pgd-3": kind(0.5)})
    assert given == dataclasses.replace(point(0, 0.9, 0.1), clean=0.5, by_attack={"pgd-3": 0.5})
    assert [type(it) for it in (given.clean, *given.by_attack.values())] == [float, float]
    for requirement in ({"min_robust": 0.5}, {"min_clean": 0.5}):
        ((name, bound),) = requirement.items()
        assert SLIM.select(**{name: kind(bound)}) == SLIM.select(**requirement)
