from pathlib import Path

import pytest

from art_oat.evaluation import TradeoffCurve
from art_oat.experiment.comparison import Comparison, names_of
from art_oat.experiment.ledger import Ledger
from art_oat.experiment.measurement import Measurement
from art_oat.experiment.recipe import Recipe
from art_oat.frontier import MeasuredPoint
from art_oat.storage import write_rows


def run_in(folder: Path, *, lams=(0.0, 1.0), seed=0, eps=0.2, norm="Linf", attack="pgd-20", images="a" * 64, nb=50):
    """A folder as art-oat evaluate leaves it, but for weights that are none."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"1234")
    (folder / "config.json").write_text("{}")
    points = [MeasuredPoint(lam, 1.0, 0.9, 0.1 + 0.4 * lam, 100, nb, {attack: 0.1 + 0.4 * lam}) for lam in lams]
    TradeoffCurve(tuple(points), eps, norm).to_csv(folder / "tradeoff.csv")
    write_rows(folder / "training.csv", [{"epoch": 1, "seconds": 1.5}, {"epoch": 2, "seconds": 2.0}])
    ledger = Ledger(folder / "run.json")
    ledger.keep("recipe", Recipe(data="digits", network="small-4", seed=seed).as_values())
    ledger.keep("measurement", {**vars(Measurement(attacks=(attack,), nb_robust=nb)), "data": images})
    return folder


def test_a_row_holds_what_was_measured_how_long_it_was_trained_and_how_large_it_is(tmp_path):
    found = Comparison.of([run_in(tmp_path / "dial"), run_in(tmp_path / "plain", lams=(1.0,))])
    assert [(row["run"], row["lam"], row["robust"]) for row in found.rows()] == [
        ("dial", 0.0, 0.1),
        ("dial", 1.0, 0.5),
        ("plain", 1.0, 0.5),
    ]
    assert {(row["seconds"], row["bytes"]) for row in found.rows()} == {(3.5, 4)}
    assert found.rows()[0]["clean_error"] == pytest.approx((0.9 * 0.1 / 100) ** 0.5)
    paths = found.write(tmp_path / "compared")
    assert [path.name for path in paths] == ["comparison.csv", "comparison.md", "comparison.png"]
    assert "| dial | small-4 | 0 | 1 | 90.0 ± 3.0 |" in paths[1].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"eps": 0.1}, r"eps 0.1, not 0.2.* art-oat evaluate .*b --attack pgd-20 --nb-robust 50 --eps 0.2 --norm Linf"),
        ({"norm": "L2"}, "norm L2, not Linf"),
        ({"attack": "pgd-7"}, "attacks PGD-7, not PGD-20"),
        ({"nb": 20}, "attacked images 20 .*, not 50 "),
        ({"images": "b" * 64}, r"test images 100 \(bbbbbbbb\), not 100 \(aaaaaaaa\).* same data alone"),
        ({"images": "b" * 64, "seed": 1}, "trained with --seed 1, the other with 0"),
    ],
)
def test_runs_that_were_judged_otherwise_are_refused_with_what_to_do(tmp_path, other, said):
    with pytest.raises(ValueError, match=said):
        Comparison.of([run_in(tmp_path / "a"), run_in(tmp_path / "b", **other)])


def test_a_run_is_named_once_and_was_measured(tmp_path):
    run = run_in(tmp_path / "a")
    with pytest.raises(ValueError, match="once each"):
        Comparison.of([run, tmp_path / "x" / ".." / "a"])
    (run / "tradeoff.csv").unlink()
    with pytest.raises(ValueError, match=f"measured first: art-oat evaluate {run}"):
        Comparison.of([run])


def test_folders_of_one_name_are_told_apart_by_what_they_lie_in():
    assert names_of([Path("/x/a/run"), Path("/x/b/run"), Path("/x/c")]) == ["a/run", "b/run", "c"]
