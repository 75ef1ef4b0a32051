import logging
import sys
import warnings

import pytest

from art_oat.export.format import ExportError, exporter
from art_oat.export.formats import FORMATS


def test_an_exporter_is_silent_and_what_it_changed_is_as_before(capfd):
    level = logging.root.manager.disable
    with warnings.catch_warnings(record=True) as caught, exporter("onnx", "hold this network"):
        warnings.warn("a page", stacklevel=1)
        logging.getLogger("torch.onnx").warning("a page")
        sys.stderr.write("a page")
    assert capfd.readouterr() == ("", "")
    assert not caught
    assert logging.root.manager.disable == level


def failing() -> None:
    try:
        raise ValueError("no such\noperator.")
    except ValueError as error:
        raise RuntimeError("a page\n" * 100) from error


def test_an_error_is_said_in_one_line_by_what_it_came_from():
    expected = r"^onnx cannot hold this network: no such operator\.$"
    with pytest.raises(ExportError, match=expected), exporter("onnx", "hold this network"):
        failing()


def test_an_error_of_the_system_is_passed_on():
    with pytest.raises(OSError, match="disk"), exporter("onnx", "hold this network"):
        raise OSError("disk")


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setattr(type(FORMATS["onnx"]), "packages", ("onnx", "no_such_package"))
    with pytest.raises(ImportError, match=r"^onnx needs no_such_package: pip install art-oat\[export\]$"):
        FORMATS["onnx"].check_packages()
