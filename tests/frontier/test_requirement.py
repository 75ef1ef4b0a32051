import itertools
import math
import re

import pytest

from art_oat import Frontier, OperatingPoint
from tests.frontier.points import SLIM, point


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
            {"min_clean": 0.7, "min_robust": 0.7, "max_latency_ms": 1},  # every point has the clean accuracy
            "no point has min_robust = 0.7 and max_latency_ms = 1. "
            "min_robust = 0.7 is missed by 0.100: the best is 0.600 at lam 1, width 1. "
            "max_latency_ms = 1 is missed by 1.5: the best is 2.5 at lam 0, width 0.5.",
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
        ({"min_clean": 0.8}, "lam 1 at width 1, has clean 0.750 and robust 0.600"),  # short of 0.05, against 0.3
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
        partly.select(max_macs=1e6, max_latency_ms=1)


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (
            ("max_macs", "max_parameters", "max_latency_ms"),
            (0, -1, math.nan, "1e6"),
            "{} must be a number above 0, got {!r}",
        ),
        (("min_robust", "min_clean", "threat"), (45, math.nan), r"{} must lie in \[0, 1\], got {}"),
    ],
)
def test_a_requirement_that_cannot_be_is_refused(names, values, message):
    for name, value in itertools.product(names, values):
        with pytest.raises((TypeError, ValueError), match=message.format(name, value)):
            SLIM.select(**{name: value})
