import math

import numpy as np
import pytest
import torch

from art_oat.evaluation import Calibration
from art_oat.evaluation.calibration import PointCalibration
from art_oat.storage import read_rows
from tests.conftest import make_classifier
from tests.networks import images

X, Y = images(40, torch.float32).numpy(), np.arange(40) % 5


def point_of(confidence, is_right, nb_bins=15) -> PointCalibration:
    return PointCalibration(0.3, 1.0, np.asarray(confidence, dtype=float), np.asarray(is_right, dtype=bool), nb_bins)


def slow_error(confidence, is_right, nb_bins) -> float:
    """Equation 5 of Guo et al. 2017, bin by bin, sample by sample."""
    total = 0.0
    for b in range(nb_bins):
        inside = [i for i, it in enumerate(confidence) if b / nb_bins < it <= (b + 1) / nb_bins]
        if inside:
            accuracy = sum(bool(is_right[i]) for i in inside) / len(inside)
            sureness = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - sureness)
    return total


@pytest.mark.parametrize("nb_bins", [1, 7, 15])
def test_the_error_is_that_of_a_slow_loop_over_bins_also_on_their_edges(nb_bins):
    generator = np.random.default_rng(nb_bins)
    confidence = np.concatenate([generator.uniform(0.1, 1, 300), np.arange(1, nb_bins + 1) / nb_bins])
    is_right = generator.random(len(confidence)) < 0.6
    point = point_of(confidence, is_right, nb_bins)
    assert point.error == pytest.approx(slow_error(confidence, is_right, nb_bins), rel=1e-12)
    means, accuracies, counts = point.reliability()
    kept = counts > 0
    gaps = counts[kept] * np.abs(means - accuracies)[kept]
    assert counts.sum() == len(confidence)
    assert gaps.sum() / len(confidence) == pytest.approx(point.error, rel=1e-12)


def test_one_who_is_right_as_often_as_he_is_sure_has_an_error_near_0_and_grows_sure_of_himself_at_a_price():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.1, 1, 40_000)
    is_right = generator.random(len(confidence)) < confidence
    noise = math.sqrt(2 / math.pi) * sum(math.sqrt(0.25 / (40_000 / 15)) for _ in range(15)) / 15  # at most, on average
    point = point_of(confidence, is_right)
    assert point.error < 2 * noise < 0.02
    assert abs(point.overconfidence) < 4 * math.sqrt(0.25 / 40_000)
    surer = point_of((confidence + 1) / 2, is_right)
    expected = np.mean((1 - confidence) / 2)  # everywhere too sure: the error is the difference of the means
    assert surer.error == pytest.approx(surer.overconfidence, rel=1e-9)
    assert surer.error == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 40_000))


def test_one_who_is_sure_and_always_wrong_errs_by_1_and_always_right_by_0():
    assert point_of([1, 1], [False, False]).error == 1
    assert point_of([1, 1], [True, True]).error == 0
    assert point_of([1, 1], [False, False]).interval == (1, 1)


def test_the_interval_is_that_of_samples_drawn_anew():
    generator = np.random.default_rng(1)
    confidence = np.full(400, 0.95)
    is_right = generator.random(400) < 0.7
    point = point_of(confidence, is_right)  # one bin: the error is a mean, its standard error that of a share
    half = 1.96 * math.sqrt(point.accuracy * (1 - point.accuracy) / 400)
    low, high = point.interval
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)  # of 1,000 draws
    assert low < point.error < high


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration.measure(make_classifier(widths=(0.5, 1.0)), X, Y, lambdas=[1.0, 0.3])


def test_every_operating_point_is_judged_by_its_own_probabilities(calibration):
    classifier = make_classifier(widths=(0.5, 1.0))
    assert [(it.lam, it.width) for it in calibration.points] == [(0.3, 0.5), (1.0, 0.5), (0.3, 1.0), (1.0, 1.0)]
    for point in calibration.points:
        scores = torch.from_numpy(classifier.predict(X, lam=point.lam, width=point.width))
        np.testing.assert_allclose(point.confidence, scores.softmax(dim=1).amax(dim=1).numpy(), rtol=1e-5)
        np.testing.assert_array_equal(point.is_right, scores.argmax(dim=1).numpy() == Y)


def test_csv_table_and_picture_have_every_point(calibration, tmp_path):
    calibration.to_csv(tmp_path / "it.csv")
    assert [float(row["error"]) for row in read_rows(tmp_path / "it.csv")] == [it.error for it in calibration.points]
    assert str(calibration).count("\n") == 2 + 1 + len(calibration.points)
    figure = calibration.plot(tmp_path / "it.png", subject="Some network")
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert [title.split(":")[0] for title in titles] == [
        f"lam {it.lam:g}, width {it.width:g}" for it in calibration.points
    ]


def test_what_cannot_be_measured_is_refused_up_front():
    classifier = make_classifier()
    with pytest.raises(TypeError, match="classifier must be an OATClassifier"):
        Calibration.measure(classifier.at(0.3), X, Y)
    with pytest.raises(ValueError, match=r"x must have shape.*lam must lie.*nb_bins must be a whole number"):
        Calibration.measure(classifier, X[:, 0], Y, lambdas=[3], nb_bins=0)
