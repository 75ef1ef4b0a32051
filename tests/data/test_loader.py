from pathlib import Path

import numpy as np
import pytest

from art_oat.data import digits, load, textured_digits


@pytest.mark.parametrize(("name", "function"), [("digits", digits), ("textured-digits", textured_digits)])
def test_digits_by_name_are_the_digits(name, function):
    for named, direct in zip(load(name, seed=3), function(3), strict=True):
        np.testing.assert_array_equal(named.x, direct.x)
        np.testing.assert_array_equal(named.y, direct.y)


def test_a_subset_holds_as_many_images_as_asked_for_out_of_the_same_parts():
    whole, some = load("digits"), load("digits", nb_train=303, nb_test=45)
    assert [len(part.x) for part in some] == [303, round(135 * 303 / 1212), 45]
    for part, superset in zip(some, whole, strict=True):
        images = {image.tobytes() for image in superset.x}
        assert all(image.tobytes() in images for image in part.x)


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_path_is_read_as_a_file_of_arrays(tmp_path, as_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.zeros((50, 3, 6, 5), np.uint8), y=np.arange(50) % 2)
    data = load(as_path(path))
    assert [part.x.shape for part in data] == [(36, 3, 6, 5), (4, 3, 6, 5), (10, 3, 6, 5)]


@pytest.mark.parametrize("name", ["cifar100", "", Path("somewhere/data.csv")])
def test_an_unknown_name_is_refused_and_the_known_ones_named(name):
    with pytest.raises(
        ValueError, match=r"one of cifar10, digits, mnist, stl10, svhn, textured-digits, or end in \.npz"
    ):
        load(name)


def test_all_faults_of_a_request_are_named_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"folder must be None for digits.* nb_train must .* 0.* nb_test must .* 1\.5"):
        load("digits", folder=tmp_path, nb_train=0, nb_test=1.5)
    with pytest.raises(ValueError, match=r"nb_train must lie in \[10, 1212\].* nb_test must be at most 450"):
        load("digits", nb_train=2000, nb_test=2000)


def test_the_folder_is_passed_on(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "here")):
        load("mnist", folder=tmp_path / "here")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "here")):
        load("mnist", folder=str(tmp_path / "here"))
