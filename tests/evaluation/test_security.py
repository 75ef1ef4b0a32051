import math

import numpy as np
import pytest

from art_oat import OperatingPoint
from art_oat.evaluation import SecurityCurve

EXACT = np.array([[0.0, 0.1, 0.2, 0.3], [0.0, 0.0, 0.3, math.inf]])
POINTS = (OperatingPoint(0.0, 1.0), OperatingPoint(1.0, 1.0))


def curve(**changed) -> SecurityCurve:
    return SecurityCurve(**{"points": POINTS, "nearest": EXACT, "eps_max": 0.4, **changed})


def test_accuracy_is_the_share_of_samples_whose_nearest_error_lies_farther():
    assert curve().accuracy(0.0).tolist() == [0.75, 0.5]
    assert curve().accuracy([0.0999, 0.1, 0.25, 0.4]).tolist() == [[0.75, 0.5, 0.25, 0.0], [0.5, 0.5, 0.5, 0.25]]


@pytest.mark.parametrize("eps", [-0.1, 0.41, math.nan, [0.1, 0.5]])
def test_nothing_is_said_of_radii_that_were_not_searched(eps):
    with pytest.raises(ValueError, match=r"eps must lie in \[0, 0.4\]"):
        curve().accuracy(eps)


def test_the_expected_accuracy_is_the_mean_of_the_curve_over_radii():
    eps = (np.arange(4000) + 0.5) / 4000
    np.testing.assert_allclose(curve().expected(), curve().accuracy(0.4 * eps).mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(curve().expected(0.2), curve().accuracy(0.2 * eps).mean(axis=1), atol=1e-3)
    assert curve().expected({0.0: 3, 0.25: 1}).tolist() == [(3 * 0.75 + 0.25) / 4, 0.5]
    for wrong in (0, 0.5, math.inf, "a", {0.1: -1}, {0.1: 0}, {0.5: 1}):
        with pytest.raises(ValueError, match="must"):
            curve().expected(wrong)


@pytest.mark.parametrize(("eps", "min_robust", "lam"), [(0.1, 0.5, 0.0), (0.25, 0.5, 1.0), (0.25, 0.2, 0.0)])
def test_the_most_accurate_point_that_keeps_enough_at_the_radius_is_dialed(eps, min_robust, lam):
    assert curve().select(eps=eps, min_robust=min_robust).lam == lam


def test_the_most_robust_point_at_a_radius_may_be_asked_for_and_too_much_is_refused():
    assert [curve().select(eps=eps, threat=1).lam for eps in (0.05, 0.25)] == [0.0, 1.0]
    with pytest.raises(ValueError, match="min_robust"):
        curve().select(eps=0.25, min_robust=0.6)


def test_the_interval_solves_the_score_equation_of_wilson():
    nearest = np.arange(20.0)[None] / 20
    measured = curve(points=POINTS[:1], nearest=nearest, eps_max=1.0)
    for eps, share in ((0.5, 9 / 20), (0.0, 19 / 20)):
        for bound in measured.interval(eps):
            assert abs(bound[0] - share) / math.sqrt(bound[0] * (1 - bound[0]) / 20) == pytest.approx(1.96, abs=1e-3)
    low, high = measured.interval(1.0)
    assert low[0] == pytest.approx(0, abs=1e-12)
    assert high[0] > 0.1


def test_a_file_gives_back_the_same_curve_and_one_that_was_changed_is_refused(tmp_path):
    searched = EXACT + 0.01
    whole = curve(searched=searched, norm="L2", attack="fmn-9", check="autoattack", check_eps=(0.1, 8 / 255))
    whole.to_csv(tmp_path / "it.csv")
    back = SecurityCurve.from_csv(tmp_path / "it.csv")
    assert (back.points, back.eps_max, back.norm, back.attack) == (POINTS, 0.4, "L2", "fmn-9")
    assert (back.check, back.check_eps) == ("autoattack", (0.1, 8 / 255))
    for name in ("nearest", "searched", "index"):
        assert np.array_equal(getattr(back, name), getattr(whole, name))
    text = (tmp_path / "it.csv").read_text()
    (tmp_path / "it.csv").write_text(text.replace(",inf,", ",0.1,"))
    with pytest.raises(ValueError, match="damaged, or was changed"):
        SecurityCurve.from_csv(tmp_path / "it.csv")


def test_the_table_says_what_is_left_where_and_what_the_check_found(tmp_path):
    table = curve(searched=np.full((2, 4), math.inf), check="autoattack", check_eps=(0.25,))
    assert table.as_table().columns["eps 0.25 (checked)"] == ["25.0 ± 21.7", "50.0 ± 25.0"]
    assert table.missed().tolist() == [[3], [2]]
    assert "AutoAttack broke at most 3 of 4" in str(table)
    table.plot(tmp_path / "it.png", eps=0.125)
    assert (tmp_path / "it.png").stat().st_size > 0


def test_distances_that_do_not_fit_the_points_are_refused():
    with pytest.raises(ValueError, match=r"nearest must hold distances \[2, N\]"):
        curve(nearest=EXACT[:1])
