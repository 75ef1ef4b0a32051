import numpy as np
import pytest

from art_oat.data.dataset import Dataset, Split, as_dataset, complete, draw, reduce, size_faults
from art_oat.levels import as_floats
from art_oat.storage import digest

RANDOM = np.random.default_rng(0)


def numbered(y, start=0):
    """Images that all differ: each one is its own number."""
    numbers = np.arange(start, start + len(y), dtype=np.float32)
    return np.broadcast_to(numbers[:, None, None, None], (len(y), 1, 2, 2)), y


def numbers_of(parts):
    return np.concatenate([x[:, 0, 0, 0] for x, _ in parts.values()])


@pytest.mark.parametrize("nb_drawn", [0, 1, 7, 50, 99, 300])
def test_a_draw_holds_each_class_in_its_share_and_no_sample_twice(nb_drawn):
    y = RANDOM.choice(5, size=300, p=[0.5, 0.3, 0.1, 0.07, 0.03])
    drawn = draw(y, nb_drawn, seed=1)
    assert len(np.unique(drawn)) == len(drawn) == nb_drawn
    np.testing.assert_array_equal(drawn, np.sort(drawn))
    share = np.bincount(y, minlength=5) * nb_drawn / len(y)
    assert np.abs(np.bincount(y[drawn], minlength=5) - share).max() < 1


def test_a_draw_prefers_no_sample_of_a_class():
    y, nb_draws = np.arange(20) % 2, 4000
    shares = np.bincount(np.concatenate([draw(y, 6, seed) for seed in range(nb_draws)]), minlength=20) / nb_draws
    five_standard_errors = 5 * (0.3 * 0.7 / nb_draws) ** 0.5
    np.testing.assert_allclose(shares, 6 / 20, rtol=0, atol=five_standard_errors)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_alone_decides_a_draw(seed):
    y = np.arange(100) % 10
    np.testing.assert_array_equal(draw(y, 30, seed), draw(y, 30, seed))
    assert not np.array_equal(draw(y, 30, seed), draw(y, 30, seed + 1))


def test_missing_parts_are_split_off_the_train_part_a_fifth_and_then_a_tenth():
    completed = complete({"train": numbered(np.arange(1000) % 10)}, seed=0)
    assert {part: len(y) for part, (_, y) in completed.items()} == {"train": 720, "validation": 80, "test": 200}
    np.testing.assert_array_equal(np.sort(numbers_of(completed)), np.arange(1000))
    for _, y in completed.values():
        assert np.bincount(y, minlength=10).min() == np.bincount(y).max()


def test_images_stay_with_their_labels():
    y = RANDOM.permutation(np.arange(100) % 7)
    parts = reduce(complete({"train": numbered(y)}, seed=0), nb_train=30, nb_test=9, seed=0)
    for x, labels in parts.values():
        np.testing.assert_array_equal(labels, y[x[:, 0, 0, 0].astype(int)])


def test_given_parts_stay_as_they_are():
    given = {
        part: numbered(np.arange(10) % 2, start) for part, start in (("train", 0), ("validation", 10), ("test", 20))
    }
    completed = complete(given, seed=0)
    for part, (x, _) in given.items():
        np.testing.assert_array_equal(completed[part][0], x)


def test_fewer_training_images_leave_fewer_validation_images_in_proportion():
    parts = complete({"train": numbered(np.arange(500) % 5), "test": numbered(np.arange(50) % 5, 500)}, seed=0)
    reduced = reduce(parts, nb_train=90, nb_test=20, seed=0)
    assert {part: len(y) for part, (_, y) in reduced.items()} == {"train": 90, "validation": 10, "test": 20}
    untouched = reduce(parts, None, None, seed=0)
    assert {part: len(y) for part, (_, y) in untouched.items()} == {"train": 450, "validation": 50, "test": 50}


def test_the_train_part_does_not_depend_on_how_many_test_images_are_kept():
    parts = complete({"train": numbered(np.arange(500) % 5)}, seed=0)
    first, second = (reduce(parts, 60, nb_test, seed=0)["train"][0] for nb_test in (None, 10))
    np.testing.assert_array_equal(first, second)


def test_more_images_than_there_are_and_fewer_than_classes_are_refused_together():
    parts = complete({"train": numbered(np.arange(100) % 10)}, seed=0)
    assert size_faults(parts, 10, 20, seed=0) == size_faults(parts, 72, None, seed=0) == []
    too_few, too_many = size_faults(parts, 9, 21, seed=0)
    assert "nb_train must lie in [10, 72]" in too_few
    assert "nb_test must be at most 20" in too_many
    assert len(size_faults(parts, 73, None, seed=0)) == 1


def test_bytes_become_float32_in_0_to_1_in_rows():
    x = np.moveaxis(np.arange(256, dtype=np.uint8).reshape(1, 8, 8, 4), -1, 1)
    part = (x, np.array([3], dtype=np.uint8))
    images, y = as_dataset({"train": part, "validation": part, "test": part}).train
    assert (images.dtype, y.dtype, images.shape) == (np.float32, np.int64, (1, 4, 8, 8))
    assert images.flags.c_contiguous
    np.testing.assert_allclose(images, x / 255, rtol=np.finfo(np.float32).eps)
    assert (images.min(), images.max()) == (0, 1)


def test_bytes_that_are_kept_stand_for_the_very_floats_and_have_their_digest():
    x = np.moveaxis(np.arange(256, dtype=np.uint8).reshape(1, 8, 8, 4), -1, 1)
    part = (x, np.array([3], dtype=np.uint8))
    parts = {"train": part, "validation": part, "test": part}
    kept, floats = as_dataset(parts, keeps_levels=True).train, as_dataset(parts).train
    assert (kept.x.dtype, kept.y.dtype) == (np.uint8, np.int64)
    assert kept.x.flags.c_contiguous
    assert np.array_equal(as_floats(kept.x, (0, 1)), floats.x)
    assert kept.digest() == floats.digest() == digest(floats.x, floats.y) != digest(kept.x, kept.y)


def test_the_shape_of_an_image_and_the_number_of_classes_come_from_all_parts():
    splits = (Split(np.zeros((1, 3, 5, 4), np.float32), np.array([k])) for k in (2, 6, 4))
    data = Dataset(*splits)
    assert (data.input_shape, data.nb_classes) == ((3, 5, 4), 7)


def test_a_class_that_would_lose_all_its_images_is_a_fault():
    y = np.array([0] * 100 + [1] * 100 + [2])
    parts = {name: (np.zeros((len(y), 1, 2, 2)), y) for name in ("train", "validation", "test")}
    assert "every class to keep an image, got 4" in size_faults(parts, 4, None, seed=0)[0]
    assert size_faults(parts, len(y), None, seed=0) == []
