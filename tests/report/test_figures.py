from xml.etree import ElementTree as ET

import pytest

from art_oat.report import figures


def marks(chart):
    return [it for it in ET.fromstring(chart).iter("g") if it.get("class") == "mark"]


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_every_measured_point_is_drawn_with_its_numbers_and_turns_the_dials_to_it(report, width):
    points = figures.points_at(report, width)
    expected = {(str(point.lam), str(width)) for point in points}
    for chart, nb_marks in ((figures.by_lam(report, width), 2), (figures.against_each_other(report, width), 1)):
        found = marks(chart)
        assert len(found) == nb_marks * len(points)
        assert {(it.get("data-lam"), it.get("data-width")) for it in found} == expected
        assert all("±" in it.get("data-tip") for it in found)


def test_a_training_is_drawn_epoch_by_epoch(report):
    charts = dict(figures.learning(report))
    assert len(marks(charts["Loss"])) == len(report.training)
    assert "Clean accuracy on validation images" in charts


def test_the_head_says_what_turning_the_dial_changes(report):
    first, *_, last = figures.points_at(report, 1.0)
    for share in (first.clean, last.clean, first.robust, last.robust):
        assert figures.percent(share) in figures.headline(report)
