import itertools

import numpy as np
import pytest
from matplotlib.text import Annotation

from art_oat.evaluation.security_plots import Steps, plot_security

LAMS = (0.0, 0.1, 0.2, 0.3, 1.0)


def test_a_line_falls_by_one_sample_where_the_next_wrong_answer_lies():
    radii, left = Steps(0.0, 1.0, np.array([0.0, 0.1, 0.2, np.inf]), np.array([])).steps(0.15)
    assert radii.tolist() == [0, 0.0, 0.1, 0.15]
    assert left.tolist() == [1, 0.75, 0.5, 0.5]


@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0)])
def test_every_width_has_a_panel_in_which_no_label_of_a_lam_covers_another(widths, tmp_path):
    drawn = np.random.default_rng(0)
    lines = [Steps(lam, width, np.sort(drawn.random(40)), np.array([0.5])) for width in widths for lam in LAMS]
    figure = plot_security(lines, eps_max=0.8, marks=(0.4, [0.4]), title="Some", path=tmp_path / "it")
    assert (tmp_path / "it.png").stat().st_size > 0
    assert [axes.get_title() for axes in figure.axes] == (["width 1", "width 0.5"] if len(widths) > 1 else [""])
    figure.draw_without_rendering()
    for axes in figure.axes:
        labels = [it for it in axes.texts if isinstance(it, Annotation)]
        assert sorted(it.get_text() for it in labels) == [f"lam {lam:g}" for lam in LAMS]
        boxes = [it.get_window_extent() for it in labels]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
