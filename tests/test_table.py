import csv
import re
import sys
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from art_oat import RobustnessReport, TradeoffCurve, TransferMatrix
from art_oat.frontier import MeasuredPoint
from art_oat.table import Table
from art_oat.training import EpochRecord, TrainingHistory

NASTY = r"a|b & 50% $x_1^2$ #1 {~} <b>\end"
TABLE = Table({"lam": ["0", "0.3"], NASTY: ["9.5 ± 0.1", NASTY]}, "Title of 100%", ["One note.", "Another."])
POINTS = tuple(MeasuredPoint(lam, 1.0, 0.9 - lam / 3, lam / 3, 450, 150, {"pgd-20": lam / 3}) for lam in (0.0, 0.7))
KINDS = {
    "curve": TradeoffCurve(POINTS, 8 / 255),
    "report": RobustnessReport("pgd-20", 0.2, "Linf", None, np.array(["", "pgd-20", "no attack"]), 1.0),
    "matrix": TransferMatrix((0.0, 1.0), np.arange(40).reshape(4, 2, 5) % 3 > 0, 0.1),
    "history": TrainingHistory([EpochRecord(1, 2.0, 0.0, 0.1, 1.5, 0.75, 0.5), EpochRecord(2, 2, 0, 0.1, 1.2, 1, 1)]),
}


def cells_of_html(text: str) -> list[list[str]]:
    rows = ET.fromstring(f"<all>{text}</all>").iter("tr")
    return [["".join(cell.itertext()) for cell in row] for row in rows]


def cells_of_markdown(text: str) -> list[list[str]]:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().replace(r"\|", "|") for cell in row] for row in rows if "---:" not in row[0]]


def cells_of_latex(text: str) -> list[list[str]]:
    lines = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]
    text = "\n".join(re.sub(r"(?<!\\)&", "\t", line).replace(r"$\pm$", "±") for line in lines)
    text = (
        text.replace(r"\textbackslash{}", "\0").replace(r"\textasciitilde{}", "~").replace(r"\textasciicircum{}", "^")
    )
    text = re.sub(r"\\([&%$#_{}])", r"\1", text).replace("\0", "\\")
    return [[cell.strip() for cell in line.split("\t")] for line in text.split("\n")]


@pytest.mark.parametrize("table", [TABLE, *(it.as_table() for it in KINDS.values())], ids=["nasty", *KINDS])
def test_every_format_holds_every_cell_whatever_signs_are_in_it(table):
    expected = [list(table.columns), *map(list, zip(*table.columns.values(), strict=True))]
    assert cells_of_html(table._repr_html_()) == expected
    assert cells_of_markdown(table.to_markdown()) == expected
    assert cells_of_latex(table.to_latex()) == expected


def test_latex_escapes_what_it_would_take_for_commands():
    table = Table({NASTY: ["1 ± 2"]}, "100%")
    escaped = r"a|b \& 50\% \$x\_1\textasciicircum{}2\$ \#1 \{\textasciitilde{}\} <b>\textbackslash{}end"
    assert table.to_latex().splitlines() == [
        "% 100%",
        r"\begin{tabular}{r}",
        r"\toprule",
        rf"{escaped} \\",
        r"\midrule",
        r"1 $\pm$ 2 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_text_is_aligned_between_title_and_notes_and_plain_ascii():
    lines = str(Table({"lam": ["0", "0.35"], "accuracy": ["9 ± 1", "10 ± 2"]}, "Title", ["A note."])).splitlines()
    assert lines == ["Title:", "", " lam  accuracy", "-" * 14, "   0    9 +- 1", "0.35   10 +- 2", "", "A note."]


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"as many cells each, got \{'a': 1, 'b': 2\}"):
        Table({"a": ["1"], "b": ["1", "2"]})


@pytest.mark.parametrize("name", KINDS)
def test_a_frame_has_the_columns_and_values_that_to_csv_writes(monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    KINDS[name].to_csv(tmp_path / "it.csv")
    rows = list(csv.DictReader((tmp_path / "it.csv").open()))
    own = [{key: it for key, it in row.items() if key not in ("right", "sha256")} for row in rows]
    assert [{key: str(it) for key, it in row.items()} for row in KINDS[name].to_dataframe()] == own


@pytest.mark.parametrize("name", KINDS)
def test_a_frame_of_pandas_has_a_row_for_each_of_to_csv(name):
    pytest.importorskip("pandas")
    frame, rows = KINDS[name].to_dataframe(), list(KINDS[name].rows())
    assert list(frame.columns) == list(rows[0])
    assert len(frame) == len(rows)
    assert frame.iloc[0, 0] == next(iter(rows[0].values()))


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'art-oat\[pandas\]'"):
        KINDS["curve"].to_dataframe()


def test_what_is_printed_is_the_table_with_its_figures():
    assert str(KINDS["curve"]).startswith("Accuracy in percent, PGD-20 at eps 8/255 (Linf):\n\nlam  width  clean (450)")
    assert str(KINDS["curve"]).endswith(KINDS["curve"].table())
    assert "broken by pgd-20" in KINDS["report"].to_markdown()
    assert KINDS["matrix"].table() == str(KINDS["matrix"])
    assert str(KINDS["history"]).split("\n")[2].split() == ["1", "2.0", "0.1", "1.5000", "75.0", "50.0"]


def test_a_history_without_epochs_is_a_table_without_rows():
    assert str(TrainingHistory()).startswith("epoch  seconds")
    assert cells_of_markdown(TrainingHistory().to_markdown())[1:] == []
