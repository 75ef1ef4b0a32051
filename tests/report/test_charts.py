import itertools
import re
from xml.etree import ElementTree as ET

import pytest

from art_oat.report.charts import SHARES, Axis, Line, Mark, line_chart


@pytest.mark.parametrize("values", [(0.013, 0.87), (3.0, 3.0), (-2.0, 1e6), (0.0, 0.0), (0.917, 0.957)])
def test_an_axis_holds_its_values_between_few_round_ticks(values):
    axis = Axis.of("some", values, is_share=False)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 8


def drawn(lines):
    across = Axis("across", 0, 1, [(0, "0"), (1, "1")])
    return ET.fromstring(line_chart(lines, across, Axis("up", 0, 1, SHARES), title="<b>&"))


def test_names_at_the_ends_of_lines_do_not_cover_each_other_and_stay_on_the_chart():
    lines = [Line(f"lam {number}", f"s{number}", [Mark(0, 1, ""), Mark(1, 0, "")]) for number in range(7)]
    levels = [float(it.get("y")) for it in drawn(lines).iter("text") if it.get("class").startswith("name")]
    assert len(levels) == 7
    assert min(low - high for high, low in itertools.pairwise(levels)) >= 12
    assert max(levels) <= 260


def test_texts_are_escaped_and_marks_say_what_they_stand_for():
    root = drawn([Line("<i>", "clean", [Mark(0.5, 0.5, "50% <\nhalf", dials=(0.3, 1.0))])])
    assert root.get("aria-label") == "<b>&"
    (mark,) = [it for it in root.iter("g") if it.get("class") == "mark"]
    assert (mark.get("aria-label"), mark.get("data-lam"), mark.get("tabindex")) == ("50% <, half", "0.3", "0")


def test_a_bar_ends_where_its_axis_does():
    root = drawn([Line("", "clean", [Mark(0.5, 0.01, "", y_error=0.02), Mark(0.5, 0.99, "", y_error=0.02)])])
    levels = [
        float(level)
        for it in root.iter("path")
        if it.get("class") == "bar"
        for level in re.findall(r" ([\d.]+)", it.get("d"))
    ]
    ticks = [float(it.get("y1")) for it in root.iter("line") if it.get("y1") == it.get("y2")]
    assert (min(levels), max(levels)) == (min(ticks), max(ticks))


def test_a_mark_lies_where_its_values_are():
    (line,) = drawn([Line("", "clean", [Mark(0, 0, ""), Mark(1, 1, "")])]).iter("polyline")
    (left, bottom), (right, top) = [tuple(map(float, it.split(","))) for it in line.get("points").split()]
    assert left < right
    assert top < bottom
    assert re.match(r"[\d.]+,", line.get("points"))
