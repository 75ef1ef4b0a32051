"""Draw the parts of art_oat, from the imports in its files: ``python docs/draw_parts.py`` writes docs/parts.png."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent / "art_oat"
FOUNDATIONS = ("checks", "condition", "contexts", "levels", "numbers", "rebuild", "storage")
"""What nearly every part uses; arrows to these are left out, and so are those that a longer way shows."""


def part_of(name: str) -> str:
    """Return the part that a dotted name below the package belongs to."""
    return name.split(".")[1]


def files() -> dict[str, list[Path]]:
    """Return the files of every part."""
    found: dict[str, list[Path]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        if path.parent != ROOT or path.stem != "__init__":
            found.setdefault(path.relative_to(ROOT).parts[0].removesuffix(".py"), []).append(path)
    return found


def imported(path: Path) -> Iterator[str]:
    """Give the parts that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("art_oat."):
            yield part_of(str(node.module))
        elif isinstance(node, ast.ImportFrom) and node.module == "art_oat":
            yield from (alias.name for alias in node.names)


PARTS = files()
USES = {
    part: {other for path in paths for other in imported(path)} & PARTS.keys() - {part} for part, paths in PARTS.items()
}


@cache
def depth(part: str) -> int:
    """Return how many parts a part stands on, one upon the other."""
    return 1 + max(map(depth, USES[part]), default=-1)


@cache
def reach(part: str) -> frozenset[str]:
    """Return all parts that a part stands on."""
    return frozenset(USES[part].union(*map(reach, USES[part])))


def arrows(part: str) -> set[str]:
    """Return the parts that a part uses, without those that a part between them uses, too."""
    between = frozenset().union(*map(reach, USES[part]))
    return {other for other in USES[part] if other not in between and other not in FOUNDATIONS}


def label(part: str) -> str:
    """Return the name of a part and of its files."""
    names = [path.stem for path in PARTS[part] if path.stem != "__init__" and path.parent != ROOT]
    lines = [", ".join(names[start : start + 2]) for start in range(0, len(names), 2)]
    return "\n".join([rf"$\bf{{{part.replace('_', chr(92) + '_')}}}$", *lines])


def draw(path: Path) -> None:
    """Draw a box for every part, what it stands on left of it, and an arrow to what it uses."""
    columns: dict[int, list[str]] = {}
    # large parts first; networks, which few use, last
    for part in sorted(PARTS, key=lambda it: (depth(it), -len(PARTS[it]) * (it != "models"), it)):
        columns.setdefault(depth(part), []).append(part)
    figure = plt.figure(figsize=(26, 9), dpi=80)
    axes = figure.add_axes((0, 0, 1, 0.95))
    places: dict[str, tuple[float, float]] = {}
    for column, parts in columns.items():
        for row, part in enumerate(parts):
            places[part] = (column, -(row + 0.5) / len(parts) - 0.07 * (column % 2))
    boxes = {}
    for part, place in places.items():
        color = "#dde9f7" if part in FOUNDATIONS else "#fff4dc"
        box = {"boxstyle": "round,pad=0.5", "facecolor": color, "edgecolor": "0.4"}
        written = axes.text(*place, label(part), ha="center", va="center", fontsize=9, bbox=box, zorder=3)
        boxes[part] = written.get_bbox_patch()
    for part, other in [(start, end) for start in places for end in arrows(start)]:
        ends = {"patchA": boxes[part], "patchB": boxes[other], "shrinkA": 2, "shrinkB": 2}
        style = {"arrowstyle": "->", "color": "0.55", "connectionstyle": "arc3,rad=0.05", **ends}
        axes.annotate("", places[other], places[part], arrowprops=style, zorder=1)
    axes.set(xlim=(-0.6, max(columns) + 0.6), ylim=(-1.02, 0.0))
    axes.set_title("The parts of art_oat. A part uses what stands left of it; blue ones are used by nearly all.")
    axes.axis("off")
    figure.canvas.draw()  # boxes know their size, at which arrows end, only after they were drawn
    figure.savefig(path)


if __name__ == "__main__":
    draw(Path(__file__).with_name("parts.png"))
