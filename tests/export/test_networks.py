"""Networks of ours and of others in every format, at two points each, and their whole dials."""

import numpy as np
import pytest
import torch

from art_oat.export import FORMATS, ExportError
from art_oat.surgery import fold
from tests.compat.exports import NO_ONNX
from tests.export.subjects import OTHERS, OURS, SLIMMABLE, SUFFIXES, classifier, foreign_classifier

EXACT = 1e-3
"""Rounding of 6e-8, enlarged layer by layer; see ``EXACT`` of ``tests/compat/foreign.py``."""


A_FEW = [pytest.param(name, marks=[] if name in ("small", "vit") else pytest.mark.slow) for name in OURS]
"""Ours, two of which are quick."""


def assert_ships(subject, kind, points, tmp_path):
    """Write both points; each file answers as its own network does, and not as that of the other point."""
    x = torch.rand(5, *subject.input_shape, generator=torch.Generator().manual_seed(5))
    networks = [fold(subject.model, lam=lam, width=width) for lam, width in points]
    for number, (lam, width) in enumerate(points):
        exported = subject.export(tmp_path / f"net{number}{SUFFIXES[kind]}", lam=lam, width=width)
        assert (exported.lam, exported.width, exported.format) == (lam, width, kind)
        assert exported.difference <= EXACT
        run = FORMATS[kind].run(exported.path, subject._shipment(networks[number], lam, width, []))
        with torch.no_grad():
            answer, *expected = run(x), *(network(x) for network in (networks[number], networks[1 - number]))
        own, other = (float((answer - scores).abs().max() / scores.abs().max()) for scores in expected)
        assert own <= EXACT < other


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", A_FEW)
def test_ours_are_shipped_in_every_format(name, kind, tmp_path):
    points = [(0.3, 0.5), (1.0, 1.0)] if name in SLIMMABLE else [(0.05, 1.0), (1.0, 1.0)]
    assert_ships(classifier(name), kind, points, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", OTHERS)
def test_those_of_others_are_shipped_in_every_format(name, kind, tmp_path):
    assert_ships(foreign_classifier(name), kind, [(0.05, 1.0), (1.0, 1.0)], tmp_path)


NB_LAMS = 50
DIALS = [name for name, it in FORMATS.items() if it.takes_dial]


def assert_ships_its_dial(subject, kind, width, tmp_path):
    """Write the dial; the file answers as ``predict`` does at random lams, one per sample."""
    draw = np.random.default_rng(3)
    x = draw.random((NB_LAMS, *subject.input_shape), dtype=np.float32)
    lams = draw.uniform(0, subject.model.farthest, NB_LAMS).astype(np.float32)
    lams[: len(subject.model.lambdas)] = subject.model.lambdas
    exported = subject.export_dial(tmp_path / f"net{SUFFIXES[kind]}", width=width)
    assert (exported.lam, exported.width, exported.format) == (None, width, kind)
    run = FORMATS[kind].run(exported.path, subject._shipment(subject.model, None, width, []))
    with torch.no_grad():
        answer = run(torch.from_numpy(x), torch.from_numpy(lams)).numpy()
    expected = subject.predict(x, lam=lams, width=width)
    assert np.abs(answer - expected).max() <= EXACT * np.abs(expected).max()
    assert np.abs(answer - subject.predict(x, lam=1.0, width=width)).max() > EXACT * np.abs(expected).max()


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("kind", DIALS)
@pytest.mark.parametrize("name", A_FEW)
def test_dials_of_ours_answer_at_fifty_random_lams_as_predict_does(name, kind, tmp_path):
    assert_ships_its_dial(classifier(name), kind, 0.5 if name in SLIMMABLE else 1.0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DIALS)
@pytest.mark.parametrize("name", OTHERS)
def test_dials_of_others_answer_at_fifty_random_lams_as_predict_does(name, kind, tmp_path):
    assert_ships_its_dial(foreign_classifier(name), kind, 1.0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_ONNX)
def test_what_torch_does_not_export_right_is_refused_in_one_line_and_nothing_is_left(name, tmp_path):
    with pytest.raises(ExportError) as refusal:
        foreign_classifier(name).export(tmp_path / "net.onnx", lam=0.05)
    message = str(refusal.value)
    assert message.startswith(("onnx cannot hold this network: ", "onnx must answer as the network does"))
    assert "\n" not in message
    assert len(message) < 400
    assert not list(tmp_path.iterdir())
