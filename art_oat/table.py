"""A table: cells as people read them, in the formats of terminals, notebooks and papers."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


@dataclass(frozen=True)
class Table:
    """Columns of cells, numbers written out; ``±`` stands before a standard error, ``+-`` in plain text.

    Args:
        columns: The cells of each column by its head, as many in each.
        title: What the table is of; no full stop.
        notes: Sentences below it.

    Raises:
        ValueError: If columns differ in length.
    """

    columns: Mapping[str, Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(cells) for name, cells in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns must hold as many cells each, got {lengths}.")

    def __str__(self) -> str:
        """Return the table as aligned text, between title and notes."""
        above = [f"{self.title}:", ""] if self.title else []
        below = ["", *self.notes] if self.notes else []
        return _plain("\n".join([*above, *self._aligned(), *below]))

    def _aligned(self) -> list[str]:
        """Return lines of right-aligned columns, with a rule below the heads."""
        rows = [[*map(_plain, row)] for row in (self._heads, *self._rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        return [lines[0], "-" * len(lines[0]), *lines[1:]]

    @property
    def _heads(self) -> list[str]:
        return list(self.columns)

    @property
    def _rows(self) -> list[tuple[str, ...]]:
        return list(zip(*self.columns.values(), strict=True))

    def to_markdown(self) -> str:
        """Return the table in Markdown as GitHub and Jupyter know it; title and notes are paragraphs."""
        heads, *rows = ("| " + " | ".join(map(_markdown, row)) + " |" for row in (self._heads, *self._rows))
        table = "\n".join([heads, "|" + " ---: |" * len(self.columns), *rows])
        title = [f"{_markdown(self.title)}:"] if self.title else []
        return "\n\n".join([*title, table, *map(_markdown, self.notes)])

    def to_latex(self) -> str:
        r"""Return a ``tabular`` for ``\usepackage{booktabs}``; title and notes are comments."""
        heads, *rows = (" & ".join(map(_latex, row)) + r" \\" for row in (self._heads, *self._rows))
        comments = [f"% {line}" for line in (self.title, *self.notes) if line]
        begin = rf"\begin{{tabular}}{{{'r' * len(self.columns)}}}"
        body = [r"\toprule", heads, r"\midrule", *rows, r"\bottomrule"]
        return "\n".join([*comments, begin, *body, r"\end{tabular}"])

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        heads = "".join(f"<th>{html.escape(head)}</th>" for head in self._heads)
        cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self._rows)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        title = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<table>{title}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{notes}"


class Tabular:
    """Has a table, which ``print`` and notebooks show, and the values behind it, row by row.

    A subclass has :meth:`as_table` and :meth:`rows`.
    """

    def as_table(self) -> Table:
        """Return what people read."""
        raise NotImplementedError

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """Return the values of each row by their names, as ``to_csv`` writes them."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Return the table as text."""
        return str(self.as_table())

    def to_markdown(self) -> str:
        """Return the table in Markdown as GitHub and Jupyter know it."""
        return self.as_table().to_markdown()

    def to_latex(self) -> str:
        r"""Return the table as a ``tabular`` for papers, which needs ``\usepackage{booktabs}``."""
        return self.as_table().to_latex()

    def to_dataframe(self) -> DataFrame:
        """Return the values, unrounded, as a pandas ``DataFrame`` with the columns that ``to_csv`` writes.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            from pandas import DataFrame  # optional
        except ImportError as error:
            raise ImportError("to_dataframe needs pandas. Install it: pip install 'art-oat[pandas]'.") from error
        return DataFrame([*self.rows()])

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return self.as_table()._repr_html_()


def _plain(text: str) -> str:
    return text.replace("±", "+-")


def _markdown(text: str) -> str:
    return text.replace("|", r"\|")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
