import itertools
import json
import os
import shlex

import pytest
import torch

import art_oat
from art_oat import TradeoffCurve, load_model
from art_oat.experiment import demo
from tests.cli.subjects import QUICK, call


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    for name in ("RECIPE", "SLIM_RECIPE"):
        monkeypatch.setattr(demo, name, getattr(demo, name).changed(nb_train=100))


@pytest.mark.slow(seconds=1)
def test_the_demo_prints_its_table_and_says_where_the_files_are(tmp_path):
    result = call("demo", "--out", str(tmp_path), *QUICK)
    assert result.exit_code == 0, result.output
    assert "PGD-1 (10)" in result.output
    assert str(tmp_path / "tradeoff.png") in result.output
    assert (tmp_path / "tradeoff.png").exists()
    (command,) = [line for line in result.stdout.splitlines() if "art-oat export" in line]
    shipped = call(*shlex.split(command, comments=True)[1:])
    assert shipped.exit_code == 0, shipped.output
    assert (tmp_path / "lam-0.3.onnx").exists()


@pytest.mark.slow(seconds=1)
def test_the_demo_of_several_widths_measures_each_and_shows_how_to_use_one(tmp_path):
    result = call("demo", "--widths", "0.5", "0.75", "1.0", "--out", str(tmp_path), *QUICK)
    assert result.exit_code == 0, result.output
    points = TradeoffCurve.from_csv(tmp_path / "tradeoff.csv").points
    assert {(point.lam, point.width) for point in points} == set(
        itertools.product(demo.RECIPE.lambdas, (0.5, 0.75, 1.0))
    )
    names = {"art_oat": art_oat, "images": torch.zeros(2, 3, 16, 16)}
    *_, load, pinned, folded = result.stdout.splitlines()
    exec(load.strip(), names)
    scores = eval(pinned, names)
    torch.testing.assert_close(eval(folded, names).eval()(names["images"]), scores)


@pytest.mark.slow(seconds=1)
def test_the_demo_of_several_widths_leaves_that_of_one_alone_and_trains_other_widths_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # processes take seconds to start
    call("demo", *QUICK)
    call("demo", "--widths", "0.5,1", *QUICK)
    assert "Training one network" in call("demo", "--widths", "0.75,1", *QUICK).stdout
    assert load_model("runs/demo").widths == (1.0,)
    assert load_model("runs/demo-widths").widths == (0.75, 1.0)


@pytest.mark.slow(seconds=1)
def test_the_demo_gives_its_points_as_json_alone_on_stdout(tmp_path):
    result = call("demo", "--out", str(tmp_path), *QUICK, "--json")
    points = TradeoffCurve.from_csv(tmp_path / "tradeoff.csv").points
    assert [(it["lam"], it["robust"]) for it in json.loads(result.stdout)["points"]] == [
        (point.lam, point.robust) for point in points
    ]
