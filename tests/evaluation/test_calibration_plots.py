import numpy as np

from art_oat.evaluation.calibration_plots import plot_reliability


def test_a_bin_without_samples_has_no_mark_and_every_other_lies_at_its_own_figures():
    bins = (np.array([np.nan, 0.4, 0.9]), np.array([np.nan, 0.5, 0.7]), np.array([0, 3, 7]))
    figure = plot_reliability({"lam 0": bins}, {"lam 0": 0.17}, title="Some")
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [(0.4, 0.5), (0.9, 0.7)])
    assert axes.get_title() == "lam 0: error 17.0%"
