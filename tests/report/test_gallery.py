import base64
import io

import numpy as np
import pytest
from PIL import Image

from art_oat import OperatingPoint
from art_oat.levels import as_floats
from art_oat.report.gallery import attacked, chosen, data_uri, dial, survivors


def test_a_dial_stops_at_every_lam_and_evenly_between():
    np.testing.assert_allclose(dial([0.0, 0.3, 1.0]), [0, 0.1, 0.2, 0.3, 0.3 + 0.7 / 3, 0.3 + 1.4 / 3, 1])
    assert dial([0.4]) == [0.4]
    assert len(dial([number / 40 for number in range(41)])) == 41


def test_half_of_the_images_are_such_that_lam_decides_and_all_kinds_and_classes_occur():
    y = np.tile(np.arange(5), 8)
    kind = np.repeat(["decided", "wrong", "robust", "broken"], 10)
    clean = np.array([kind != "wrong"] * 2)
    robust = np.array([kind == "robust", np.isin(kind, ["robust", "decided"])])
    found = chosen(clean, robust, y, 12)
    assert len(set(found)) == 12
    kinds = dict(zip(*np.unique(kind[found], return_counts=True), strict=True))
    assert kinds == {"decided": 6, "wrong": 2, "robust": 2, "broken": 2}
    assert set(y[found]) == set(range(5))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_attacked_images_lie_in_the_ball_and_in_the_range_and_are_the_same_each_time(classifier, data, norm):
    x, y = as_floats(data.test.x[:20], (0, 1)), data.test.y[:20]
    point = OperatingPoint(0.5, 0.5)
    x_adv = attacked(classifier, x, y, point, eps=0.1, norm=norm)
    distance = np.linalg.norm((x_adv - x).reshape(20, -1), np.inf if norm == "Linf" else 2, axis=1)
    assert distance.max() <= 0.1 + 1e-6
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    np.testing.assert_array_equal(x_adv, attacked(classifier, x, y, point, eps=0.1, norm=norm))


def test_what_survives_is_answered_right_as_it_is_and_under_every_smaller_attack(classifier, data):
    x, y, point = as_floats(data.test.x[:40], (0, 1)), data.test.y[:40], OperatingPoint(1.0)
    found = survivors(classifier, x, y, point, radii=[0.05, 0.1, 0.4], norm="Linf")
    np.testing.assert_array_equal(found[0], classifier.predict(x, lam=1.0, width=1.0).argmax(1) == y)
    assert (found[1:] <= found[:-1]).all()
    left = np.flatnonzero(found[0])
    x_adv = attacked(classifier, x[left], y[left], point, eps=0.05, norm="Linf")
    expected = classifier.predict(x_adv, lam=1.0, width=1.0).argmax(1) == y[left]
    np.testing.assert_array_equal(found[1][left], expected)


def test_a_gray_image_stays_gray_and_a_large_one_is_made_smaller():
    gray, large = np.full((1, 8, 8), 0.5, np.float32), np.zeros((3, 300, 200), np.float32)
    pictures = [Image.open(io.BytesIO(base64.b64decode(data_uri(it).partition(",")[2]))) for it in (gray, large)]
    assert [(it.mode, it.size) for it in pictures] == [("L", (8, 8)), ("RGB", (85, 128))]
    assert pictures[0].getpixel((3, 3)) == 128


def test_fewer_images_than_are_asked_for_are_all_chosen():
    right = np.ones((2, 3), bool)
    assert chosen(right, right, np.array([2, 0, 1]), 12) == [1, 2, 0]
