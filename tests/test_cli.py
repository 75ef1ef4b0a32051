from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from art_oat.cli import app


def call(*arguments: str):
    return CliRunner().invoke(app, arguments)


def test_the_demo_prints_its_table_and_says_where_the_files_are(tmp_path):
    result = call("demo", "--out", str(tmp_path), "--nb-epochs", "1", "--nb-robust", "10", "--attack", "pgd-1")
    assert result.exit_code == 0, result.output
    assert "PGD-1 (10)" in result.output
    assert str(tmp_path / "tradeoff.png") in result.output
    assert (tmp_path / "tradeoff.png").exists()


def test_the_version_is_that_of_the_package():
    assert call("--version").output.strip() == f"art-oat {version('art-oat')}"


@pytest.mark.parametrize("arguments", [("--nb-epochs", "0"), ("--nb-robust", "451"), ("--attack", "fgsm")])
def test_a_faulty_option_is_refused_before_anything_is_written(tmp_path, arguments):
    result = call("demo", "--out", str(tmp_path / "new"), *arguments)
    assert result.exit_code == 2
    assert not (tmp_path / "new").exists()


def test_help_names_the_commands():
    assert "demo" in call("--help").output
