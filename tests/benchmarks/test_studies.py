"""Every study runs from end to end at its smallest size, and writes no result."""

import argparse
import math
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from art_oat.storage import read_rows
from benchmarks import study, tables, timing
from benchmarks.study import Found, data_options, run

ROOT = Path(__file__).parents[2]
SMOKES = {
    "ablation --variants 'oat, awp' n-fgsm": "n-fgsm",
    "attack_precision": "loss difference",
    "attribute_ranges": "worst of 100, and ascent",
    "attack_sources accuracy": "robust@1",
    "attack_sources time": "ratio to own",
    "between": "any, and Square",
    "demo_recipe": "clean epochs first",
    "dial": "knows lam",
    "flatness": "average difference",
    "security": "only AutoAttack",
    "judges": "carried on",
    "latency": "ratio of MACs",
    "mixing": "ahead at equal clean",
    "eps_dial": "hypervolume",
    "natural": "mean over corruptions",
    "neighborhood --neighbors 'weight noise' '2 lams'": "no difference shown",
    "norm_dial": "L2, then Linf",
    "norms --networks convnext": "two weights",
    "oats widths": "head per width",
    "oats sampling": "sandwich, distilled",
    "scale": "of the largest",
    "scaling memory": "MB peak",
    "scaling growth": "exponent",
    "scaling roofline": "fraction",
    "screens --variants 'level losses' 'clean first, weights of rank 2' 'lam 1 x 5, ordered'": "area",
    "ship": "int8",
    "speed --only 'predict, batch' fold ART 'step of' train": "ART's TRADES trainer",
    "step_time": "n-fgsm, with its guard",
    "tradeoff": "lam-0.4",
    "tradeoff_recipe --variants 'uniform lams'": "robust@0.1",
    "transfer": "fixed-feature",
}


def times() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in (tables.RESULTS, tables.DOCS) for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("words", SMOKES)
def test_a_smoke_run_shows_its_table_and_writes_nothing(words, monkeypatch, capsys):
    before = times()
    module, *options = shlex.split(words)
    monkeypatch.setattr(sys, "argv", [module, *options, "--smoke"])
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    monkeypatch.setattr(timing, "MOST_OF_OTHERS", math.inf)  # other tests run beside it: no round is measured again
    runpy.run_module(f"benchmarks.{module}", run_name="__main__", alter_sys=True)
    assert SMOKES[words] in capsys.readouterr().out
    assert times() == before


def found(given: argparse.Namespace) -> Found:
    return Found({"it": [{"a": 1}]}, [0, 1], {Path(given.runs) / "figure": Path.touch}, is_kept=not given.data_folder)


@pytest.mark.parametrize(
    ("words", "is_written"), [(["--runs", "."], True), (["--smoke"], False), (["--data-folder", "x"], False)]
)
def test_a_study_writes_results_and_figures_where_all_was_asked_for(words, is_written, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.chdir(tmp_path)
    run("it", None, found, data_options("it"), words)
    assert capsys.readouterr().out.split() == ["a", "-", "1"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["figure", "it.csv"] * is_written
    if is_written:
        (row,) = read_rows(tmp_path / "it.csv")
        assert (row["a"], row["command"], row["seeds"]) == ("1", "python -m benchmarks.it --runs RUNS", "0 1")


def test_a_kept_command_names_no_place_on_this_machine():
    words = ["--official", "/a/b", "--data-folder", "/c", "--seeds", "4"]
    given = argparse.Namespace(official=Path("/a/b"), data_folder="/c", runs=None)
    expected = "python -m benchmarks.official --official DIR --data-folder FOLDER --seeds 4"
    assert study.command("official", given, words) == expected


def test_rows_measured_anew_replace_their_like_and_the_others_stay(tmp_path):
    path = tmp_path / "it.csv"
    tables.write(path, [{"what": "a", "ratio": 1}, {"what": "b", "ratio": 2}], {"command": "first"}, key=["what"])
    tables.write(path, [{"what": "b", "ratio": 3}], {"command": "second"}, key=["what"])
    assert [tuple(row.values()) for row in read_rows(path)] == [("a", "1", "first"), ("b", "3", "second")]
