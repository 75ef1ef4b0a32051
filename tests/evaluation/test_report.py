import csv
import math

import numpy as np
import pytest

from art_oat.condition import OperatingPoint
from art_oat.evaluation import RobustnessReport
from art_oat.evaluation.report import write_reports
from art_oat.evaluation.shards import ShardResult

BROKEN_BY = ("", "apgd-ce", "no attack", "", "carried", "apgd-ce", "", "apgd-t", "carried", "apgd-ce")
POINT = OperatingPoint(0.3, 0.5)


def joined(*shards: tuple[str, ...], attack="screen", point=POINT, notices=(), attacks=()) -> RobustnessReport:
    notices = notices or [()] * len(shards)
    results = [ShardResult(np.array(it), 1.5, tuple(said)) for it, said in zip(shards, notices, strict=True)]
    return RobustnessReport.joined(attack, 0.1, "L2", point, results, attacks=attacks)


def test_figures_are_those_of_the_samples():
    report = joined(BROKEN_BY)
    assert report.is_clean.tolist() == [name != "no attack" for name in BROKEN_BY]
    assert report.is_robust.tolist() == [name == "" for name in BROKEN_BY]
    assert (report.clean, report.robust) == (0.9, 0.3)
    assert report.robust_error == pytest.approx(math.sqrt(0.3 * 0.7 / 10))
    assert list(report.nb_broken_by.items()) == [("apgd-ce", 3), ("carried", 2), ("apgd-t", 1), ("no attack", 1)]
    assert report.nb_carried == 2


def test_shards_are_joined_in_their_order_and_their_seconds_add_up():
    report = joined(BROKEN_BY[:4], BROKEN_BY[4:5], BROKEN_BY[5:])
    assert report.broken_by.tolist() == list(BROKEN_BY)
    assert report.seconds == 4.5


def test_where_everything_or_nothing_stands_there_is_no_error():
    for broken_by, robust in ((("", ""), 1.0), (("pgd-5", "no attack"), 0.0)):
        report = joined(broken_by)
        assert (report.robust, report.robust_error) == (robust, 0.0)
    assert joined(("", "")).nb_broken_by == {}


def test_it_says_what_was_found():
    assert str(joined(BROKEN_BY, notices=[("be careful",)])).split("\n") == [
        "Screen (APGD-CE, APGD-T) at lam 0.3, width 0.5, eps 0.1 (L2), 10 samples:",
        "  robust 30.0% +- 14.5, clean 90.0%",
        "  broken by apgd-ce: 3",
        "  broken by carried: 2",
        "  broken by apgd-t: 1",
        "  broken by no attack: 1",
        "  warning: be careful",
    ]
    plain = str(joined(("", ""), attack="autoattack", point=None))
    assert plain.startswith("AutoAttack, eps 0.1 (L2), 2 samples:")


def test_its_table_says_what_became_of_the_samples_which_are_all_counted_once():
    columns = joined(BROKEN_BY).as_table().columns
    assert dict(zip(columns["outcome"], map(int, columns["samples"]), strict=True)) == {
        "robust": 3,
        "broken by apgd-ce": 3,
        "broken by an example from another point": 2,
        "broken by apgd-t": 1,
        "wrong without attack": 1,
    }
    assert columns["percent"][0] == "30.0 ± 14.5"


def test_a_screen_is_never_called_autoattack(tmp_path):
    report = joined(BROKEN_BY)
    report.to_csv(tmp_path / "report.csv")
    for text in (str(report), (tmp_path / "report.csv").read_text()):
        assert "autoattack" not in text.lower().replace("-", "").replace(" ", "")
        assert "screen" in text.lower()


def test_a_csv_has_a_row_per_sample_and_gives_the_figures_back(tmp_path):
    path, first, second = tmp_path / "new" / "reports.csv", joined(BROKEN_BY), joined(("", "square"), point=None)
    write_reports([first, second], path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [("0.3", "0.5", first)] * 10 + [("", "", second)] * 2
    for index, (row, (lam, width, report)) in enumerate(zip(rows, expected, strict=True)):
        sample = index % 10
        assert (row["lam"], row["width"], row["attack"], row["sample"]) == (lam, width, "screen", str(sample))
        assert row["broken_by"] == report.broken_by[sample]
        assert (row["is_clean"], row["is_robust"]) == (
            str(int(report.is_clean[sample])),
            str(int(report.is_robust[sample])),
        )
    assert np.mean([int(row["is_robust"]) for row in rows[:10]]) == first.robust


def zero_gradients(nb_points: int) -> str:
    return f"there are {nb_points} points with zero gradient! This might lead to an unreliable evaluation."


def test_a_warning_of_several_shards_is_given_once():
    assert joined(("",), ("",), notices=[("a", "b"), ("b", "a")]).warnings == ("a", "b")


def test_samples_without_a_gradient_are_counted_over_the_shards_and_no_sample_twice():
    """Within a shard the attacks meet the same samples, one after the other: the one that met most counts."""
    notices = [(zero_gradients(3), "a", zero_gradients(2)), (), (zero_gradients(3),), (zero_gradients(1),)]
    report = joined(*[("",) * 3] * 4, notices=notices)
    assert report.warnings == (zero_gradients(7), "a")


@pytest.mark.parametrize(("nb_broken", "is_told"), [(0, False), (2, False), (3, True), (1000, True)])
def test_where_square_breaks_more_than_a_fifth_of_a_percent_that_is_said(nb_broken, is_told):
    """The bound of the authors: `check_square_sr` warns where the accuracy falls by more than 0.002."""
    broken_by = ("square",) * nb_broken + ("",) * (1000 - nb_broken)
    assert joined(broken_by, attacks=["square"]).warnings == ()  # no attack by gradients came before it
    report = joined(broken_by, attacks=["apgd-ce", "apgd-t", "fab-t", "square"])
    assert len(report.warnings) == is_told
    assert all(f"Square has broken {nb_broken / 10:.1f}%" in warning for warning in report.warnings)
    assert is_told == ("Square has broken" in str(report))
