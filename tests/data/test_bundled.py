import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from art_oat.data import Dataset, digits, textured_digits
from art_oat.data.bundled import _halved, _tiles, blend, enlarge


@pytest.fixture(scope="module")
def textured():
    return textured_digits()


def test_the_digits_are_split_without_overlap_and_in_equal_class_shares():
    data = digits()
    assert [len(part.x) for part in data] == [1212, 135, 450]
    everything = np.concatenate([part.x for part in data]).reshape(1797, -1)
    original = (load_digits().data / 16).astype(np.float32)
    np.testing.assert_array_equal(everything[np.lexsort(everything.T)], original[np.lexsort(original.T)])
    share = np.bincount(np.concatenate([part.y for part in data])) / 1797
    for part in data:
        assert np.abs(np.bincount(part.y) - share * len(part.y)).max() <= 1


@pytest.mark.parametrize(
    ("make", "shape", "sizes"),
    [(digits, (1, 8, 8), [1212, 135, 450]), (textured_digits, (3, 16, 16), [12120, 540, 1800])],
)
def test_images_are_in_0_to_1_and_fit_art(make, shape, sizes):
    data = make()
    assert [part.x.shape for part in data] == [(size, *shape) for size in sizes]
    for part in data:
        assert part.x.dtype == np.float32
        assert part.x.flags.c_contiguous
        assert 0 <= part.x.min() < 0.05
        assert 0.95 < part.x.max() <= 1


def test_ink_turns_a_patch_to_its_negative_and_paper_leaves_it():
    patches = np.random.default_rng(0).random((2, 3, 4, 4), dtype=np.float32)
    paper, ink = np.zeros((2, 1, 4, 4), np.float32), np.ones((2, 1, 4, 4), np.float32)
    np.testing.assert_array_equal(blend(paper, patches), patches)
    np.testing.assert_array_equal(blend(ink, patches), 1 - patches)
    np.testing.assert_array_equal(blend(ink / 2, np.full_like(patches, 0.25)), np.full_like(patches, 0.25))


def test_a_digit_is_invisible_on_gray_alone():
    x = enlarge(digits().test.x[:1])
    gray = np.full((1, 3, 16, 16), 0.5, np.float32)
    assert np.abs(blend(np.round(x), gray) - gray).max() == 0


def test_enlarging_keeps_the_mean_and_the_range():
    x = digits().test.x[:20]
    larger = enlarge(x)
    assert larger.shape == (20, 1, 16, 16)
    assert 0 <= larger.min() <= larger.max() <= 1
    # the border is repeated, so that every pixel counts four times in all
    np.testing.assert_allclose(larger.mean(axis=(2, 3)), x.mean(axis=(2, 3)), atol=1e-6)


def test_halving_a_photograph_averages_blocks():
    photograph = load_sample_images().images[0]
    halved = _halved(photograph)
    assert halved.shape == (3, 213, 320)
    np.testing.assert_allclose(halved[:, 7, 9], photograph[14:16, 18:20].mean(axis=(0, 1)) / 255, rtol=1e-6)


def own_pixels(part):
    """Where the tiles of a part lie in a photograph."""
    is_own = np.zeros((213, 320), dtype=bool)
    for top, left in _tiles(part, is_own.shape):
        is_own[top : top + 32, left : left + 32] = True
    return is_own


def test_no_pixel_of_a_photograph_is_in_two_parts_and_training_has_three_fifths():
    train, validation, test = (own_pixels(part) for part in Dataset._fields)
    assert not (train & validation | train & test | validation & test).any()
    assert [train.sum(), validation.sum(), test.sum()] == [36 * 32**2, 12 * 32**2, 12 * 32**2]


def test_every_digit_of_a_part_is_in_it_so_many_times_and_no_other(textured):
    for part, plain, nb_copies in zip(textured, digits(), (10, 4, 4), strict=True):
        np.testing.assert_array_equal(part.y, np.repeat(plain.y, nb_copies))


@pytest.mark.parametrize("name", Dataset._fields)
def test_where_there_is_no_ink_there_is_a_photograph_at_the_tiles_of_the_part(textured, name):
    own = np.concatenate([_halved(image)[:, own_pixels(name)].T for image in load_sample_images().images])
    nb_copies = len(getattr(textured, name).x) // len(getattr(digits(), name).x)
    ink = enlarge(getattr(digits(), name).x[:40]).repeat(nb_copies, axis=0)[:, 0]
    paper = np.moveaxis(getattr(textured, name).x[: len(ink)], 1, -1)[ink == 0]
    assert set(map(bytes, paper)) <= set(map(bytes, np.ascontiguousarray(own)))


@pytest.mark.parametrize("make", [digits, textured_digits])
def test_the_seed_draws_the_split_and_the_patches(make):
    np.testing.assert_array_equal(make(1).test.x, make(1).test.x)
    assert not np.array_equal(make(1).test.x, make(2).test.x)
