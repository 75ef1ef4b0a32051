import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs_and_says_what_it_found(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # what an example writes goes where it is run
    monkeypatch.setattr(sys, "argv", [str(path), "--smoke"])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} >= {
        "fine_tune",
        "own_network",
        "slim_and_select",
        "torchattacks_trainer",
        "train_and_dial",
        "transfer",
        "vision_transformer",
    }
