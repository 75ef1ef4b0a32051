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
