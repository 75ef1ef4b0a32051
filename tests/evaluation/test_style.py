import itertools
import time

import pytest
from matplotlib.figure import Figure

from art_oat.evaluation.plots import saved
from art_oat.evaluation.style import BLUE, GREEN, INK, ORANGE, PURPLE, QUIET, VERMILLION, entitle
from tests.contrast import LINE, TEXT, contrast, difference

LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE)


def drawn() -> Figure:
    figure = Figure()
    figure.subplots().plot([0, 1], [0, 1], "o--")
    entitle(figure, "A curve of findable words")
    return figure


@pytest.mark.parametrize("ending", [".svg", ".pdf", ".png"])
def test_the_same_figure_gives_the_same_bytes_at_another_time(ending, tmp_path, monkeypatch):
    saved(drawn(), tmp_path / f"a{ending}")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "2000000000")
    saved(drawn(), tmp_path / f"b{ending}")
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_text_is_text_in_vector_files(tmp_path):
    saved(drawn(), tmp_path / "it.svg")
    assert "A curve of findable words" in (tmp_path / "it.svg").read_text()
    saved(drawn(), tmp_path / "it.pdf")
    pdf = (tmp_path / "it.pdf").read_bytes()
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf  # TrueType, as it was


def test_lines_stand_out_on_white_and_text_does_more():
    assert all(contrast(it, "white") >= LINE for it in LINES)
    assert all(contrast(it, "white") >= TEXT for it in (INK, QUIET))


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(LINES[:4], 2)])
def test_colors_of_lines_differ_in_deuteranopia(one, other):
    assert difference(one, other) > 10  # four times what is just noticeable
    assert difference("#1b6ca8", "#1b6ca8") == 0
