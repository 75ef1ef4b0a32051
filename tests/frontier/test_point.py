import dataclasses
import math

import pytest

from tests.frontier.points import point


def test_standard_errors_are_binomial():
    assert point(0, 0.9, 0.5).clean_error == pytest.approx(math.sqrt(0.9 * 0.1 / 400))
    assert point(0, 0.9, 0.5).robust_error == pytest.approx(math.sqrt(0.5 * 0.5 / 100))


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


def test_latency_is_known_in_seconds_and_in_milliseconds_or_not_at_all():
    assert dataclasses.replace(point(0, 0.9, 0.5), latency=0.25).latency_ms == 250
    assert point(0, 0.9, 0.5).latency_ms is None
