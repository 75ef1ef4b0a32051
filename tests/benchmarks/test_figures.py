import pytest

from benchmarks.figures import points_of


def row(name, lam, clean):
    return {
        "arm": name,
        "lam": lam,
        "clean": clean,
        "clean s.e.": "1.0",
        "autoattack": "20.0",
        "autoattack s.e.": "2.0",
    }


def test_points_are_fractions_by_lam_and_dedicated_networks_are_one_line():
    rows = [row("lam-1", "1", "70.0"), row("both", "1", "80.0"), row("lam-0", "0", "90.0"), row("table", "1", "1.0")]
    found = points_of(rows, "arm", "both")
    assert found == {
        "dedicated": [pytest.approx((0, 0.9, 0.01, 0.2, 0.02)), pytest.approx((1, 0.7, 0.01, 0.2, 0.02))],
        "oat": [pytest.approx((1, 0.8, 0.01, 0.2, 0.02))],
    }
