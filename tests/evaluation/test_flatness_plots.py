import itertools

import numpy as np
import pytest
from matplotlib.text import Annotation

from art_oat.evaluation.displacement import Displacements
from art_oat.evaluation.flatness_plots import apart, plot_flatness
from art_oat.evaluation.point_flatness import PointFlatness


@pytest.mark.parametrize("places", [(5, 5, 5, 5), (0, 99, 100, 98), (50,), (3, 90, 40, 41)])
def test_labels_are_moved_apart_in_their_order_and_stay_in_the_frame(places):
    found = apart(places, 12, (0, 100))
    in_order = [found[index] for index in np.argsort(places, kind="stable")]
    assert all(high - low >= 12 - 1e-9 for low, high in itertools.pairwise(in_order))
    assert 6 <= min(found) <= max(found) <= 94


def test_labels_that_have_room_stay_where_their_lines_end():
    assert apart((20, 80, 50), 12, (0, 100)) == [20, 80, 50]


def points(*widths: float) -> tuple[PointFlatness, ...]:
    moves, drawn = Displacements(), np.random.default_rng(0)
    lams = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    shape = (moves.nb_directions, len(moves.distances))
    return tuple(
        PointFlatness(lam, width, 1.0, 1 + drawn.random(10), 1 + drawn.random(2), np.ones(shape) + 0.001 * lam)
        for width in widths
        for lam in lams
    )


@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0)])
def test_every_width_has_a_row_and_no_label_of_a_line_covers_another(widths, tmp_path):
    figure = plot_flatness(points(*widths), Displacements(), title="Some", path=tmp_path / "it")
    assert (tmp_path / "it.png").stat().st_size > 0
    assert len(figure.axes) == 3 * len(widths)
    figure.draw_without_rendering()  # at the resolution of the figure, not of the file
    for axes in figure.axes[::3]:
        labels = [it for it in axes.texts if isinstance(it, Annotation)]
        assert [it.get_text() for it in labels] == [f"lam {lam:g}" for lam in (0, 0.1, 0.2, 0.3, 0.4, 1)]
        boxes = [it.get_window_extent() for it in labels]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        assert all(axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1 for box in boxes)
        assert all(box.x1 <= axes.bbox.x1 for box in boxes)


def test_without_distances_only_the_figures_are_drawn():
    assert len(plot_flatness(points(1.0), Displacements(distances=()), title="Some").axes) == 2
