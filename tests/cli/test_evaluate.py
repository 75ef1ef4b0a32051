import os

from art_oat.lock import locked
from tests.cli.subjects import DIGITS, call, said


def test_a_folder_without_a_run_cannot_be_evaluated(tmp_path):
    result = call("evaluate", str(tmp_path))
    assert result.exit_code == 2
    assert "must hold a run" in said(result)


def test_a_folder_that_another_works_in_is_refused_with_who_it_is_whatever_it_lacks_meanwhile(tmp_path):
    with locked(tmp_path):
        for command in (("evaluate", str(tmp_path)), (*DIGITS, "--out", str(tmp_path))):
            result = call(*command)
            assert result.exit_code == 2
            assert f"one process at a time may work in {tmp_path.name}" in said(result).replace(
                f"{tmp_path.parent}/", ""
            )
            assert f"process {os.getpid()} on" in said(result)
