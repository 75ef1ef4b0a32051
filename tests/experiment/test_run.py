import csv
import itertools
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest

from art_oat import TradeoffCurve, load_model
from art_oat.data import Split
from art_oat.evaluation.shards import Shard
from art_oat.experiment.recipe import Recipe
from art_oat.experiment.run import Measurement, Run
from art_oat.training import Method
from art_oat.training.step import Step

RECIPE = Recipe(
    data="digits", network="small-4-8", nb_epochs=1, lambdas=(0.0, 0.5, 1.0), method=Method(attack="pgd-1", eps=0.2)
)
SLIM_RECIPE = RECIPE.changed(widths=(0.5, 1.0))
MEASUREMENT = Measurement(attacks=("pgd-1",), nb_robust=10)
FILES = {
    *("run.json", "model.json", "model.safetensors", "training.csv"),
    *("tradeoff.csv", "tradeoff.png", "samples.csv"),
}


def told(folder, recipe=RECIPE, measurement=MEASUREMENT) -> tuple[TradeoffCurve, list[str]]:
    lines: list[str] = []
    run, data = Run(folder, lines.append), recipe.dataset()
    run.train(recipe, data, overwrites=True)
    return run.measure(measurement, data, nb_workers=1), lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    told(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_it_writes_what_it_says(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    assert TradeoffCurve.from_csv(folder / "tradeoff.csv").eps == RECIPE.method.eps
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
    curve, lines = told(folder, measurement=replace(MEASUREMENT, nb_robust=20, lambdas=(0.2,), eps=0.1))
    assert [line.split()[0] for line in lines] == ["Reusing", "Attacking"]
    assert curve.points[0].nb_robust == 20
    assert [point.lam for point in curve.points] == [0.2]
    assert curve.eps == 0.1


@pytest.fixture(scope="module")
def slim_finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slim")
    told(folder, SLIM_RECIPE)
    return folder


@pytest.fixture
def slim_folder(slim_finished, tmp_path):
    return shutil.copytree(slim_finished, tmp_path / "slim")


def test_every_lam_is_measured_at_every_width(slim_folder):
    points = TradeoffCurve.from_csv(slim_folder / "tradeoff.csv").points
    measured = [(point.width, point.lam) for point in points]
    assert sorted(measured) == list(itertools.product(SLIM_RECIPE.widths, SLIM_RECIPE.lambdas))


def test_the_widths_to_measure_can_be_chosen(slim_folder):
    curve, lines = told(slim_folder, SLIM_RECIPE, replace(MEASUREMENT, lambdas=(0.0,), widths=(0.5,)))
    assert [line.split()[0] for line in lines] == ["Reusing", "Attacking"]
    assert [(point.lam, point.width) for point in curve.points] == [(0.0, 0.5)]


def test_shards_are_attacked_side_by_side(slim_folder, monkeypatch):
    asked = {}
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(TradeoffCurve, "measure", lambda *args, **options: asked.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Run(slim_folder, print).measure(replace(MEASUREMENT, shard_size=5), SLIM_RECIPE.dataset())
    assert asked["options"].nb_workers == 2


def test_a_measurement_that_was_cut_goes_on_and_says_so(tmp_path, monkeypatch):
    expected, _ = told(tmp_path / "uncut")
    run, lines = Run(tmp_path / "cut", print), []
    run.train(RECIPE, RECIPE.dataset())
    judge, judged = Shard.attack, []

    def cut_at_the_second(self, *arguments):
        if len(judged) == 1:
            raise KeyboardInterrupt
        judged.append(arguments[1])
        return judge(self, *arguments)

    monkeypatch.setattr(Shard, "attack", cut_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run.measure(MEASUREMENT, RECIPE.dataset(), nb_workers=1)
    monkeypatch.setattr(Shard, "attack", lambda self, *arguments: (judged.append(1), judge(self, *arguments))[1])
    curve = Run(tmp_path / "cut", lines.append).measure(MEASUREMENT, RECIPE.dataset(), nb_workers=1)
    assert [point.robust for point in curve.points] == [point.robust for point in expected.points]
    assert lines == ["Going on attacking 10 of 450 test images at every lam ..."]
    assert len(judged) == len(RECIPE.lambdas)
    assert {path.name for path in (tmp_path / "cut").iterdir()} == FILES


def test_what_broke_each_image_is_written_down(folder):
    with (folder / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    curve = TradeoffCurve.from_csv(folder / "tradeoff.csv")
    for point in curve.points:
        own = [row for row in rows if float(row["lam"]) == point.lam]
        labels = [int(RECIPE.dataset().test.y[int(row["sample"])]) for row in own]
        assert sorted(labels) == list(range(10))  # 10 images in the classes' shares
        assert sum(int(row["is_robust"]) for row in own) == point.robust * point.nb_robust
        assert all((row["broken_by"] == "") == (row["is_robust"] == "1") for row in own)


def test_a_width_that_was_not_trained_cannot_be_measured(slim_folder):
    with pytest.raises(ValueError, match=r"width must be one of \(0.5, 1.0\), got 0.75"):
        told(slim_folder, SLIM_RECIPE, replace(MEASUREMENT, widths=(0.75,)))


@pytest.mark.parametrize("change", [{"widths": (1.0,)}, {"heads": "per-width"}, {"width_sampling": "all"}])
def test_weights_of_other_widths_are_not_reused(slim_folder, change):
    run, other = Run(slim_folder, lambda line: None), SLIM_RECIPE.changed(**change)
    with pytest.raises(FileExistsError, match="holds weights of another training"):
        run.train(other, other.dataset())


def test_weights_that_were_changed_or_lost_are_trained_again(folder):
    (folder / "model.safetensors").write_bytes(b"other")
    _, lines = told(folder)
    assert [line.split()[0] for line in lines] == ["Training", "Attacking"]


@pytest.mark.parametrize("name", ["model.json", "run.json"])
def test_a_file_that_is_missing_or_damaged_is_made_again(folder, name):
    (folder / name).write_text("")
    _, lines = told(folder)
    assert lines[0].startswith("Training")
    assert load_model(folder).lambdas[-1] == 1


def test_another_recipe_trains_again(folder):
    _, lines = told(folder, recipe=RECIPE.changed(seed=1))
    assert [line.split()[0] for line in lines] == ["Training", "Attacking"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold a run, made by art-oat train --out"):
        _ = Run(tmp_path, lambda line: None).recipe


LONGER = RECIPE.changed(nb_epochs=3, nb_train=200, ema=0.9)


def train(folder, recipe=LONGER, **options) -> list[str]:
    """Train without leave to overwrite; return what was said."""
    lines: list[str] = []
    Run(folder, lines.append).train(recipe, recipe.dataset(), **options)
    return lines


@contextmanager
def cut_in(epoch: int):
    """The second step of this epoch fails within the block."""

    def step(self, x, y):
        if self.epoch == epoch and self.metrics.nb_samples:
            raise KeyboardInterrupt
        return unchanged(self, x, y)

    unchanged = Step.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", step)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_training_that_is_cut_short_can_be_measured_and_then_gone_on_with(tmp_path):
    with cut_in(2):
        train(tmp_path)
    run = Run(tmp_path, lambda line: None)
    assert run.recipe == LONGER
    assert len(run.measure(MEASUREMENT, LONGER.dataset(), nb_workers=1).points) == 3
    assert train(tmp_path)[0].startswith("Going on with the training in")
    assert not (tmp_path / "tradeoff.csv").exists()  # it was of weights that are no longer there


@pytest.mark.parametrize("options", [{}, {"keeps_best": False}])
def test_the_same_training_again_after_cuts_has_the_weights_of_the_uncut_one(tmp_path, options):
    train(tmp_path / "whole", **options)
    said = []
    for epoch in (1, 2, 2, 3):
        with cut_in(epoch):
            said += train(tmp_path / "cut", **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("art_oat.experiment.run._Ledger.forget", lambda *_: 1 / 0)  # trained to the end, and not noted
        with pytest.raises(ZeroDivisionError):
            train(tmp_path / "cut", **options)
    (line,) = train(tmp_path / "cut", **options)
    assert line.startswith("Going on with the training in")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = [(tmp_path / run / "training.csv").read_text().splitlines() for run in ("cut", "whole")]
    assert len(rows[0]) == len(rows[1]) == 1 + LONGER.nb_epochs
    assert {path.name for path in (tmp_path / "cut").iterdir()} == FILES - {
        "tradeoff.csv",
        "tradeoff.png",
        "samples.csv",
    }
    assert train(tmp_path / "cut", **options)[0].startswith("Reusing the weights")


def test_asked_to_overwrite_a_training_that_was_cut_short_starts_anew(tmp_path):
    with cut_in(2):
        train(tmp_path)
    assert train(tmp_path, overwrites=True)[0].startswith("Training one network")
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"tradeoff.csv", "tradeoff.png", "samples.csv"}


@pytest.mark.parametrize("nb_epochs", [3, 20])  # the first validation comes after 1 and after 4 epochs
def test_a_training_that_was_cut_short_is_not_replaced_by_another_unasked(tmp_path, nb_epochs):
    recipe = LONGER.changed(nb_epochs=nb_epochs)
    with cut_in(3):
        train(tmp_path, recipe)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    what = "weights of another training" if nb_epochs == 3 else "another training, cut short"
    for other in (recipe.changed(seed=1), recipe.changed(precision="bf16")):
        with pytest.raises(FileExistsError, match=f"{what}: recipe.*, is .*. Name another --out, or add --overwrite"):
            train(tmp_path, other)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_training_that_was_cut_short_before_its_first_epoch_ended_starts_anew_and_holds_nobody_up(tmp_path):
    with cut_in(1):
        train(tmp_path)
    other = LONGER.changed(seed=1)
    with cut_in(1):
        train(tmp_path, other)
    assert train(tmp_path, other)[0].startswith("Training one network")


def test_weights_of_another_training_are_not_replaced_unasked(folder):
    other = RECIPE.changed(seed=7)
    weights = (folder / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds weights of another training: recipe\.seed was 0, is 7; data"):
        Run(folder, lambda line: None).train(other, other.dataset())
    assert (folder / "model.safetensors").read_bytes() == weights


def test_other_data_are_noticed(folder):
    data = RECIPE.dataset()
    changed = data._replace(test=Split(1 - data.test.x, data.test.y))
    lines: list[str] = []
    Run(folder, lines.append).measure(MEASUREMENT, changed, nb_workers=1)
    assert lines[0].startswith("Attacking")
    with pytest.raises(FileExistsError):
        Run(folder, lines.append).train(RECIPE, data._replace(train=Split(1 - data.train.x, data.train.y)))


def test_a_radius_of_0_is_not_taken_for_none(folder):
    with pytest.raises(ValueError, match="eps must be a number above 0, got 0"):
        told(folder, measurement=replace(MEASUREMENT, eps=0))


def test_a_file_is_no_folder_for_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="must lie in a folder"):
        Run(tmp_path / "file", lambda line: None)


def test_a_recipe_that_cannot_work_leaves_the_weights_of_another(folder, monkeypatch):
    weights = (folder / "model.safetensors").read_bytes()
    other = RECIPE.changed(seed=9, attack="art:Wasserstein", eps=0.3)  # takes no Linf
    with pytest.raises(ValueError, match="Norm order"):
        Run(folder, lambda line: None).train(other, RECIPE.dataset(), overwrites=True)
    assert (folder / "model.safetensors").read_bytes() == weights


def test_settings_of_another_version_are_no_known_recipe(folder):
    kept = json.loads((folder / "run.json").read_text())
    kept["recipe"]["settings"] = {"network_of_tomorrow": 1}
    (folder / "run.json").write_text(json.dumps(kept))
    with pytest.raises(FileNotFoundError, match="must hold a run"):
        _ = Run(folder, lambda line: None).recipe
