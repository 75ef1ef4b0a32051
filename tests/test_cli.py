from importlib.metadata import version

import numpy as np
import pytest
from typer.testing import CliRunner

from art_oat import TradeoffCurve
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


TRAINED = ("--network", "small-4", "--nb-epochs", "1", "--attack", "pgd-1", "--lambdas", "0,0.5,1", "--eps", "0.2")


def test_a_network_is_trained_on_a_file_of_arrays_and_evaluated(tmp_path):
    data, out = tmp_path / "images.npz", tmp_path / "run"
    generator = np.random.default_rng(0)
    np.savez(data, x=generator.random((60, 1, 6, 6), dtype=np.float32), y=np.arange(60) % 4)
    trained = call("train", "--data", str(data), "--out", str(out), *TRAINED, "--ema", "0.9", "--norm", "L2")
    assert trained.exit_code == 0, trained.output
    assert f"art-oat evaluate {out}" in trained.output
    measured = call("evaluate", str(out), "--attack", "pgd-2", "--nb-robust", "10", "--lambdas", "0,0.25")
    assert measured.exit_code == 0, measured.output
    assert "L2, eps 0.2" in measured.output
    assert [point.lam for point in TradeoffCurve.from_csv(out / "tradeoff.csv").points] == [0.0, 0.25]
    assert (out / "tradeoff.png").exists()


def test_weights_of_another_training_are_replaced_only_on_demand(tmp_path):
    arguments = ("train", "--data", "digits", "--out", str(tmp_path), "--nb-train", "50", *TRAINED)
    assert call(*arguments).exit_code == 0
    assert "Reusing the weights" in call(*arguments).output
    weights = (tmp_path / "model.safetensors").read_bytes()
    refused = call(*arguments, "--seed", "1")
    assert refused.exit_code == 2
    assert "--overwrite" in refused.output
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert call(*arguments, "--seed", "1", "--overwrite").exit_code == 0
    assert (tmp_path / "model.safetensors").read_bytes() != weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "cifar11"), "must be one of"),
        (("--data", "digits", "--network", "vgg", "--schedule", "up"), "network must be"),
        (("--data", "digits", "--lambdas", "0;1"), "lambdas must be numbers"),
        (("--data", "digits", "--attack", "art:Nothing"), "attack must be a name"),
        (("--data", "cifar10", "--data-folder", "nowhere"), "cifar-10-python.tar.gz"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_anything_is_written(tmp_path, arguments, message):
    result = call("train", "--out", str(tmp_path / "new"), *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "new").exists()


def test_a_folder_without_a_run_cannot_be_evaluated(tmp_path):
    result = call("evaluate", str(tmp_path))
    assert result.exit_code == 2
    assert "must hold a run" in " ".join(result.output.replace("│", " ").split())
