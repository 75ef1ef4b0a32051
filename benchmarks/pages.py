"""Tables of pages in ``docs``, from what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def markdown(rows: Sequence[Mapping[str, object]], columns: Sequence[str], nb_words: int = 1) -> str:
    """Return columns of rows in Markdown; the first ones hold words, the others numbers."""
    rules = ["---"] * nb_words + ["---:"] * (len(columns) - nb_words)
    lines = [columns, rules, *([str(row[name]) for name in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def marked(name: str, table: str) -> str:
    """Return a table between the comments by which a page says where it belongs."""
    return f"<!-- {name} -->\n{table}<!-- end of {name} -->\n"


def write_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Put tables into a page, in place of those it has between the same comments."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = marked(name, "|").split("|")
        before, _, rest = text.partition(begin)
        text = before + marked(name, table) + rest.partition(end)[2]
    page.write_text(text, encoding="utf-8")
