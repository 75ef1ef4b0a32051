"""The table of ``docs/reliability.md``, from what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from art_oat.storage import read_rows
from benchmarks.tables import RESULTS

BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
_COLUMNS = ("what", "of", "trials", "right", "refused", "faults")


def as_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows in Markdown, without what made them."""
    lines = [_COLUMNS, ("---", "---", *["---:"] * 4), *([row[name] for name in _COLUMNS] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_table(page: Path) -> None:
    """Put what was measured into a page, in place of the table that it has."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = as_table(read_rows(RESULTS / "torture.csv"))
    page.write_text(f"{before}{BEGIN}{table}{END}{after}", encoding="utf-8")
