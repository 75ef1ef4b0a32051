import enum
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from art_oat.checks import checked_seed, refuse
from art_oat.numbers import (
    KindFault,
    count_faults,
    is_finite_number,
    number_faults,
    plain,
    plain_fields,
    seed_faults,
    shown,
)


class Level(enum.IntEnum):
    THREE = 3


THREES = [
    *(kind(3) for kind in (int, np.int8, np.uint64, np.int64)),
    *(np.array(3, dtype) for dtype in (np.int32, np.uint8)),
    *(torch.tensor(3, dtype=dtype) for dtype in (torch.int64, torch.uint8)),
    Level.THREE,
    Fraction(3),
]
REALS = [
    *(kind(0.5) for kind in (float, np.float16, np.float32, np.float64, np.longdouble)),
    *(np.array(0.5, dtype) for dtype in (np.float16, np.float64)),
    *(torch.tensor(0.5, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)),
    torch.tensor(0.5, requires_grad=True),
    Fraction(1, 2),
]
NO_NUMBERS: list[Any] = [
    *(None, "3", b"3", 3j, Decimal(3), [3], (3,), {3}, object(), int),
    *(np.array([3]), torch.tensor([3]), np.array("3"), np.array(3j), np.array(3, dtype=object)),
    *(np.timedelta64(3, "s"), np.datetime64("2026-01-01"), np.ma.masked, np.ma.array(3)),
    *(torch.tensor(3, device="meta"), torch.tensor(3j)),
]


@pytest.mark.parametrize("value", THREES, ids=repr)
def test_a_whole_number_of_any_kind_becomes_pythons_own(value):
    number = plain(value) if not isinstance(value, Fraction) else int(plain(value))
    assert (type(number), number) == (int, 3)


@pytest.mark.parametrize("value", REALS, ids=repr)
def test_a_real_number_of_any_kind_becomes_pythons_own(value):
    assert (type(plain(value)), plain(value)) == (float, 0.5)
    assert is_finite_number(value)


@pytest.mark.parametrize("value", [True, np.True_, np.array(True), torch.tensor(True)], ids=repr)
def test_a_truth_value_becomes_pythons_own_and_is_no_number(value):
    assert plain(value) is True
    assert not is_finite_number(value)
    assert isinstance(*count_faults({"n": value}), KindFault)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_stays_as_it_is_and_is_a_fault_of_kind(value):
    assert plain(value) is value
    for faults in (count_faults({"n": value}), seed_faults(value, "n"), number_faults({"n": value}, "be such", bool)):
        (fault,) = faults
        assert isinstance(fault, KindFault)
        assert fault.startswith("n must be ")


@pytest.mark.parametrize("value", [10**400, -(10**5000), Fraction(10**400), float("nan"), np.float32("inf")], ids=shown)
def test_a_number_that_no_float_holds_is_a_fault_of_value(value):
    (fault,) = number_faults({"eps": value}, "be a number above 0", lambda it: it > 0)
    assert not isinstance(fault, KindFault)
    assert len(fault) < 150


@pytest.mark.parametrize("value", THREES[:-1], ids=repr)
def test_counts_and_seeds_of_any_kind_are_taken(value):
    assert count_faults({"n": value}, least=3) == seed_faults(value) == []
    assert count_faults({"n": value}, least=4) == [f"n must be a whole number, at least 4, got {value!r}."]
    assert (type(checked_seed(value)), checked_seed(value)) == (int, 3)


@pytest.mark.parametrize(
    ("seed", "kind"),
    [*((it, ValueError) for it in (-1, 2**32, 10**5000, np.int64(-1))), *((it, TypeError) for it in (2.5, 2.0, True))],
    ids=shown,
)
def test_other_seeds_are_refused(seed, kind):
    with pytest.raises(kind, match=r"seed must be a whole number in \[0, 2\*\*32\), got "):
        checked_seed(seed)


def test_faults_of_kind_alone_are_a_type_error_and_others_come_with_them():
    kinds, values = count_faults({"a": 2.5, "b": "3"}), count_faults({"c": 0})
    with pytest.raises(TypeError, match=r"^a must .* b must [^c]*$"):
        refuse(kinds)
    with pytest.raises(ValueError, match=r"^a must .* b must .* c must "):
        refuse(kinds + values)


def test_the_fields_of_a_frozen_dataclass_become_pythons_own():
    @dataclass(frozen=True)
    class Options:
        count: int
        share: float
        name: str

        def __post_init__(self) -> None:
            plain_fields(self)

    options = Options(np.int64(3), torch.tensor(0.5), "x")
    assert [type(it) for it in (options.count, options.share, options.name)] == [int, float, str]


def test_a_value_is_shown_in_one_short_line():
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    for value in (np.zeros((20, 20)), 10**5000, "x" * 1000, Broken()):
        text = shown(value)
        assert len(text) <= 84
        assert "\n" not in text
