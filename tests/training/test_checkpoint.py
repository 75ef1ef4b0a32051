import json
from pathlib import Path

import pytest
import torch
from torch import nn

from art_oat import Architecture, OperatingPoint, load_model, save_model, to_conditional
from art_oat.models import SmallCNN
from tests.networks import Residual, SharedNorm, images, shaken

ARCHITECTURE = Architecture("SmallCNN", {"channels": [4, 6], "nb_classes": 3})


def test_a_saved_model_is_rebuilt_without_the_network(tmp_path):
    model = shaken(SmallCNN(channels=(4, 6), nb_classes=3), encoding="dct", code_dim=16, film="published")
    model.default_point = OperatingPoint(0.3)
    save_model(model, tmp_path / "new", ARCHITECTURE)
    loaded = load_model(tmp_path / "new")
    assert not loaded.training
    assert loaded.default_point == OperatingPoint(0.3)
    for lam in (0.0, 0.3, 0.7):
        assert torch.equal(loaded(images(), lam=lam), model(images(), lam=lam))


@pytest.mark.parametrize("make", [Residual, SharedNorm])
def test_a_network_of_the_users_own_is_loaded_into_a_fresh_one(tmp_path, make):
    model = shaken(make())
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path, make())(images(), lam=0.3), model(images(), lam=0.3))


def test_codes_are_those_that_were_saved_whatever_the_seed_draws(tmp_path):
    model = to_conditional(Residual(), seed=1)
    save_model(model, tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    description["conversion"]["seed"] = 2
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert torch.equal(load_model(tmp_path, Residual()).encoding.table, model.encoding.table)


def test_a_model_saved_without_its_architecture_asks_for_the_network(tmp_path):
    save_model(to_conditional(Residual()), tmp_path)
    with pytest.raises(ValueError, match="network must be a Residual"):
        load_model(tmp_path)


def test_a_network_of_another_kind_is_refused(tmp_path):
    save_model(to_conditional(Residual()), tmp_path)
    with pytest.raises(ValueError, match=r"the weights in .* must fit SharedNorm"):
        load_model(tmp_path, SharedNorm())


def test_a_failed_save_leaves_the_old_files_alone(tmp_path, monkeypatch):
    save_model(to_conditional(Residual()), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def fail(model: nn.Module, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_model", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(to_conditional(Residual(), seed=1), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json"}


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nowhere")


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="architecture must be one of"):
        Architecture("os.system", {})


def test_a_file_of_another_format_is_refused(tmp_path):
    save_model(to_conditional(Residual()), tmp_path)
    (tmp_path / "model.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="must have format 1, got 99"):
        load_model(tmp_path, Residual())
