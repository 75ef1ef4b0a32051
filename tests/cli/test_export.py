import json

import numpy as np
import onnxruntime
import pytest
import torch
from art import config

from art_oat import fold, load_model, pretrained
from art_oat.experiment.recipe import Recipe
from tests.cli.subjects import DIGITS, call, said


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trained = call(*DIGITS, "--out", str(folder), "--widths", "0.5", "1")
    assert trained.exit_code == 0, trained.output
    return folder


X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("arguments", [(), ("--width", "0.5")])
def test_a_point_is_written_and_its_accuracy_is_said(run, tmp_path, arguments):
    file = tmp_path / "net.onnx"
    result = call("export", str(run), "--lam", "1", *arguments, "--out", str(file), "--nb-test", "40")
    assert result.exit_code == 0, result.output
    width = float(arguments[1]) if arguments else 1.0
    assert f"onnx, lam 1, width {width:g}, float32" in said(result)
    assert "accuracy" in result.output
    answer = onnxruntime.InferenceSession(file).run(None, {"x": X.numpy()})[0]
    expected = fold(load_model(run), lam=1.0, width=width)(X).detach().numpy()
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow(seconds=1)
def test_a_network_whose_images_are_not_there_is_written_without_its_accuracy_but_for_int8(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ART_DATA_PATH", str(tmp_path / "nothing"))
    arguments = ("export", "cifar10", "--lam", "1", "--out", str(tmp_path / "net.onnx"))
    refused = call(*arguments, "--precision", "int8")
    assert refused.exit_code == 2
    assert not (tmp_path / "net.onnx").exists()
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    assert "accuracy is not measured: " in said(result)
    x = torch.rand(2, 3, 32, 32)
    answer = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"x": x.numpy()})[0]
    expected = pretrained("cifar10", device_type="cpu").classifier.predict(x.numpy(), lam=1.0)
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(("precision", "suffix"), [("int8", "onnx"), ("float16", "pt2")])
def test_a_precision_is_asked_for_by_name(run, tmp_path, precision, suffix):
    file = tmp_path / f"net.{suffix}"
    result = call("export", str(run), "--lam", "0.5", "--precision", precision, "--out", str(file))
    assert result.exit_code == 0, result.output
    assert precision in result.output
    assert file.exists()


def test_the_dial_is_one_file_with_lam_as_an_input(run, tmp_path):
    file = tmp_path / "net"
    result = call("export", str(run), "--dial", "--format", "torchscript", "--out", str(file))
    assert result.exit_code == 0, result.output
    assert "every lam" in result.output
    lams, about = torch.tensor([0.0, 0.7, 1.0]), {"art_oat.json": ""}
    torch.testing.assert_close(torch.jit.load(file, _extra_files=about)(X, lams), load_model(run).eval()(X, lams))
    assert json.loads(about["art_oat.json"])["lam"] == "input"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of --lam and --dial must be given, got neither"),
        (("--lam", "1", "--dial"), "one of --lam and --dial must be given, got both"),
        (("--dial", "--precision", "int8"), "--precision must be float32 for --dial, got int8"),
        (("--lam", "7"), "lam must lie in [0, 1]"),
        (("--lam", "1", "--format", "tflite"), "format must be one of onnx"),
        (("--lam", "1", "--precision", "int8", "--nb-test", "0"), "data must be given for int8"),
    ],
)
def test_what_cannot_be_is_refused_in_one_message_and_nothing_is_written(run, tmp_path, arguments, message):
    result = call("export", str(run), *arguments, "--out", str(tmp_path / "net.onnx"))
    assert result.exit_code == 2
    assert message in said(result)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_run_is_refused(tmp_path):
    result = call("export", str(tmp_path), "--lam", "1", "--out", str(tmp_path / "net.onnx"))
    assert result.exit_code == 2
    assert "must hold a run" in said(result)


def test_a_network_that_comes_along_is_written_by_its_name_without_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(Recipe, "dataset", None)
    result = call("export", "digits", "--lam", "1", "--nb-test", "0", "--out", str(tmp_path / "net.pt2"))
    assert result.exit_code == 0, result.output
    assert "accuracy" not in result.output


@pytest.mark.slow(seconds=1)
def test_what_was_exported_is_one_object_on_stdout(run, tmp_path):
    file = tmp_path / "net.onnx"
    told = json.loads(call("export", str(run), "--lam", "1", "--out", str(file), "--nb-test", "40", "--json").stdout)
    assert (told["path"], told["lam"], told["width"], told["nb_bytes"]) == (str(file), 1.0, 1.0, file.stat().st_size)
