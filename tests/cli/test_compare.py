import json

from tests.cli.subjects import call, said
from tests.experiment.test_comparison import run_in


def test_runs_are_compared_on_demand_as_json_and_files_are_written_where_they_are_asked_for(tmp_path):
    runs = [str(run_in(tmp_path / name / "run")) for name in ("a", "b")]
    result = call("compare", *runs, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["runs"] == ["a/run", "b/run"]
    assert not list(tmp_path.glob("*.csv"))
    assert call("compare", *runs, "--out", str(tmp_path / "compared")).exit_code == 0
    assert (tmp_path / "compared" / "comparison.png").exists()


def test_what_is_no_run_is_refused(tmp_path):
    result = call("compare", str(tmp_path))
    assert result.exit_code == 2
    assert "must hold a run" in said(result)
