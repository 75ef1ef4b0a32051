import json
import platform
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from art_oat import TradeoffCurve, load_model
from art_oat.data import Dataset
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.run import Run
from art_oat.training import Method

RECIPE = Recipe(
    data="digits", network="small-4-8", nb_epochs=1, lambdas=(0.0, 1.0), method=Method(attack="pgd-1", eps=0.2)
)
MEASUREMENT = Measurement(attacks=("pgd-1",), nb_robust=10)


def run(folder: Path, recipe: Recipe = RECIPE, *, trains: bool = True, **changes) -> tuple[TradeoffCurve, list[str]]:
    """Train and measure; return the curve, and what was said."""
    lines: list[str] = []
    data = recipe.dataset()
    if trains:
        Run(folder, lines.append).train(recipe, data, overwrites=True)
    curve = Run(folder, lines.append).measure(replace(MEASUREMENT, **changes), data, nb_workers=1)
    return curve, lines


@pytest.mark.slow(seconds=1)
def test_a_measured_run_is_a_folder_as_the_hub_takes_it(tmp_path):
    curve, _ = run(tmp_path)
    found = huggingface_hub.ModelCard.load(tmp_path / "README.md").data
    assert [it.metric_value for it in found.eval_results[::2]] == [round(point.clean, 4) for point in curve.points]
    assert {"README.md", "config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    assert load_model(tmp_path).lambdas == RECIPE.lambdas


@pytest.mark.slow(seconds=1)
def test_a_card_follows_the_measurement_and_goes_when_another_network_is_trained(tmp_path):
    run(tmp_path)
    before = (tmp_path / "README.md").read_text()
    run(tmp_path, trains=False, eps=0.1)
    assert "eps 0.1" in (tmp_path / "README.md").read_text()
    run(tmp_path, trains=False)
    assert (tmp_path / "README.md").read_text() == before
    Run(tmp_path, print).train(replace(RECIPE, seed=1), RECIPE.dataset(), overwrites=True)
    assert not (tmp_path / "README.md").exists()


@pytest.mark.slow(seconds=1)
def test_a_card_that_somebody_edited_stays_and_that_is_said(tmp_path):
    run(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    _, lines = run(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert "README.md stays as you edited it" in lines[-1]
    (tmp_path / "README.md").unlink()
    run(tmp_path, trains=False)
    assert "## Use" in (tmp_path / "README.md").read_text()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with a data set in a file, of a user on a machine."""
    monkeypatch.setattr(platform, "node", lambda: "machine-of-ann")
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "user-of-ann")
    home = tmp_path / "home-of-ann"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    data: Dataset = RECIPE.dataset()
    parts = {f"{kind}_{name}": getattr(part, kind) for name, part in data._asdict().items() for kind in "xy"}
    np.savez(home / "set.npz", **parts)
    return home


@pytest.mark.slow(seconds=1)
def test_no_file_of_a_run_names_the_user_the_machine_or_the_home_folder(home, tmp_path):
    recipe = replace(RECIPE, data="~/set.npz")
    run(tmp_path / "run", recipe)
    for path in (tmp_path / "run").iterdir():
        content = path.read_bytes()
        assert b"of-ann" not in content, path.name
        assert str(tmp_path).encode() not in content, path.name
    assert Run(tmp_path / "run", print).recipe == recipe
    assert recipe.data == str(home / "set.npz")
    kept = json.loads((tmp_path / "run" / "run.json").read_text())
    assert kept["recipe"]["settings"]["data"] == "~/set.npz"
