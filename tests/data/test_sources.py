import hashlib
import pathlib
import pickle
import shutil
import ssl
import tarfile
import urllib.error
from dataclasses import replace

import numpy as np
import pytest
from art import config, utils
from scipy.io import savemat

from art_oat.data import load
from art_oat.data.sources import SOURCES, read_source

RANDOM = np.random.default_rng(0)


def images_of(*shape):
    """Random bytes, among them the darkest and the brightest: ART scales some data sets by what they hold."""
    images = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = 0, 255
    return images


def lay_out_cifar10(folder):
    """ART's loader spreads a batch of one image over the 10,000 places of a batch: a small file makes a whole set."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    images, names = images_of(6, 3, 32, 32), [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for label, (name, image) in enumerate(zip(names, images, strict=True)):
        content = {b"data": image.reshape(1, 3072), b"labels": [label % 5]}
        (batches / name).write_bytes(pickle.dumps(content, protocol=4))
    return (np.repeat(images[:5], 10_000, axis=0), np.repeat(np.arange(5), 10_000)), (images[5:], np.zeros(1))


def lay_out_mnist(folder):
    train, test = images_of(30, 28, 28, 1)[..., 0], images_of(20, 28, 28, 1)[..., 0]
    y, y_test = (np.arange(n, dtype=np.uint8) % 10 for n in (30, 20))
    folder.mkdir(exist_ok=True)
    np.savez(folder / "mnist.npz", x_train=train, y_train=y, x_test=test, y_test=y_test)
    return (train[:, None], y), (test[:, None], y_test)


def lay_out_stl10(folder):
    (folder / "stl10_binary").mkdir(parents=True)
    parts = {"train": (images_of(20, 3, 96, 96), np.arange(20) % 10), "test": (images_of(10, 3, 96, 96), np.arange(10))}
    for part, (x, y) in parts.items():
        x.tofile(folder / "stl10_binary" / f"{part}_X.bin")
        (y + 1).astype(np.uint8).tofile(folder / "stl10_binary" / f"{part}_y.bin")
    return parts["train"], parts["test"]


def lay_out_svhn(folder):
    folder.mkdir(exist_ok=True)
    parts = {
        "train": (images_of(40, 3, 32, 32), np.arange(40) % 10),
        "test": (images_of(20, 3, 32, 32), np.arange(20) % 10),
    }
    for part, (x, y) in parts.items():
        labels = np.where(y == 0, 10, y).astype(np.uint8)[:, None]
        savemat(folder / f"{part}_32x32.mat", {"X": x.transpose(2, 3, 1, 0), "y": labels})
    return parts["train"], parts["test"]


LAY_OUT = {"cifar10": lay_out_cifar10, "mnist": lay_out_mnist, "stl10": lay_out_stl10, "svhn": lay_out_svhn}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(url, path):
        raise AssertionError(f"{url} must not be asked for")

    monkeypatch.setattr("urllib.request.urlretrieve", refuse)


def offer(monkeypatch, name, file, sha256=None):
    """Have downloads of a data set bring a file, of the checksum that is known or of another."""
    monkeypatch.setattr("urllib.request.urlretrieve", lambda url, path: shutil.copy(file, path))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest() if sha256 is None else sha256
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], sha256=sha256))


@pytest.mark.parametrize("name", LAY_OUT)
def test_images_and_labels_are_those_in_the_files(tmp_path, name):
    expected = LAY_OUT[name](tmp_path)
    parts = read_source(name, tmp_path)
    assert list(parts) == ["train", "test"]
    for (x, y), (expected_x, expected_y) in zip(parts.values(), expected, strict=True):
        brightest = 255 if x.dtype == np.uint8 else 1
        # float32 rounds a byte over 255, which float64 has rounded before
        np.testing.assert_allclose(x[::97] / brightest, expected_x[::97] / 255, rtol=np.finfo(np.float32).eps)
        assert x.shape == expected_x.shape
        assert x.dtype in (np.uint8, np.float32)  # float64 would take gigabytes
        np.testing.assert_array_equal(y, expected_y)


def test_a_subset_of_cifar10_is_ready_for_training(tmp_path):
    lay_out_cifar10(tmp_path)
    data = load("cifar10", folder=tmp_path, nb_train=90)
    assert [len(part.y) for part in data] == [90, 10, 1]
    assert (data.input_shape, data.nb_classes, data.train.x.dtype) == ((3, 32, 32), 5, np.float32)
    np.testing.assert_array_equal(np.bincount(data.train.y), 18)


def test_art_s_data_folder_is_the_one_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ART_DATA_PATH", str(tmp_path))
    _, y = lay_out_mnist(tmp_path)[0]
    np.testing.assert_array_equal(read_source("mnist")["train"][1], y)


@pytest.mark.parametrize("name", LAY_OUT)
def test_missing_files_are_named_with_how_to_get_them_and_nothing_is_made(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        read_source(name, tmp_path / "empty", download=name == "svhn")  # which cannot be downloaded
    message = str(caught.value)
    for expected in (*SOURCES[name].files, str(tmp_path / "empty"), SOURCES[name].origin, "name the folder"):
        assert expected in message
    assert ("download=True" in message) == (name != "svhn")
    assert not (tmp_path / "empty").exists()


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch"])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path, name):
    lay_out_cifar10(tmp_path)
    path, trace = tmp_path / "cifar-10-batches-py" / name, tmp_path / "ran"
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(content | {b"labels": Runs(trace)}))
    with pytest.raises(ValueError, match=f"{name} cannot be read: .*it would run pathlib.*, which no data set needs"):
        read_source("cifar10", tmp_path)
    assert not trace.exists()


class Crafted:
    """Pickled, it is one array whose bytes pass for the address of an object: looked at, it runs what is there."""

    def __init__(self, code, flags, content):
        self.dtype = Dtype(code, flags)
        self.content = content

    def __reduce__(self):
        make, given, (version, *_) = np.zeros(1, np.uint8).__reduce__()
        return make, given, (version, (1,), self.dtype, False, self.content)


class Dtype:
    def __init__(self, code, flags):
        self.code, self.flags = code, flags

    def __reduce__(self):
        return np.dtype, (self.code, False, True), (3, "|", None, None, None, -1, -1, self.flags)


@pytest.mark.parametrize(
    ("code", "flags", "content"), [("O8", 0, b"ABCDEFGH"), ("O8", 63, [Runs]), ("u8", 63, b"ABCDEFGH"), ("V8", 0, b"A")]
)
def test_a_pickle_of_an_array_of_something_else_than_numbers_is_refused_before_it_is_made(
    tmp_path, code, flags, content
):
    lay_out_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Crafted(code, flags, content), b"labels": [0]}, protocol=4))
    with pytest.raises(ValueError, match=r"data_batch_1 cannot be read: .*it (holds|would run)"):
        read_source("cifar10", tmp_path)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("protocol", range(6))
def test_a_cifar10_folder_is_read_whatever_protocol_it_was_pickled_by(tmp_path, protocol):
    lay_out_cifar10(tmp_path)
    expected = read_source("cifar10", tmp_path)["train"][0]
    for path in (tmp_path / "cifar-10-batches-py").iterdir():
        path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()), protocol=protocol))
    np.testing.assert_array_equal(read_source("cifar10", tmp_path)["train"][0], expected)


def test_only_the_missing_files_are_named(tmp_path):
    lay_out_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="but cifar-10-batches-py/data_batch_3 is missing"):
        read_source("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_an_archive_is_downloaded_checked_and_unpacked(tmp_path, monkeypatch, name):
    (_, expected), _ = LAY_OUT[name](tmp_path / "origin")
    top = SOURCES[name].files[0].split("/")[0]
    (tmp_path / "origin" / top / "more").write_text("what nobody needs")
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        archive.add(tmp_path / "origin" / top, top)
    offer(monkeypatch, name, tmp_path / "archive")
    _, y = read_source(name, tmp_path / "new" / "folder", download=True)["train"]
    np.testing.assert_array_equal(y, expected)
    new = tmp_path / "new" / "folder"
    found = {str(path.relative_to(new)) for path in new.rglob("*") if path.is_file()}
    assert found == set(SOURCES[name].files)


def test_a_file_is_downloaded_and_checked_once(tmp_path, monkeypatch):
    _, (_, expected) = lay_out_mnist(tmp_path / "origin")
    offer(monkeypatch, "mnist", tmp_path / "origin" / "mnist.npz")
    np.testing.assert_array_equal(read_source("mnist", tmp_path / "new", download=True)["test"][1], expected)
    monkeypatch.setattr("urllib.request.urlretrieve", None)  # files that are there are not downloaded
    np.testing.assert_array_equal(read_source("mnist", tmp_path / "new", download=True)["test"][1], expected)


def test_a_download_of_another_checksum_is_refused_before_it_is_opened(tmp_path, monkeypatch):
    (tmp_path / "archive").write_bytes(pickle.dumps({b"data": [], b"labels": []}))
    offer(monkeypatch, "cifar10", tmp_path / "archive", sha256="0" * 64)
    with pytest.raises(OSError, match=r"must have SHA-256 0{64}, got [0-9a-f]{64}\. It was not kept"):
        read_source("cifar10", tmp_path / "new", download=True)
    assert not list((tmp_path / "new").iterdir())


def test_a_download_that_fails_says_how_to_get_the_files_otherwise(tmp_path, monkeypatch):
    def fail(url, path):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlretrieve", fail)
    with pytest.raises(OSError, match=r"mnist could not be downloaded: .*no route.* the file that Keras offers"):
        read_source("mnist", tmp_path, download=True)


def test_art_and_its_process_are_left_as_they_were(tmp_path, monkeypatch):
    context, get_file = ssl._create_default_https_context, utils.get_file
    lay_out_mnist(tmp_path / "origin")
    offer(monkeypatch, "mnist", tmp_path / "origin" / "mnist.npz")
    read_source("mnist", tmp_path / "new", download=True)
    (tmp_path / "new" / "mnist.npz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"mnist in .* must be as published"):
        read_source("mnist", tmp_path / "new")
    assert ssl._create_default_https_context is context
    assert utils.get_file is get_file


@pytest.mark.parametrize("name", LAY_OUT)
def test_damaged_files_are_refused_by_name(tmp_path, name):
    LAY_OUT[name](tmp_path)
    (tmp_path / SOURCES[name].files[0]).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"{name} in .* must be as published"):
        read_source(name, tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "mnist", "stl10"])
def test_art_asks_for_the_files_by_the_names_that_are_looked_for(name, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(utils, "get_file", lambda filename, **_: asked.append(filename) or str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        utils.load_dataset(name)
    assert all(file.split("/")[0] == asked[0] for file in SOURCES[name].files)
