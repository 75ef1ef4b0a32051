"""Labels of points in a picture: beside them, or at the end of a line, where they cover nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""Places on the canvas, in pixels, ``[P, 2]``."""

_ANGLES = np.deg2rad([45, 135, 315, 225, 90, 270, 0, 180, 20, 70, 110, 160, 200, 250, 290, 340])
_DISTANCES = (9, 15, 22, 30, 40, 52, 66, 82)
_MARGIN = 1.5
_ON_LABEL, _ON_POINT, _OUTSIDE = 1e6, 1e4, 1e4


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    lines: Points,
    colors: Sequence[str] | None = None,
) -> None:
    """Write a text beside each point, one after the other, each where it covers least.

    It is best to cover no text, then no point, then as little as may be of the curves and error bars, then to stand
    near the point. A thin line ties what does not stand beside its point, or stands nearer to another one. The figure
    must be laid out; its layout stays from then on.

    Args:
        axes: Has its limits.
        points: In data coordinates.
        texts: As many.
        lines: What else not to cover, as points along it, in data coordinates, ``[L, 2]``.
        colors: Of the texts, as many; None for black.
    """
    scale = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    anchors, soft = axes.transData.transform(np.reshape(points, (-1, 2))), axes.transData.transform(lines)
    boxes: list[NDArray[np.float64]] = []
    for text, place, anchor, color in zip(texts, points, anchors, colors or ["black"] * len(texts), strict=True):
        size = _size(axes, text) + 2 * _MARGIN * scale
        offsets = np.array([(np.cos(it) * far, np.sin(it) * far) for far in _DISTANCES for it in _ANGLES]) * scale
        centers = anchor + offsets + np.sign(offsets.round(6)) * size / 2
        costs = [_cost(axes, anchor, np.array([it - size / 2, it + size / 2]), boxes, anchors, soft) for it in centers]
        best = int(np.argmin(costs))
        boxes.append(np.array([centers[best] - size / 2, centers[best] + size / 2]))
        soft = np.vstack([soft, _leader(anchor, boxes[-1])])
        gaps = np.linalg.norm(anchors - np.clip(anchors, *boxes[-1]), axis=1)
        is_clear = best < len(_ANGLES) and gaps.min() == np.linalg.norm(soft[-1] - anchor)
        tie: dict[str, Any] = {} if is_clear else {"arrowprops": {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5"}}
        style: dict[str, Any] = {"fontsize": 8, "ha": "center", "va": "center", "textcoords": "offset points"}
        axes.annotate(text, place, (centers[best] - anchor) / scale, color=color, **style, **tie)


def _size(axes: Axes, text: str) -> Points:
    """Return width and height of a text in pixels."""
    drawn = axes.text(0, 0, text, fontsize=8)
    box = drawn.get_window_extent()
    drawn.remove()
    return np.array([box.width, box.height])


def _leader(anchor: Points, box: Points) -> Points:
    """Return points along the line from a point to the nearest of its label."""
    return np.linspace(anchor, np.clip(anchor, *box), 12)


def _cost(axes: Axes, anchor: Points, box: Points, boxes: Sequence[Points], points: Points, lines: Points) -> float:
    frame = axes.bbox.get_points()
    outside = float(np.maximum(frame[0] - box[0], 0).sum() + np.maximum(box[1] - frame[1], 0).sum())
    nb_labels = sum(bool((box[0] < it[1]).all() and (it[0] < box[1]).all()) for it in boxes)
    leader = _leader(anchor, box)
    nb_crossed = sum(_nb_inside(leader, it) for it in boxes)
    distance = float(np.linalg.norm(leader[-1] - anchor))
    hidden = _ON_LABEL * nb_labels + _ON_POINT * _nb_inside(points, box) + _OUTSIDE * outside
    return hidden + 30 * nb_crossed + 4 * _nb_inside(lines, box) + distance


def _nb_inside(points: Points, box: Points) -> int:
    return int(((points > box[0]) & (points < box[1])).all(axis=1).sum())
