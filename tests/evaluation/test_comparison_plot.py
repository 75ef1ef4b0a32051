import numpy as np
from matplotlib.figure import Figure

from art_oat.evaluation.comparison_plot import plot_comparison
from art_oat.frontier import MeasuredPoint


def drawn() -> Figure:
    def point(lam, width, clean, robust):
        return MeasuredPoint(lam, width, clean, robust, 100, 100, {"pgd-20": robust})

    dial = [point(lam, width, 0.9 - 0.1 * lam, 0.1 + 0.3 * lam) for width in (1.0, 0.5) for lam in (0.0, 0.5, 1.0)]
    runs = {"dial": dial, "pgd": [point(1.0, 1.0, 0.7, 0.35)], "natural": [point(0.0, 1.0, 0.95, 0.0)]}
    return plot_comparison(runs, title="digits", path=None)


def test_a_run_has_one_color_in_the_panels_of_all_widths_and_one_entry_of_the_legend():
    figure = drawn()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["dial", "pgd", "natural"]
    colors = [[bars.lines[0].get_color() for bars in axes.containers] for axes in figure.axes]
    assert [len(own) for own in colors] == [3, 1]
    assert len(set(colors[0])) == 3
    assert colors[1] == colors[0][:1]


def test_a_baseline_is_one_point_without_lam_and_every_lam_of_a_dial_is_named():
    full, half = drawn().axes
    assert [text.get_text() for text in full.texts] == [text.get_text() for text in half.texts] == ["0", "0.5", "1"]
    np.testing.assert_allclose(full.containers[1].lines[0].get_xydata(), [(0.35, 0.7)])
