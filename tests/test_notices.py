import warnings

import pytest

from art_oat import StatisticsWarning
from art_oat.notices import warn_caller


def test_a_warning_points_to_the_line_outside_of_the_package():
    inside: dict[str, object] = {"__name__": "art_oat.somewhere", "warn": warn_caller, "kind": StatisticsWarning}
    exec("def outer():\n    inner()\n\ndef inner():\n    warn('so it is', kind)\n", inside)
    with pytest.warns(StatisticsWarning, match="so it is") as seen:
        inside["outer"]()
    assert seen[0].filename == __file__


def test_it_can_be_made_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error", StatisticsWarning)
        with pytest.raises(StatisticsWarning):
            warn_caller("so it is", StatisticsWarning)
