import itertools
import math
from functools import partial

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from art_oat.evaluation import TradeoffCurve, TransferMatrix
from art_oat.evaluation.labels import label_points
from art_oat.frontier import MeasuredPoint

LAMS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)


def heap(lam, width):
    return 0.985 + 0.002 * (lam == 0), 0.08 if lam == 0 else 0.6 + 0.02 * math.sin(9 * lam + 5 * width)


def bent(lam, width):
    return 0.95 - 0.1 * lam**3, 0.1 + 0.5 * lam


def cloud(lam, width):
    return 0.9 + 0.02 * math.sin(99 * lam + width) ** 2, 0.5 + 0.03 * math.cos(77 * lam + width) ** 2


SHAPES = {
    "a heap at one end, for three widths": ((0.5, 0.75, 1.0), LAMS, heap),
    "a heap at one end": ((1.0,), LAMS, heap),
    "a cloud of twelve": ((0.5, 1.0), np.linspace(0, 1, 12).round(2), cloud),
    "a curve of twenty": (
        (1.0,),
        np.linspace(0, 1, 20).round(3),
        bent,
    ),
    "all in one place": ((0.5, 1.0), LAMS, lambda *_: (0.9, 0.5)),
    "in a corner, for four widths": ((0.25, 0.5, 0.75, 1.0), LAMS, lambda lam, _: (1.0, 1 - 0.01 * lam)),
    "one point": ((1.0,), (0.5,), lambda *_: (0.0, 0.0)),
}


def drawn(name: str) -> Figure:
    widths, lams, shares = SHAPES[name]
    points = []
    for width, lam in itertools.product(widths, map(float, lams)):
        clean, robust = shares(lam, width)
        costs = {"macs": round(1.57e8 * width**2), "latency": 1.25e-2 * width}
        attacks = {"pgd-20": 1.0, "autoattack": robust}
        points.append(MeasuredPoint(lam, width, clean, robust, 450, 150, attacks, **costs))
    return TradeoffCurve(tuple(points), 8 / 255).plot(subject="ResNet-20 on CIFAR-10")


def box_of(text: Text) -> Bbox:
    """The box of the letters alone, without the line that ties them to a point."""
    return Text.get_window_extent(text)


def is_in_view(text: Text, figure: Figure) -> bool:
    """Whether it is drawn: has letters, and is no label of a tick outside of the axes."""
    ticks = {
        label: (axis.get_view_interval(), place)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label, place in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)
    }
    if text in ticks:
        (low, high), place = ticks[text]
        return bool(text.get_text()) and low <= place <= high
    return bool(text.get_text()) and text.get_visible()


def heat_map(nb_lams: int) -> Figure:
    right = np.arange((nb_lams + 2) * nb_lams * 50).reshape(nb_lams + 2, nb_lams, 50) % 3 > 0
    return TransferMatrix(tuple(np.linspace(0, 1, nb_lams).round(3)), right, 8 / 255).plot()


PICTURES = {name: partial(drawn, name) for name in SHAPES}
PICTURES |= {f"a heat map of {nb_lams} lams": partial(heat_map, nb_lams) for nb_lams in (2, 12)}


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("name", PICTURES)
def test_no_two_texts_of_a_picture_overlap_and_all_are_within_it(name):
    figure = PICTURES[name]()
    figure.draw_without_rendering()
    boxes = [(it.get_text(), box_of(it)) for it in figure.findobj(Text) if is_in_view(it, figure)]
    assert len(boxes) > 10
    for (text, box), (other_text, other) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other), f"{text!r} and {other_text!r}"
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text


@pytest.mark.parametrize("name", SHAPES)
def test_every_lam_is_named_once_in_the_panel_of_each_width(name):
    widths, lams, _ = SHAPES[name]
    panels = drawn(name).axes[len(widths) :]
    assert len(panels) == len(widths)
    for axes in panels:
        named = [lam for text in axes.texts for lam in text.get_text().removeprefix("lam ").split(", ")]
        assert sorted(map(float, named)) == sorted(lams)


def test_a_label_covers_no_point_and_a_line_ties_it_unless_it_stands_beside_its_point_alone():
    figure = Figure()
    axes = figure.subplots()
    points = [(0.5 + 0.002 * index, 0.5) for index in range(8)] + [(0.1, 0.1)]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    label_points(axes, points, [f"number {index}" for index in range(9)], np.empty((0, 2)))
    figure.draw_without_rendering()
    pixels = axes.transData.transform(points)
    for text in axes.texts:
        assert not any(box_of(text).contains(*place) for place in pixels)
    assert axes.texts[8].arrow_patch is None
    assert all(text.arrow_patch is not None for text in axes.texts[1:8])
