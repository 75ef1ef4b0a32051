import random

import numpy as np
import pytest

from art_oat.data.arrays import read_arrays

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (12, 3, 6, 5), dtype=np.uint8)
IMAGES[0, 0, 0, :2] = 0, 255
LABELS = np.arange(12) % 4


def saved(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return path


def faults_of(path):
    with pytest.raises(ValueError, match="must hold a data set") as caught:
        read_arrays(path)
    return str(caught.value)


def test_all_parts_are_read(tmp_path):
    path = saved(
        tmp_path,
        **{f"x_{part}": IMAGES[i:] for i, part in enumerate(("train", "validation", "test"))},
        **{f"y_{part}": LABELS[i:] for i, part in enumerate(("train", "validation", "test"))},
    )
    parts = read_arrays(path)
    assert list(parts) == ["train", "validation", "test"]
    for i, (x, y) in enumerate(parts.values()):
        np.testing.assert_array_equal(x, IMAGES[i:])
        np.testing.assert_array_equal(y, LABELS[i:])


def test_x_and_y_are_the_train_part(tmp_path):
    parts = read_arrays(saved(tmp_path, x=IMAGES, y=LABELS, x_test=IMAGES[:5], y_test=LABELS[:5]))
    assert {part: len(y) for part, (_, y) in parts.items()} == {"train": 12, "test": 5}


@pytest.mark.parametrize("images", [IMAGES, (IMAGES / 255).astype(np.float32), IMAGES / 255, IMAGES[:, :1]])
def test_channels_may_stand_first_or_last(tmp_path, images):
    first, _ = read_arrays(saved(tmp_path, x=images, y=LABELS))["train"]
    last, _ = read_arrays(saved(tmp_path, x=np.moveaxis(images, 1, -1), y=LABELS))["train"]
    np.testing.assert_array_equal(first, images)
    np.testing.assert_array_equal(last, images)


@pytest.mark.parametrize(
    "labels", [LABELS.astype(np.uint8), LABELS.astype(np.float32), LABELS[:, None], np.eye(4)[LABELS]]
)
def test_labels_may_be_indices_or_one_hot(tmp_path, labels):
    _, y = read_arrays(saved(tmp_path, x=IMAGES, y=labels))["train"]
    np.testing.assert_array_equal(y, LABELS)
    assert y.dtype == np.int64


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"x_train": IMAGES[0]}, r"x_train must hold images .* got shape \(3, 6, 5\)"),
        ({"x_train": IMAGES[:, :, :3, :3]}, "fewer channels than rows and columns"),
        ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "x_train must hold images"),
        ({"x_train": IMAGES.astype(np.int64)}, "x_train must be uint8, or floating-point .* got dtype int64"),
        ({"x_train": IMAGES.astype(np.float32)}, r"x_train must lie in \[0, 1\] .* 25\d\.0\]"),
        ({"x_train": IMAGES / 255 - 1}, r"x_train must lie in \[0, 1\] .* \[-1\.0"),
        ({"x_train": np.full(IMAGES.shape, np.nan)}, r"x_train must lie in \[0, 1\] .* \[nan, nan\]"),
        ({"y_train": LABELS[1:]}, "y_train must hold one label per sample, 12, got 11"),
        ({"y_train": LABELS - 1}, r"y_train must hold class indices in \[0, 3\), got -1"),
        ({"y_train": LABELS + 0.5}, "y_train must hold class indices"),
        ({"y_train": np.where(LABELS, LABELS, np.nan)}, "y_train must hold class indices"),
        ({"y_train": np.array(["cat"] * 12)}, "y_train must hold whole numbers"),
        ({"y_train": np.ones((12, 3))}, "y_train must hold exactly one 1 per row"),
        ({"x_test": IMAGES}, "y_test must be there"),
        ({"y_validation": LABELS}, "x_validation must be there"),
        ({"x_test": IMAGES[:, :, :5], "y_test": LABELS}, r"all images must have one shape .*\(3, 6, 5\).*\(3, 5, 5\)"),
        ({"x_test": IMAGES, "y_test": LABELS + 1}, r"y_test must hold class indices in \[0, 4\), got 4"),
        ({"x_val": IMAGES}, "x_val must be one of x_train, x_validation, x_test"),
        ({"x": IMAGES}, "x must be one of x_train"),
        ({"y_train": LABELS.astype(object)}, "y_train must be an array of numbers"),
        ({"x_train": IMAGES[:2], "y_train": LABELS[:2]}, "y_train must hold at least 3 labels, one per part, got 2"),
    ],
)
def test_what_is_no_data_set_is_refused_by_name(tmp_path, change, fault):
    path = saved(tmp_path, **{"x_train": IMAGES, "y_train": LABELS, **change})
    with pytest.raises(ValueError, match=fault):
        read_arrays(path)


def test_all_faults_are_named_at_once(tmp_path):
    path = saved(tmp_path, x=IMAGES * 2.0, y=LABELS[1:], y_test=LABELS, images=IMAGES, x_validation=np.array([None]))
    message = faults_of(path)
    for name in ("x_train must lie", "y_train must hold one", "x_test must be", "images must be", "x_validation must"):
        assert name in message


def test_an_archive_without_arrays_is_refused(tmp_path):
    assert "x_train and y_train must be there, got no array" in faults_of(saved(tmp_path))


def test_python_objects_are_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return ran.touch, ()

    path = saved(tmp_path, x_train=np.array([Malicious()], dtype=object), y_train=LABELS)
    assert "x_train must be an array of numbers" in faults_of(path)
    assert not ran.exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x93NUMPY"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.npz must be an archive of arrays"):
        read_arrays(path)


def test_a_damaged_array_is_refused_by_name(tmp_path):
    path = saved(tmp_path, x_train=IMAGES, y_train=LABELS)
    content = bytearray(path.read_bytes())
    content[content.index(IMAGES.tobytes()[:50])] ^= 1
    path.write_bytes(content)
    assert "x_train must be an array of numbers, but: BadZipFile: Bad CRC-32" in faults_of(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nowhere\.npz"):
        read_arrays(tmp_path / "nowhere.npz")


def test_a_changed_or_missing_byte_is_refused_in_one_line_or_changes_nothing(tmp_path):
    path, draw = saved(tmp_path, x=IMAGES, y=LABELS), random.Random(0)
    good, (x, y) = path.read_bytes(), read_arrays(tmp_path / "mine.npz")["train"]
    for number in range(200):
        place = draw.randrange(len(good))
        rest = good[place + 1 :] if number % 2 else b""
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << draw.randrange(8)]) + rest)
        try:
            parts = read_arrays(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:
            np.testing.assert_array_equal(parts["train"][0], x)
            np.testing.assert_array_equal(parts["train"][1], y)
