import dataclasses

import pytest

from art_oat import TradeoffCurve, load_model
from art_oat.demo import Measurement, Recipe, run

RECIPE = Recipe(nb_epochs=1)
MEASUREMENT = Measurement(attacks=("pgd-1",), nb_robust=10)
FILES = {"demo.json", "model.json", "model.safetensors", "tradeoff.csv", "tradeoff.png", "training.csv"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    run(folder, RECIPE, MEASUREMENT, lambda line: None)
    return folder


def told(folder, recipe=RECIPE, measurement=MEASUREMENT) -> tuple[TradeoffCurve, list[str]]:
    lines: list[str] = []
    return run(folder, recipe, measurement, lines.append), lines


def test_it_writes_what_it_says(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    assert TradeoffCurve.from_csv(folder / "tradeoff.csv").eps == RECIPE.eps
    assert load_model(folder).lambdas == (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)


def test_run_again_it_reuses_everything_and_says_so(folder):
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    curve, lines = told(folder)
    assert [line.split()[0] for line in lines] == ["Reusing", "Reusing"]
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert curve == TradeoffCurve.from_csv(folder / "tradeoff.csv")


def test_another_measurement_reuses_the_weights(folder):
    curve, lines = told(folder, measurement=dataclasses.replace(MEASUREMENT, nb_robust=20))
    assert [line.split()[0] for line in lines] == ["Reusing", "Attacking"]
    assert curve.points[0].nb_robust == 20


def test_weights_that_were_changed_or_lost_are_trained_again(folder):
    (folder / "model.safetensors").write_bytes(b"other")
    _, lines = told(folder)
    assert [line.split()[0] for line in lines] == ["Training", "Attacking"]


@pytest.mark.parametrize("name", ["model.json", "demo.json"])
def test_a_file_that_is_missing_or_damaged_is_made_again(folder, name):
    told(folder)
    (folder / name).write_text("")
    _, lines = told(folder)
    assert lines[0].startswith("Training")
    assert load_model(folder).lambdas[-1] == 1


def test_another_recipe_trains_again(folder):
    _, lines = told(folder, recipe=dataclasses.replace(RECIPE, seed=1))
    assert [line.split()[0] for line in lines] == ["Training", "Attacking"]
