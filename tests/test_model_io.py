import contextlib
import copy
import itertools
import json
import os
import random
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from art_oat import OperatingPoint, load_model, save_model, to_conditional
from art_oat.model_io import Architecture, weights_digest
from art_oat.models import SmallCNN
from art_oat.storage import digest
from tests.edge_case_networks import Concatenates
from tests.networks import WIDTHS, Bottleneck, Hourglass, Residual, SharedNorm, images, shaken

ARCHITECTURE = Architecture("SmallCNN", {"channels": [4, 6], "nb_classes": 3})


def edit(folder: Path, *gone: str, **conversion: object) -> None:
    """Take names out of the description of a saved model, and change how it says it was converted."""
    path = folder / "config.json"
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
    assert load_model(tmp_path, Residual(), check=False).is_lam_named == (lam == 0.3)


def test_a_model_saved_before_widths_were_known_is_loaded_with_one(tmp_path):
    model = shaken(Residual())
    save_model(model, tmp_path)
    edit(tmp_path, "widths", "heads", "full_width", "input_shape", "sha256", "other_dtypes")
    with pytest.raises(
        ValueError, match=r"must hold the SHA-256 of the model, but is of an earlier version.*check=False"
    ):
        load_model(tmp_path, Residual())
    loaded = load_model(tmp_path, Residual(), check=False)
    assert loaded.widths == (1.0,)
    assert torch.equal(loaded(images(), lam=0.3), model(images(), lam=0.3))


def test_codes_are_those_that_were_saved_whatever_the_seed_draws(tmp_path):
    model = to_conditional(Residual(), seed=1)
    save_model(model, tmp_path)
    edit(tmp_path, seed=2)
    assert torch.equal(load_model(tmp_path, Residual(), check=False).encoding.table, model.encoding.table)


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
        (lambda folder: (folder / "config.json").write_text('{"format": 99}'), Residual(), "format 1, got 99"),
    ],
)
def test_what_does_not_fit_the_files_is_refused(tmp_path, spoil, network, message):
    save_model(shaken(Residual(), widths=WIDTHS), tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path, network, check=False)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nowhere")


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="architecture must be one of"):
        Architecture("os.system", {})


@pytest.mark.slow(seconds=1)
def test_whenever_a_save_breaks_off_the_model_of_before_or_of_now_is_there(tmp_path, monkeypatch):
    """Every operation on files fails in turn, and whatever would clean up after it."""
    old, new = shaken(Residual()), shaken(Residual())
    new.default_point = OperatingPoint(0.3)
    operations = ((Path, "open"), (Path, "touch"), (os, "fsync"), (Path, "replace"), (Path, "unlink"))
    for nb_before in itertools.count():
        save_model(old, tmp_path)
        numbers = itertools.count()

        def failing(operation, numbers=numbers, nb_before=nb_before):
            def call(*arguments, **options):
                if next(numbers) >= nb_before:
                    raise OSError(28, "No space left on device")
                return operation(*arguments, **options)

            return call

        for place, name in operations:
            monkeypatch.setattr(place, name, failing(getattr(place, name)))
        with contextlib.suppress(OSError):
            save_model(new, tmp_path)
        monkeypatch.undo()
        loaded = load_model(tmp_path, Residual())
        expected = old if loaded.default_point == old.default_point else new
        assert loaded.default_point == expected.default_point
        torch.testing.assert_close(loaded.state_dict(), expected.state_dict(), rtol=0, atol=0)
        if next(numbers) <= nb_before:  # none has failed
            break
    assert nb_before > len(operations)
    assert expected is new


def earlier(folder: Path) -> None:
    """Call the description of a saved model what it was called before."""
    (folder / "config.json").replace(folder / "model.json")


