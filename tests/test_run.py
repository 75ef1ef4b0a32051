import dataclasses

import pytest

from art_oat import TradeoffCurve, load_model
from art_oat.recipe import Recipe
from art_oat.run import Measurement, Run
from art_oat.training.step import Step

RECIPE = Recipe(network="small-4-8", nb_epochs=1, eps=0.2, lambdas=(0.0, 0.5, 1.0))
MEASUREMENT = Measurement(attacks=("pgd-1",), nb_robust=10)
FILES = {"run.json", "model.json", "model.safetensors", "tradeoff.csv", "tradeoff.png", "training.csv"}


def told(folder, recipe=RECIPE, measurement=MEASUREMENT) -> tuple[TradeoffCurve, list[str]]:
    lines: list[str] = []
    run, data = Run(folder, lines.append), recipe.dataset()
    run.train(recipe, data)
    return run.measure(measurement, data, nb_workers=1), lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    told(folder)
    return folder


def test_it_writes_what_it_says(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    assert TradeoffCurve.from_csv(folder / "tradeoff.csv").eps == RECIPE.eps
    assert load_model(folder).lambdas == RECIPE.lambdas


def test_a_run_knows_its_recipe(folder):
    assert Run(folder, lambda line: None).recipe == RECIPE


def test_run_again_it_reuses_everything_and_says_so(folder):
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    curve, lines = told(folder)
    assert [line.split()[0] for line in lines] == ["Reusing", "Reusing"]
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert curve == TradeoffCurve.from_csv(folder / "tradeoff.csv")


def test_another_measurement_reuses_the_weights(folder):
    curve, lines = told(folder, measurement=dataclasses.replace(MEASUREMENT, nb_robust=20, lambdas=(0.2,), eps=0.1))
    assert [line.split()[0] for line in lines] == ["Reusing", "Attacking"]
    assert curve.points[0].nb_robust == 20
    assert [point.lam for point in curve.points] == [0.2]
    assert curve.eps == 0.1


def test_weights_that_were_changed_or_lost_are_trained_again(folder):
    (folder / "model.safetensors").write_bytes(b"other")
    _, lines = told(folder)
    assert [line.split()[0] for line in lines] == ["Training", "Attacking"]


@pytest.mark.parametrize("name", ["model.json", "run.json"])
def test_a_file_that_is_missing_or_damaged_is_made_again(folder, name):
    told(folder)
    (folder / name).write_text("")
    _, lines = told(folder)
    assert lines[0].startswith("Training")
    assert load_model(folder).lambdas[-1] == 1


def test_another_recipe_trains_again(folder):
    _, lines = told(folder, recipe=dataclasses.replace(RECIPE, seed=1))
    assert [line.split()[0] for line in lines] == ["Training", "Attacking"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold a run, made by art-oat train --out"):
        _ = Run(tmp_path, lambda line: None).recipe


def test_a_training_that_is_cut_short_can_be_measured_and_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPE, nb_epochs=3)

    def cut(self, x, y):
        if self.epoch == 2:
            raise KeyboardInterrupt
        return step(self, x, y)

    step = Step.__call__
    monkeypatch.setattr(Step, "__call__", cut)
    with pytest.raises(KeyboardInterrupt):
        told(tmp_path, recipe)
    monkeypatch.undo()
    run = Run(tmp_path, lambda line: None)
    assert run.recipe == recipe
    assert not run.is_trained_with(recipe)
    assert len(run.measure(MEASUREMENT, recipe.dataset(), nb_workers=1).points) == 3
