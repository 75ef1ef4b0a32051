import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from art_oat import PGD, OATClassifier, OATTrainer, OperatingPoint, load_model, save_model, to_conditional
from art_oat.frontier import MeasuredPoint
from art_oat.models import SmallCNN
from art_oat.training import Architecture
from art_oat.training.checkpoint import Checkpoint
from tests.conftest import make_classifier
from tests.edge_case_networks import Concatenates
from tests.networks import WIDTHS, Bottleneck, Hourglass, Residual, SharedNorm, images, labels, shaken

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


X, Y = images(20, torch.float32).numpy(), labels(20).numpy()
CLEAN = (0.6, 0.6, 0.5, 0.6, 0.9)
ROBUST = (0.2, 0.5, 0.6, 0.5, 0.1)
AREAS = [(clean - 1 / 5) * robust for clean, robust in zip(CLEAN, ROBUST, strict=True)]  # .08 .2 .18 .2 .07


class Rigged(OATTrainer):
    """Measures one point per validation, from a list; notes the weights that it is measured with."""

    def __init__(self, classifier, **arguments) -> None:
        super().__init__(classifier, PGD(eps=0.1, nb_steps=1), **arguments)
        self.measured: list[dict[str, torch.Tensor]] = []

    def _measure(self, validation, attack):
        accuracies = CLEAN[len(self.measured)], ROBUST[len(self.measured)]
        self.measured.append(copy.deepcopy(self.classifier.model.state_dict()))
        yield MeasuredPoint(1.0, 1.0, *accuracies, 20, 20)


def fit(trainer: Rigged, nb_epochs: int = 5, **options) -> Rigged:
    trainer.fit(X, Y, (X, Y), nb_epochs=nb_epochs, verbose=False, **options)
    return trainer


def assert_holds(model, state) -> None:
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_checkpoint_holds_the_weights_of_the_largest_area_and_of_equal_ones_the_first(classifier, tmp_path, ema):
    trainer = fit(Rigged(classifier, ema=ema), checkpoint=tmp_path / "best")
    assert [record.area for record in trainer.history] == pytest.approx(AREAS)
    assert [record.is_best for record in trainer.history] == [True, True, False, False, False]
    assert trainer.best_epoch == 2
    assert_holds(load_model(tmp_path / "best", Residual()), trainer.measured[1])
    assert_holds(classifier.model, trainer.measured[-1])


def test_the_best_weights_of_every_width_are_saved_and_put_back(tmp_path):
    classifier = make_classifier(widths=WIDTHS, heads="per-width")
    trainer = fit(Rigged(classifier), restore_best=True, checkpoint=tmp_path)
    assert_holds(classifier.model, trainer.measured[1])
    assert_holds(load_model(tmp_path, Residual()), trainer.measured[1])


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_best_weights_are_put_back_where_asked_for(classifier, ema):
    trainer = fit(Rigged(classifier, ema=ema), restore_best=True)
    assert_holds(classifier.model, trainer.measured[1])


def test_the_best_weights_are_put_back_also_where_training_breaks_off(classifier, tmp_path):
    def interrupt(record) -> None:
        if record.epoch == 4:
            raise KeyboardInterrupt

    trainer = Rigged(classifier)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, restore_best=True, checkpoint=tmp_path, callback=interrupt)
    assert_holds(classifier.model, trainer.measured[1])
    assert_holds(load_model(tmp_path, Residual()), trainer.measured[1])


def test_every_fit_has_a_best_epoch_of_its_own(classifier, tmp_path):
    trainer = fit(Rigged(classifier), nb_epochs=2)
    fit(trainer, nb_epochs=3, checkpoint=tmp_path, validation_interval=2)
    # epoch 3 of the history is not measured, 4 and 5 get the third and the fourth of the list
    assert trainer.best_epoch == 5
    assert [record.is_best for record in trainer.history[2:]] == [False, True, True]
    assert_holds(load_model(tmp_path, Residual()), trainer.measured[3])


def test_without_validation_no_epoch_is_the_best(classifier):
    trainer = fit(Rigged(classifier), nb_epochs=1)
    trainer.fit(X, Y, nb_epochs=1, verbose=False)
    assert trainer.best_epoch is None


def test_a_checkpoint_saved_with_its_architecture_is_loaded_alone(tmp_path):
    torch.manual_seed(0)
    model = to_conditional(ARCHITECTURE.build())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 3, optimizer, clip_values=(0, 1))
    trainer = Rigged(classifier)
    trainer.fit(X, Y % 3, (X, Y % 3), nb_epochs=2, checkpoint=Checkpoint(tmp_path, ARCHITECTURE), verbose=False)
    assert_holds(load_model(tmp_path), trainer.measured[1])


def test_a_checkpoint_of_other_kinds_is_refused(tmp_path):
    with pytest.raises(TypeError, match="folder must be a path, got int"):
        Checkpoint(3)
    with pytest.raises(TypeError, match="architecture must be an Architecture or None, got str"):
        Checkpoint(tmp_path, "SmallCNN")


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