def test_a_folder_of_before_whose_description_was_called_otherwise_is_loaded_and_renamed_when_saved_again(tmp_path):
    old, new = shaken(Residual()), shaken(Residual())
    save_model(old, tmp_path)
    earlier(tmp_path)
    torch.testing.assert_close(load_model(tmp_path, Residual()).state_dict(), old.state_dict(), rtol=0, atol=0)
    save_model(new, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
    torch.testing.assert_close(load_model(tmp_path, Residual()).state_dict(), new.state_dict(), rtol=0, atol=0)


def test_a_damaged_description_of_before_is_refused_by_its_name(tmp_path):
    save_model(shaken(Residual()), tmp_path)
    earlier(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"model\.json must hold JSON"):
        load_model(tmp_path, Residual())


def test_weights_say_that_they_are_torch_s_as_transformers_asks(tmp_path):
    save_model(shaken(Residual()), tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_full_disk_is_told_of_with_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    save_model(to_conditional(Residual()), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write: No space left on device: .*model.*\.json"):
        save_model(to_conditional(Residual(), seed=1), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_no_bit_of_a_file_changes_unnoticed(tmp_path, name):
    model = to_conditional(SmallCNN(channels=(2,), nb_classes=2))
    save_model(model, tmp_path, Architecture("SmallCNN", {"channels": [2], "nb_classes": 2}))
    path, draw = tmp_path / name, random.Random(name)
    good = path.read_bytes()
    for _ in range(100):
        flipped, place = bytearray(good), draw.randrange(len(good))
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        loaded = said = None
        try:
            loaded = load_model(tmp_path)
        except ValueError as error:
            said = str(error)
        if loaded is None:
            assert name in said
            assert "\n" not in said
        else:  # a tab for a space in the JSON says the same
            assert json.loads(flipped) == json.loads(good)
            torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def spoiled(change):
    return lambda tensors: tensors | {name: change(it) for name, it in tensors.items() if name.endswith("head.weight")}


def negative(tensors):
    return tensors | {name: it - 9 for name, it in tensors.items() if name.endswith("running_var")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoiled(lambda it: it.int()), r"head\.weight must be float32 \[3, 6\], got int32 \[3, 6\]"),
        (spoiled(lambda it: it.half()), r"head\.weight must be float32 \[3, 6\], got float16 \[3, 6\]"),
        (spoiled(lambda it: it[:, :5].contiguous()), r"head\.weight must be float32 \[3, 6\], got float32 \[3, 5\]"),
        (spoiled(lambda it: it * float("nan")), r"head\.weight must hold numbers, got NaN"),
        (spoiled(lambda it: it * float("inf")), r"head\.weight must be finite, got infinity"),
        (negative, r"running_var must be at least 0, got -"),
        (lambda tensors: {}, "missing are|would have"),
        (lambda tensors: tensors | {"more": torch.ones(2)}, r"unexpected \['more'\]"),
    ],
)
def test_weights_that_no_model_has_are_refused_by_name_also_unchecked(tmp_path, change, message):
    save_model(shaken(SmallCNN(channels=(4, 6), nb_classes=3), torch.float32), tmp_path, ARCHITECTURE)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    safetensors.torch.save_file(change(tensors), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="SHA-256 is another"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path, check=False)
    assert "\n" not in str(caught.value)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    model = to_conditional(Residual())
    with torch.no_grad():
        next(model.parameters())[0] = float("nan")
    with pytest.raises(ValueError, match="must hold numbers, got NaN"):
        save_model(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": {"name": "SmallCNN", "arguments": {"channels": [20_000, 20_000]}}}, "would have 3600"),
        ({"architecture": {"name": "SmallCNN", "arguments": {"channels": [10**400]}}}, "must describe a network, but"),
        ({"architecture": {"name": "SmallCNN", "arguments": [1]}}, "must describe a network, but"),
        ({"architecture": {"nom": 1}}, "must describe a network, but"),
        ({"architecture": {"name": "SmallCNN", "arguments": {"channels": []}}}, "channels must hold whole numbers"),
        ({"architecture": 3}, "but architecture in it is not"),
        ({"conversion": {"code_dim": 10**6}}, "code_dim must be at most"),
        ({"conversion": {"input_shape": [1, 10**5, 10**5]}}, "input_shape must hold at most"),
        ({"conversion": {"lambs": [0, 1]}}, "that the weights do not fit: TypeError.*lambs"),
        ({"conversion": []}, "but conversion in it is not"),
        ({"default_point": {"lam": 9}}, "that the weights do not fit"),
        ({"dtype": "int7"}, "must name dtypes of .*, got int7"),
        ({"class": None}, "but class in it is not"),
    ],
)
def test_a_description_of_another_origin_is_refused_in_one_line_before_it_takes_memory(tmp_path, change, message):
    save_model(shaken(SmallCNN(channels=(4, 6), nb_classes=3), torch.float32), tmp_path, ARCHITECTURE)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path, check=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_files_of_another_kind_are_refused_by_name(tmp_path, name, content):
    save_model(to_conditional(Residual()), tmp_path)
    (tmp_path / name).write_bytes(content)
    for check in (True, False):
        with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
            load_model(tmp_path, Residual(), check=check)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_the_same_model_gives_the_same_bytes(tmp_path, heads):
    model = shaken(Bottleneck(), **SLIMMABLE, heads=heads)
    contents = set()
    for folder in (tmp_path / "a", tmp_path / "b"):
        save_model(copy.deepcopy(model), folder)
        contents.add(tuple((folder / name).read_bytes() for name in ("model.safetensors", "config.json")))
    save_model(load_model(tmp_path / "a", Bottleneck()), tmp_path / "c")
    contents.add(tuple((tmp_path / "c" / name).read_bytes() for name in ("model.safetensors", "config.json")))
    assert len(contents) == 1
    assert weights_digest(model) == digest(tmp_path / "a" / "model.safetensors")


def test_tensors_that_several_names_share_are_written_once(tmp_path):
    model = shaken(SharedNorm(), **SLIMMABLE)
    save_model(model, tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors").values()
    own = [*model.parameters(), *(it for it in model.buffers())]  # each once
    assert sum(it.numel() for it in tensors) == sum(it.numel() for it in own)


def test_a_network_of_several_dtypes_comes_back_with_them(tmp_path):
    def mixed() -> nn.Module:
        network = Residual()
        network.head.double()
        network.head.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
        return network

    model = to_conditional(mixed()).eval()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, mixed())
    assert {it.dtype for it in loaded.parameters()} == {torch.float32, torch.float64}
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_mask_may_be_infinite(tmp_path):
    def masked() -> nn.Module:
        network = Residual()
        network.register_buffer("mask", torch.full((2,), -torch.inf))
        return network

    save_model(to_conditional(masked()), tmp_path)
    assert load_model(tmp_path, masked()).network.mask.isinf().all()


def test_loading_draws_nothing_from_the_global_generator(tmp_path):
    save_model(shaken(SmallCNN(channels=(4, 6), nb_classes=3)), tmp_path, ARCHITECTURE)
    before = torch.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
