import json
from pathlib import Path

import pytest
import torch
from torch import nn

from art_oat import OperatingPoint, load_model, save_model, to_conditional
from art_oat.model_io import Architecture
from art_oat.models import SmallCNN
from tests.edge_case_networks import Concatenates
from tests.networks import WIDTHS, Bottleneck, Hourglass, Residual, SharedNorm, images, shaken

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


@pytest.mark.parametrize("lam", [None, 0.0, 0.3])
def test_whether_the_default_lam_was_named_comes_back(tmp_path, lam):
    model = shaken(Residual())
    if lam is not None:
        model.default_point = OperatingPoint(lam)
    save_model(model, tmp_path)
    assert load_model(tmp_path, Residual()).is_lam_named == (lam is not None)
    path = tmp_path / "model.json"  # older files do not say it
    kept = json.loads(path.read_text())
    del kept["is_lam_named"]
    path.write_text(json.dumps(kept))
    assert load_model(tmp_path, Residual()).is_lam_named == (lam == 0.3)


@pytest.mark.parametrize("make", [Residual, SharedNorm])
def test_a_network_of_the_users_own_is_loaded_into_a_fresh_one(tmp_path, make):
    model = shaken(make())
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path, make())(images(), lam=0.3), model(images(), lam=0.3))


@pytest.mark.parametrize("heads", ["shared", "per-width"])
@pytest.mark.parametrize("make", [Residual, SharedNorm, Bottleneck, Hourglass])
def test_a_slimmable_network_comes_back_from_disk_with_every_width(tmp_path, make, heads):
    model = shaken(make(), widths=WIDTHS, heads=heads, input_shape=(1, 6, 6))
    model.default_point = OperatingPoint(0.3, 0.75)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, make())
    assert (loaded.widths, loaded.default_point) == (WIDTHS, OperatingPoint(0.3, 0.75))
    assert loaded.conversion["heads"] == heads
    assert loaded.conversion["input_shape"] == [1, 6, 6]
    for lam, width in ((0.0, 0.5), (0.3, 0.75), (0.7, 1.0)):
        assert torch.equal(loaded(images(), lam, width), model(images(), lam, width))


def test_layers_that_kept_all_their_channels_keep_them_when_loaded(tmp_path):
    model = shaken(Concatenates(), widths=WIDTHS, full_width=lambda path, _: path == "conv1")
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, Concatenates())
    assert loaded.conversion["full_width"] == ["conv1"]
    assert torch.equal(loaded(images(), 0.3, 0.5), model(images(), 0.3, 0.5))


def test_a_slimmable_architecture_of_the_library_is_rebuilt_without_the_network(tmp_path):
    model = shaken(ARCHITECTURE.build(), widths=WIDTHS)
    save_model(model, tmp_path, ARCHITECTURE)
    assert torch.equal(load_model(tmp_path)(images(), 0.3, 0.5), model(images(), 0.3, 0.5))


def test_a_model_saved_before_widths_were_known_is_loaded_with_one(tmp_path):
    model = shaken(Residual())
    save_model(model, tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    for name in ("widths", "heads", "full_width", "input_shape"):
        del description["conversion"][name]
    (tmp_path / "model.json").write_text(json.dumps(description))
    loaded = load_model(tmp_path, Residual())
    assert loaded.widths == (1.0,)
    assert torch.equal(loaded(images(), lam=0.3), model(images(), lam=0.3))


def test_weights_for_other_widths_are_refused(tmp_path):
    save_model(shaken(Residual(), widths=WIDTHS), tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    description["conversion"]["widths"] = [0.5, 1.0]
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(
        ValueError,
        match=r"network must be the Residual that was saved in .*, got a Residual that the weights do not fit",
    ):
        load_model(tmp_path, Residual())


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
    with pytest.raises(
        ValueError,
        match=r"network must be the Residual that was saved in .*, got a SharedNorm that the weights do not fit",
    ):
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


class Versioned(Residual):
    """Brings weights of its first version, or of none, into another form, as networks of old libraries do."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version", 1) < 2:
            raise RuntimeError("these weights are of the first version")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_network_that_asks_for_the_version_of_its_weights_comes_back(tmp_path):
    model = to_conditional(Versioned()).eval()
    save_model(model, tmp_path)
    torch.testing.assert_close(load_model(tmp_path, Versioned()).state_dict(), model.state_dict())
