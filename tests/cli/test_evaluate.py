import json
import os

import pytest

from art_oat.lock import locked
from tests.cli.subjects import DIGITS, MEASURING, call, said


def test_a_folder_without_a_run_cannot_be_evaluated(tmp_path):
    result = call("evaluate", str(tmp_path))
    assert result.exit_code == 2
    assert "must hold a run" in said(result)


def test_a_folder_that_another_works_in_is_refused_with_who_it_is_whatever_it_lacks_meanwhile(tmp_path):
    with locked(tmp_path):
        for command in (("evaluate", str(tmp_path)), (*DIGITS, "--out", str(tmp_path))):
            result = call(*command)
            assert result.exit_code == 1
            assert "Invalid value" not in result.output
            assert f"one process at a time may work in {tmp_path.name}" in said(result).replace(
                f"{tmp_path.parent}/", ""
            )
            assert f"process {os.getpid()} on" in said(result)


@pytest.mark.slow(seconds=1)
def test_json_alone_is_on_stdout_and_a_measurement_is_accepted_back(tmp_path):
    assert call(*DIGITS, "--out", str(tmp_path)).exit_code == 0
    result = call("evaluate", str(tmp_path), *MEASURING, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [point["lam"] for point in told["points"]] == [1.0]
    assert 0 <= told["points"][0]["robust"] <= told["points"][0]["clean"] <= 1
    assert "Attacking 10 of" in result.stderr
    again = call("evaluate", str(tmp_path), "--config", str(tmp_path / "run.json"), "--nb-workers", "1", "--json")
    assert json.loads(again.stdout) == told
    assert "Reusing the measurements" in again.stderr
    other = call("evaluate", str(tmp_path), "--config", str(tmp_path / "run.json"), "--lambdas", "0", "--json")
    assert [point["lam"] for point in json.loads(other.stdout)["points"]] == [0.0]
