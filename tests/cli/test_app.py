from importlib.metadata import version

import pytest

from art_oat.experiment import demo
from tests.cli.subjects import call


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    for name in ("RECIPE", "SLIM_RECIPE"):
        monkeypatch.setattr(demo, name, getattr(demo, name).changed(nb_train=100))


@pytest.mark.parametrize(
    "arguments", [("--nb-epochs", "0"), ("--nb-robust", "1801"), ("--attack", "fgsm"), ("--widths", "0.5")]
)
def test_a_faulty_option_is_refused_before_anything_is_written(tmp_path, arguments):
    result = call("demo", "--out", str(tmp_path / "new"), *arguments)
    assert result.exit_code == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--version"], f"art-oat {version('art-oat')}"),
        (["--help"], "evaluate"),
        (["--help"], "Exit codes: 0 done, 2 refused"),
        (["train", "--help"], "--weight-decay"),
        (["evaluate", "--help"], "--shard-size"),
        (["--help"], "--install-completion"),
    ],
)
def test_version_commands_and_options_are_shown(arguments, expected):
    assert expected in call(*arguments).output
