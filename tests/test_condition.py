import math
import threading

import numpy as np
import pytest
import torch

from art_oat.condition import Condition, OperatingPoint, conditioned, current_condition


def condition(*lams: float) -> Condition:
    return Condition(torch.tensor(lams), torch.zeros(len(lams), 1))


def test_a_point_unpacks_as_lam_and_width():
    assert tuple(OperatingPoint(np.float32(0.5), 1)) == (0.5, 1.0)


@pytest.mark.parametrize("lam", [-0.1, 2.0, math.nan, math.inf])
def test_lam_outside_0_to_1_is_refused(lam):
    with pytest.raises(ValueError, match=r"lam must lie in \[0, 1\]"):
        OperatingPoint(lam)


@pytest.mark.parametrize("width", [0, -1, 1.5, math.nan])
def test_width_outside_0_to_1_is_refused(width):
    with pytest.raises(ValueError, match=r"width must lie in \(0, 1\]"):
        OperatingPoint(0.5, width)


@pytest.mark.parametrize("lam", ["0.5", None, True, [0.5]])
def test_lam_that_is_no_number_is_refused(lam):
    with pytest.raises(TypeError, match="lam must be one number"):
        OperatingPoint(lam)


def test_points_are_equal_by_value_and_cannot_be_changed():
    assert len({OperatingPoint(0.1), OperatingPoint(0.1, 1.0)}) == 1
    with pytest.raises(AttributeError):
        OperatingPoint(0.1).lam = 0.2


def test_order_brings_clean_samples_first_and_keeps_the_order_within_a_side():
    assert condition(0.5, 0, 1, 0).order.tolist() == [1, 3, 0, 2]


def test_order_is_none_where_clean_samples_stand_first_already():
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
