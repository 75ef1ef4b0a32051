from types import SimpleNamespace

import pytest

from benchmarks import timing
from benchmarks.timing import Turns, take_turns


@pytest.fixture
def script(monkeypatch):
    """Let turns take what is written down: per call of ``_turn``, seconds and the cores that others took."""
    written = []
    monkeypatch.setattr(timing, "_turn", lambda action, nb_calls: (action(), written.append(nb_calls))[0])
    return written


def answering(*values):
    given = iter(values)
    return lambda: next(given)


def test_a_ratio_is_the_median_over_rounds_of_the_ratios_of_each_round():
    measured = Turns({"own": [1.0, 20.0, 3.0], "other": [1.0, 10.0, 1.0]})
    assert measured.ratios("own", "other") == [1.0, 2.0, 3.0]
    assert measured.ratio("own", "other") == 2.0  # the ratio of medians would be 3
    assert measured.median("own") == 3.0


def test_quartiles_of_equal_ratios_are_that_ratio_and_so_are_those_of_one_round():
    assert Turns({"own": [2.0] * 5, "other": [1.0] * 5}).spread("own", "other") == (2.0, 2.0)
    assert Turns({"own": [3.0], "other": [1.0]}).spread("own", "other") == (3.0, 3.0)


def test_a_round_in_which_others_took_more_than_a_tenth_of_a_core_is_dropped_and_counted(script):
    warm = [(1.0, 0.0)] * 2
    first = answering(*warm, (1.0, 0.0), (5.0, 0.0), (2.0, 0.1))
    second = answering(*warm, (1.0, 0.0), (5.0, 0.11), (4.0, 0.0))
    measured = take_turns({"own": first, "other": second}, 2)
    assert measured.seconds == {"own": [1.0, 2.0], "other": [1.0, 4.0]}
    assert (measured.nb_rounds, measured.nb_dropped) == (2, 1)


def test_where_others_disturb_every_round_all_of_three_times_as_many_count(script):
    disturbed = [(9.0, 0.0), *[(float(index), 1.0) for index in range(6)]]
    measured = take_turns({"own": answering(*disturbed)}, 2)
    assert measured.seconds == {"own": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}
    assert measured.nb_dropped == 6


def test_a_quick_action_is_repeated_until_its_turn_is_long_enough(script):
    # the first call is slow, as first calls are; by the second, a turn holds ten
    take_turns({"own": answering((3.0, 0.0), (timing.SHORTEST / 10, 0.0), (0.02, 0.0))}, 1)
    assert script == [1, 1, 10]


def test_a_slow_action_is_called_once_to_warm_up_and_once_per_round(script):
    take_turns({"own": answering((60.0, 0.0), (60.0, 0.0))}, 1)
    assert script == [1, 1]


def test_what_others_took_is_all_that_was_not_idle_less_what_this_process_and_its_children_took(monkeypatch):
    # user nice system idle iowait irq softirq steal guest guest_nice, in hundredths of a second
    line = "cpu  1000 200 300 9000 800 10 20 70 500 50\ncpu0 1 2 3"
    monkeypatch.setattr(timing, "Path", lambda _: SimpleNamespace(exists=lambda: True, read_text=lambda: line))
    monkeypatch.setattr(timing.os, "sysconf", lambda _: 100)
    own = SimpleNamespace(user=1.0, system=2.0, children_user=3.0, children_system=4.0)
    monkeypatch.setattr(timing.os, "times", lambda: own)
    assert timing._others() == pytest.approx((1000 + 200 + 300 + 10 + 20 + 70) / 100 - 10)
