"""Draws charts of lines as SVG, whose colors the style sheet of the page gives, so that they suit light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 480, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 14, 44
_LABELED_RIGHT, _LINE = 78, 14
_NB_TICKS, _TICK_GAP = 5, 46


@dataclass(frozen=True)
class Mark:
    """A point of a line.

    Attributes:
        x: In the units of its axis.
        y: Likewise.
        tip: What is shown where a pointer rests on it.
        x_error: Half the length of its bar along ``x``; 0 for none.
        y_error: Likewise along ``y``.
        label: Written beside it.
        dials: Where the page's dials go when it is clicked: a lam and a width.
    """

    x: float
    y: float
    tip: str
    x_error: float = 0.0
    y_error: float = 0.0
    label: str = ""
    dials: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """A line: its name, its class in the style sheet, which also gives it a shape and a dash, and its points."""

    name: str
    kind: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Axis:
    """An axis: what it is called, its ends, and its ticks with what is written at them."""

    name: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def of(cls, name: str, values: Sequence[float], *, is_share: bool = True, low: float | None = None) -> Axis:
        """Return an axis that holds some values, with round ticks; shares are written in percent."""
        least, most = min([*values] if low is None else [*values, low]), max(values)
        span = (most - least) or abs(most) or 1.0
        rough = span / _NB_TICKS
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * (1 - 1e-9))
        first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
        last += last == first
        texts = [(number * step, f"{100 * number * step:.3g}%" if is_share else f"{number * step:.3g}")
                 for number in range(first, last + 1)]  # fmt: skip
        return cls(name, texts[0][0], texts[-1][0], texts)

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1; what lies beyond an end is taken for the end."""
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)


SHARES = tuple((step / 5, f"{20 * step}%") for step in range(6))


