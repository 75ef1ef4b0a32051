import numpy as np
from sklearn.datasets import load_digits

from art_oat.data import digits


def test_the_digits_are_split_without_overlap_and_in_equal_class_shares():
    data = digits()
    assert [len(part.x) for part in data] == [1212, 135, 450]
    everything = np.concatenate([part.x for part in data]).reshape(1797, -1)
    original = (load_digits().data / 16).astype(np.float32)
    np.testing.assert_array_equal(everything[np.lexsort(everything.T)], original[np.lexsort(original.T)])
    share = np.bincount(np.concatenate([part.y for part in data])) / 1797
    for part in data:
        assert np.abs(np.bincount(part.y) - share * len(part.y)).max() <= 1


def test_images_are_in_0_to_1_and_fit_art():
    for part in digits():
        assert part.x.dtype == np.float32
        assert part.x.shape[1:] == (1, 8, 8)
        assert (part.x.min(), part.x.max()) == (0, 1)


def test_the_seed_draws_the_split():
    np.testing.assert_array_equal(digits(1).test.y, digits(1).test.y)
    assert not np.array_equal(digits(1).test.x, digits(2).test.x)
