import csv
import json

import pytest

from tests.cli.subjects import DIGITS, call, said

SWEEP = ("sweep", *DIGITS[1:], "--judge", "pgd-1", "--nb-robust", "10", "--nb-workers", "1")


@pytest.mark.slow
def test_seeds_are_trained_judged_and_summed_up_and_nothing_is_done_twice(tmp_path):
    result = call(*SWEEP, "--seed", "0", "1", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "Seed 1 (2 of 2):" in result.output
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["lam"], row["nb_seeds"]) for row in rows] == [("0.0", "2"), ("0.5", "2"), ("1.0", "2")]
    weights = (tmp_path / "seed-1" / "model.safetensors").stat().st_mtime_ns
    again = call(*SWEEP, "--seed", "0,1", "--out", str(tmp_path), "--json")
    assert again.stderr.count("Reusing the weights") == again.stderr.count("Reusing the measurements") == 2
    assert [str(point["robust"]) for point in json.loads(again.stdout)["points"]] == [row["robust"] for row in rows]
    assert (tmp_path / "seed-1" / "model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.parametrize(
    ("seeds", "message"), [(("0",), "--seed must hold at least 2"), (("0", "0.5"), "--seed must be whole numbers")]
)
def test_seeds_that_cannot_be_are_refused_before_anything_is_written(tmp_path, seeds, message):
    result = call(*SWEEP, "--seed", *seeds, "--out", str(tmp_path / "new"))
    assert result.exit_code == 2
    assert message in said(result)
    assert not (tmp_path / "new").exists()
