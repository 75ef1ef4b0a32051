import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import art_oat
from art_oat.experiment.info import Info
from art_oat.experiment.pretrained import WEIGHTS_FOLDER, names
from art_oat.model_io import load_model

MAX_BYTES = 3_000_000


@pytest.mark.parametrize("name", names())
def test_every_network_that_comes_along_is_small_and_knows_how_it_was_made_and_what_it_reaches(name):
    dial = art_oat.pretrained(name, device_type="cpu")
    assert sum(path.stat().st_size for path in dial.folder.rglob("*")) < MAX_BYTES
    assert (dial.folder / "README.md").exists()
    assert dial.recipe.data_folder is None
    assert dial.curve is not None
    assert [point.lam for point in dial.curve.points] == list(dial.classifier.model.lambdas)
    assert dial.curve.points[0].clean > dial.curve.points[-1].clean
    assert dial.curve.points[0].robust < dial.curve.points[-1].robust
    assert dial.curve.eps == dial.recipe.method.eps


def test_a_dial_of_the_library_answers_as_it_was_measured():
    dial = art_oat.pretrained("digits", device_type="cpu")
    x, y = dial.recipe.dataset().test
    for point in dial.curve.points:
        scores = dial.classifier.predict(x, lam=point.lam)
        assert (scores.argmax(axis=1) == y).mean() == pytest.approx(point.clean, abs=1 / len(y))  # ties of rounding


def test_a_folder_that_holds_a_model_comes_before_a_network_of_its_name_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()  # such as one of data
    for named in (art_oat.pretrained("digits", device_type="cpu"), Info.of("digits")):
        assert named.folder == WEIGHTS_FOLDER / "digits"
    shutil.copytree(WEIGHTS_FOLDER / "digits", "digits", dirs_exist_ok=True)
    for named in (art_oat.pretrained("digits", device_type="cpu"), Info.of("digits")):
        assert named.folder == Path("digits")


def test_a_folder_of_one_s_own_training_is_taken_too(tmp_path):
    for path in (WEIGHTS_FOLDER / "digits").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tradeoff.csv").unlink()
    dial = art_oat.pretrained(tmp_path, device_type="cpu")
    assert dial.curve is None
    x = np.zeros((2, 3, 16, 16), np.float32)
    expected = load_model(tmp_path).pinned(1.0)(torch.zeros(2, 3, 16, 16))
    np.testing.assert_allclose(dial.classifier.predict(x, lam=1.0), expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "error"), [("imagenet", FileNotFoundError), (Path("nowhere"), FileNotFoundError), (3, TypeError)]
)
def test_what_is_not_there_is_refused_with_what_is(name, error):
    with pytest.raises(error, match="name must be"):
        art_oat.pretrained(name)
