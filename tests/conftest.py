"""Fixtures of all tests. Imports are where they are used: the process that only deals out tests needs none of them."""

from __future__ import annotations

import copy
import functools
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch._dynamo.testing import CompileCounterWithBackend

    from art_oat import OATClassifier, OATModel


_STARTED = time.monotonic()
_LONG = 5
"""Seconds of a slow test that does not say how many it takes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, help="slow tests that have not begun by then are skipped, and say so")


class _Failures:
    """Named, with their error, as they happen: a run that is cut has told what it found."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            reporter.ensure_newline()
            reporter.write_line(f"FAILED {report.nodeid}: {report.when}: {getattr(crash, 'message', report.longrepr)}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # of pytest-xdist: reports come to the process that deals out tests
        config.pluginmanager.register(_Failures(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests last, since they alone are left out where time is short: those of a moment, then the longest first.

    One that began last would keep a single core busy to the end.
    """
    items.sort(key=lambda item: (min(_seconds(item), _LONG), -_seconds(item)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--minutes")
    is_late = minutes is not None and time.monotonic() - _STARTED > 60 * minutes
    if is_late and item.get_closest_marker("slow"):
        pytest.skip(f"{item.nodeid} had not begun after {minutes:g} minutes")


def _seconds(item: pytest.Item) -> float:
    mark = item.get_closest_marker("slow")
    return 0 if mark is None else mark.kwargs.get("seconds", _LONG)


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture
def model() -> OATModel:
    from tests.networks import Residual, shaken

    return shaken(Residual())


@pytest.fixture
def classifier() -> OATClassifier:
    return make_classifier()


@functools.cache
def _converted(widths: tuple[float, ...], heads: str) -> OATModel:
    """What every classifier of these options starts as, converted once: a copy takes a twentieth of the time."""
    import torch

    from tests.networks import Residual, shaken

    torch.manual_seed(0)
    return shaken(Residual(), torch.float32, widths=widths, heads=heads)


def make_classifier(
    *, widths: tuple[float, ...] = (1.0,), heads: str = "shared", lam: float | None = 0.0, **options: object
) -> OATClassifier:
    """Return a classifier whose default lam is named, unless it is None."""
    import torch

    from art_oat import OATClassifier

    model = copy.deepcopy(_converted(widths, heads))
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    arguments = {"clip_values": (0, 1), **options}
    classifier = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, **arguments)  # type: ignore[arg-type]
    if lam is not None:
        classifier.lam = lam
    return classifier


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Compilers that keep the arithmetic, and count how often they are asked."""
    from torch._dynamo.testing import CompileCounterWithBackend

    from art_oat import compiled

    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compiled, "BACKEND", counter)
    return counter