def line_chart(
    lines: Sequence[Line], x: Axis, y: Axis, *, title: str, names_lines: bool = True, has_cursor: bool = False
) -> Markup:
    """Return an SVG.

    Args:
        lines: What is drawn.
        x: The axis across.
        y: The axis upwards.
        title: What a reader for the blind says.
        names_lines: Whether each line has its name at its end.
        has_cursor: Whether an upright line can show where the slider of the page is.
    """
    right = WIDTH - (_LABELED_RIGHT if names_lines else _RIGHT)
    frame = _Frame(x, y, right)
    cursor = Markup('<line class="cursor" data-left="{}" data-right="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    drawn = [cursor.format(_LEFT, right, _LEFT, _LEFT, _TOP, HEIGHT - _BOTTOM)] if has_cursor else []
    drawn += [frame.axes(), *(frame.line(line) for line in lines), *(frame.end_names(lines) if names_lines else [])]
    start = Markup('<svg class="chart" viewBox="0 0 {} {}" role="group" aria-label="{}">').format(WIDTH, HEIGHT, title)
    return start + Markup("\n").join(drawn) + Markup("</svg>")


@dataclass(frozen=True)
class _Frame:
    """Where values go on a chart."""

    x: Axis
    y: Axis
    right: float

    def across(self, value: float) -> float:
        return round(_LEFT + self.x.place(value) * (self.right - _LEFT), 1)

    def down(self, value: float) -> float:
        return round(HEIGHT - _BOTTOM - self.y.place(value) * (HEIGHT - _BOTTOM - _TOP), 1)

    def axes(self) -> Markup:
        grid = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        text = Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>')
        bottom, drawn = HEIGHT - _BOTTOM, []
        for value, shown in self.y.ticks:
            level = self.down(value)
            drawn += [grid.format(_LEFT, self.right, level, level), text.format(_LEFT - 6, level + 4, "end", shown)]
        for value, shown in self._apart():
            place = self.across(value)
            drawn += [grid.format(place, place, bottom, bottom + 4), text.format(place, bottom + 17, "middle", shown)]
        middle, height = (_LEFT + self.right) / 2, (_TOP + bottom) / 2
        drawn.append(
            Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                middle, HEIGHT - 8, self.x.name
            )
        )
        upright = Markup('<text class="axis" transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>')
        return Markup("\n").join([*drawn, upright.format(height, self.y.name)])

    def _apart(self) -> Sequence[tuple[float, str]]:
        """Return those ticks across whose texts do not cover each other, the last one among them."""
        kept: list[tuple[float, str]] = []
        for tick in reversed(self.x.ticks):
            if not kept or self.across(kept[-1][0]) - self.across(tick[0]) >= _TICK_GAP:
                kept.append(tick)
        return kept

    def line(self, line: Line) -> Markup:
        places = " ".join(f"{self.across(mark.x)},{self.down(mark.y)}" for mark in line.marks)
        drawn = [Markup('<g class="line {}"><polyline points="{}"/>').format(line.kind, places)]
        drawn += [self._bars(mark) + self._mark(line, mark) for mark in line.marks]
        return Markup("\n").join(drawn) + Markup("</g>")

    def _bars(self, mark: Mark) -> Markup:
        bar, across, down = Markup('<path class="bar" d="M{} {}L{} {}"/>'), self.across(mark.x), self.down(mark.y)
        drawn = Markup("")
        if mark.y_error:
            drawn += bar.format(across, self.down(mark.y - mark.y_error), across, self.down(mark.y + mark.y_error))
        if mark.x_error:
            drawn += bar.format(self.across(mark.x - mark.x_error), down, self.across(mark.x + mark.x_error), down)
        return drawn

    def _mark(self, line: Line, mark: Mark) -> Markup:
        across, down = self.across(mark.x), self.down(mark.y)
        dials = ""
        if mark.dials is not None:
            dials = Markup(' role="button" data-lam="{!r}" data-width="{!r}"').format(*mark.dials)
        start = Markup('<g class="mark" tabindex="0" data-tip="{}" aria-label="{}"{}>')
        label = Markup('<text class="label" x="{}" y="{}">{}</text>').format(across + 8, down - 7, mark.label)
        shape = Markup('<path class="hit" d="{}"/><path class="dot" d="{}"/>')
        drawn = shape.format(_shape("circle", across, down, 11), _shape(line.kind, across, down, 4.5))
        said = mark.tip.replace("\n", ", ")
        return start.format(mark.tip, said, dials) + drawn + (label if mark.label else "") + Markup("</g>")

    def end_names(self, lines: Sequence[Line]) -> list[Markup]:
        """Write each name at the end of its line, moved down where it would cover the one above."""
        text = Markup('<text class="name {}" x="{}" y="{}">{}</text>')
        ends = [(self.down(line.marks[-1].y) + 4, line) for line in lines if line.name and line.marks]
        ends.sort(key=lambda end: end[0])
        levels: list[float] = []
        for level, _ in ends:
            levels.append(max(level, levels[-1] + _LINE) if levels else level)
        too_low = max(0.0, max(levels, default=0.0) - (HEIGHT - _BOTTOM + 4))
        return [
            text.format(line.kind, self.right + 10, round(level - too_low, 1), line.name)
            for level, (_, line) in zip(levels, ends, strict=True)
        ]


_SHAPES = ("circle", "square", "diamond", "triangle")


def _shape(kind: str, x: float, y: float, size: float) -> str:
    """Return a path: lines of different kinds have different shapes, for those who see no colors."""
    kind = kind.partition(" ")[0]
    name = {"clean": "circle", "attacked": "square"}.get(kind, kind)
    name = _SHAPES[int(name[1:]) % len(_SHAPES)] if name[1:].isdigit() else name
    if name == "square":
        return f"M{x - size:.1f} {y - size:.1f}h{2 * size}v{2 * size}h{-2 * size}z"
    if name == "diamond":
        far = 1.3 * size
        return f"M{x:.1f} {y - far:.1f}l{far} {far}l{-far} {far}l{-far} {-far}z"
    if name == "triangle":
        return f"M{x:.1f} {y - 1.2 * size:.1f}l{1.2 * size:.1f} {2.1 * size:.1f}h{-2.4 * size:.1f}z"
    return f"M{x - size:.1f} {y:.1f}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0z"
