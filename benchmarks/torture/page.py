"""The table of ``docs/reliability.md``, from what was measured."""

from pathlib import Path

from art_oat.storage import read_rows
from benchmarks import pages
from benchmarks.tables import RESULTS

_COLUMNS = ("what", "of", "trials", "right", "refused", "faults")


def table() -> str:
    """Return what was measured in Markdown, without what made it."""
    return pages.markdown(read_rows(RESULTS / "torture.csv"), _COLUMNS, nb_words=2)


def write_table(page: Path) -> None:
    """Put what was measured into a page, in place of the table that it has."""
    pages.write_tables(page, {"table": table()})
