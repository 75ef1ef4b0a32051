import copy
import functools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from art_oat import OATClassifier, OATModel, compiled
from tests.networks import Residual, shaken


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def model() -> OATModel:
    return shaken(Residual())


@pytest.fixture
def classifier() -> OATClassifier:
    return make_classifier()


@functools.cache
def _converted(widths: tuple[float, ...], heads: str) -> OATModel:
    """What every classifier of these options starts as, converted once: a copy takes a twentieth of the time."""
    torch.manual_seed(0)
    return shaken(Residual(), torch.float32, widths=widths, heads=heads)


def make_classifier(
    *, widths: tuple[float, ...] = (1.0,), heads: str = "shared", lam: float | None = 0.0, **options: object
) -> OATClassifier:
    """Return a classifier whose default lam is named, unless it is None."""
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
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compiled, "BACKEND", counter)
    return counter
