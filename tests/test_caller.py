import warnings
from pathlib import Path

import pytest

from art_oat.caller import warn_caller


def called_through(*packages: str):
    """Return a call of ``warn_caller`` by way of functions that live in these packages, the outermost first."""
    call = warn_caller
    for name in reversed(packages):
        names = {"__name__": name, "call": call}
        exec("def hop(message, category=UserWarning):\n    call(message, category)", names)
        call = names["hop"]
    return call


@pytest.mark.parametrize(
    "packages", [(), ("art_oat.evaluation",), ("art_oat", "art.attacks.evasion", "art_oat.classifier")]
)
def test_a_warning_names_the_line_that_called_the_library(packages):
    with pytest.warns(UserWarning, match="hello") as caught:
        called_through(*packages)("hello")
    assert [Path(warning.filename).name for warning in caught] == ["test_caller.py"]


def test_other_packages_are_callers_whatever_their_names_begin_with():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        called_through("artful", "art_oat.classifier")("hello", DeprecationWarning)
    assert [(warning.filename, warning.category) for warning in caught] == [("<string>", DeprecationWarning)]
