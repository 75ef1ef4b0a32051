import math
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch

from art_oat.condition import Condition, Dials, OperatingPoint, conditioned, current_condition


def condition(*lams: float) -> Condition:
    return Condition(torch.tensor(lams), torch.zeros(len(lams), 1))


def test_a_point_unpacks_as_lam_and_width():
    assert tuple(OperatingPoint(np.float32(0.5), 1)) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("point", "error", "message"),
    [
        *(((lam,), ValueError, r"lam must lie in \[0, 1\]") for lam in (-0.1, 2.0, math.nan, math.inf)),
        *(((0.5, width), ValueError, r"width must lie in \(0, 1\]") for width in (0, -1, 1.5, math.nan)),
        *(((lam,), TypeError, "lam must be one number") for lam in ("0.5", None, True, [0.5])),
    ],
)
def test_what_is_no_number_or_outside_of_its_range_is_refused(point, error, message):
    with pytest.raises(error, match=message):
        OperatingPoint(*point)


def test_points_are_equal_by_value_and_cannot_be_changed():
    assert len({OperatingPoint(0.1), OperatingPoint(0.1, 1.0)}) == 1
    with pytest.raises(AttributeError):
        OperatingPoint(0.1).lam = 0.2


def test_order_brings_clean_samples_first_keeps_the_order_within_a_side_and_is_none_where_it_is_so_already():
    assert condition(0.5, 0, 1, 0).order.tolist() == [1, 3, 0, 2]
    assert condition(0, 0, 0.2, 1).order is None


def test_a_condition_lasts_as_long_as_its_block_and_the_outer_one_returns():
    outer, inner = condition(0.1), condition(0.2)
    with conditioned(outer):
        with conditioned(inner):
            assert current_condition() is inner
        assert current_condition() is outer
    with pytest.raises(RuntimeError, match="only inside its OATModel"):
        current_condition()


def test_a_condition_is_seen_by_its_own_thread_only():
    seen = []

    def look() -> None:
        try:
            current_condition()
        except RuntimeError:
            seen.append("nothing")

    with conditioned(condition(0.1)):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == ["nothing"]


@pytest.mark.parametrize("lam", [torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.complex64)])
def test_lams_that_are_no_real_numbers_are_refused(lam):
    with pytest.raises(TypeError, match="lam must be one number, or hold one per sample, got values of torch"):
        Dials((0.0, 1.0), (1.0,), 1.0).lams(lam, 2)


@pytest.mark.parametrize(
    "kind", [np.float16, np.float32, np.array, torch.tensor, lambda it: torch.tensor(it).bfloat16(), Fraction]
)
def test_a_point_of_numbers_of_any_kind_is_that_of_pythons_own(kind):
    assert OperatingPoint(kind(0.5), kind(0.25)) == OperatingPoint(0.5, 0.25)
    assert [type(it) for it in OperatingPoint(kind(0.5), kind(0.25))] == [float, float]


@pytest.mark.parametrize("value", [10**400, Fraction(10**400), np.longdouble("inf")])
def test_a_lam_that_no_float_holds_is_out_of_range(value):
    with pytest.raises(ValueError, match=r"lam must lie in \[0, 1\]"):
        OperatingPoint(value)
