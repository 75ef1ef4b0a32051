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


def edit(folder: Path, *gone: str, **conversion: object) -> None:
    """Take names out of the description of a saved model, and change how it says it was converted."""
    path = folder / "model.json"
    description = json.loads(path.read_text())
    for name in gone:
        (description if name in description else description["conversion"]).pop(name)
    description["conversion"] |= conversion
    path.write_text(json.dumps(description))


SLIMMABLE = {"widths": WIDTHS, "input_shape": (1, 6, 6)}


@pytest.mark.parametrize(
    ("make", "conversion"),
    [
        (Residual, {}),
        (SharedNorm, {}),
        *[(make, SLIMMABLE | {"heads": "shared"}) for make in (Residual, SharedNorm, Bottleneck, Hourglass)],
        *[(make, SLIMMABLE | {"heads": "per-width"}) for make in (Residual, SharedNorm, Bottleneck, Hourglass)],
    ],
)
def test_a_network_of_the_users_own_comes_back_in_a_fresh_one_with_every_width(tmp_path, make, conversion):
    model = shaken(make(), **conversion)
    model.default_point = OperatingPoint(0.3, model.widths[-2:][0])
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, make())
    assert (loaded.widths, loaded.default_point) == (model.widths, model.default_point)
    assert loaded.conversion["heads"] == conversion.get("heads", "shared")
    for lam, width in zip((0.0, 0.3, 0.7), (*model.widths, 1.0, 1.0), strict=False):
        assert torch.equal(loaded(images(), lam, width), model(images(), lam, width))


@pytest.mark.parametrize(
    "conversion", [{"encoding": "dct", "code_dim": 16, "film": "published"}, {"widths": WIDTHS}], ids=str
)
def test_a_saved_model_of_the_library_is_rebuilt_without_the_network(tmp_path, conversion):
    model = shaken(SmallCNN(channels=(4, 6), nb_classes=3), **conversion)
    model.default_point = OperatingPoint(0.3)
    save_model(model, tmp_path / "new", ARCHITECTURE)
    loaded = load_model(tmp_path / "new")
    assert not loaded.training
    assert loaded.default_point == OperatingPoint(0.3)
    for lam in (0.0, 0.3, 0.7):
        assert torch.equal(loaded(images(), lam, model.widths[0]), model(images(), lam, model.widths[0]))


def test_layers_that_kept_all_their_channels_keep_them_when_loaded(tmp_path):
    model = shaken(Concatenates(), widths=WIDTHS, full_width=lambda path, _: path == "conv1")
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, Concatenates())
    assert loaded.conversion["full_width"] == ["conv1"]
    assert torch.equal(loaded(images(), 0.3, 0.5), model(images(), 0.3, 0.5))


@pytest.mark.parametrize("lam", [None, 0.0, 0.3])
def test_whether_the_default_lam_was_named_comes_back(tmp_path, lam):
    model = shaken(Residual())
    if lam is not None:
        model.default_point = OperatingPoint(lam)
    save_model(model, tmp_path)
    assert load_model(tmp_path, Residual()).is_lam_named == (lam is not None)
    edit(tmp_path, "is_lam_named")  # older files do not say it
    assert load_model(tmp_path, Residual()).is_lam_named == (lam == 0.3)


def test_a_model_saved_before_widths_were_known_is_loaded_with_one(tmp_path):
    model = shaken(Residual())
    save_model(model, tmp_path)
    edit(tmp_path, "widths", "heads", "full_width", "input_shape")
    loaded = load_model(tmp_path, Residual())
    assert loaded.widths == (1.0,)
    assert torch.equal(loaded(images(), lam=0.3), model(images(), lam=0.3))


def test_codes_are_those_that_were_saved_whatever_the_seed_draws(tmp_path):
    model = to_conditional(Residual(), seed=1)
    save_model(model, tmp_path)
    edit(tmp_path, seed=2)
    assert torch.equal(load_model(tmp_path, Residual()).encoding.table, model.encoding.table)


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


@pytest.mark.parametrize(
    ("spoil", "network", "message"),
    [
        (lambda _: None, None, "network must be a Residual"),
        (lambda _: None, SharedNorm(), "must be the Residual that was saved in .*, got a SharedNorm that the weights"),
        (
            lambda folder: edit(folder, widths=[0.5, 1.0]),
            Residual(),
            "network must be the Residual that was saved in .*, got a Residual that the weights do not fit",
        ),
        (lambda folder: (folder / "model.json").write_text('{"format": 99}'), Residual(), "format 1, got 99"),
    ],
)
def test_what_does_not_fit_the_files_is_refused(tmp_path, spoil, network, message):
    save_model(shaken(Residual(), widths=WIDTHS), tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path, network)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nowhere")


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="architecture must be one of"):
        Architecture("os.system", {})


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
