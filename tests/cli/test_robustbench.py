import json

import pytest

from tests.cli.subjects import DIGITS, call, said


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "dial"
    assert call(*DIGITS, "--out", str(folder)).exit_code == 0
    return folder


def test_it_says_the_figures_the_files_and_what_robustbench_would_not_take(run, tmp_path):
    point = ("--lam", "0.5", "--nb-images", "10", "--eps", "8/255", "--nb-workers", "1")
    result = call("robustbench", str(run), *point, "--authors", "Ann", "--no-additional-data", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "dial_lam0.5_width1.json").read_text())
    assert (found["eps"], found["authors"], found["additional_data"]) == ("8/255", "Ann", False)
    text = said(result)
    assert f"Clean {found['clean_acc']}%, under AutoAttack {found['autoattack_acc']}%, on 10 images" in text
    assert "model.py" in text
    assert "RobustBench would not take this yet" in text
    assert "it wants all 450 test images attacked, not 10" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lam", "3"), "lam must"),
        (("--norm", "L7"), "norm must be one of"),
        (("--name", "../it"), "name must be one of a file"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run, tmp_path, arguments, message):
    result = call("robustbench", str(run), *arguments, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert message in said(result)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    result = call("robustbench", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "must hold a run" in said(result)


def test_as_json_it_tells_the_entry_and_the_files(run, tmp_path):
    point = ("--lam", "1", "--nb-images", "10", "--eps", "8/255", "--nb-workers", "1")
    result = call("robustbench", str(run), *point, "--out", str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["entry"] == json.loads((tmp_path / "dial_lam1_width1.json").read_text())
    assert told["files"][0] == str(tmp_path / "dial_lam1_width1.json")
    assert (told["nb_images"], len(told["reservations"]) > 0) == (10, True)
