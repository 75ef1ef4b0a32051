import pytest

from art_oat.evaluation import SecurityCurve
from tests.cli.subjects import DIGITS, call


@pytest.mark.slow
def test_a_run_gets_a_curve_that_reaches_twice_the_radius_of_its_training_and_loses_it_when_trained_anew(tmp_path):
    assert call(*DIGITS, "--out", str(tmp_path)).exit_code == 0
    words = ("security", str(tmp_path), "--attack", "fmn-2", "--nb-images", "10")
    result = call(*words, "--check", "pgd-1")
    assert result.exit_code == 0, result.output
    assert "(checked)" in result.output
    curve = SecurityCurve.from_csv(tmp_path / "security.csv")
    assert curve.nearest.shape[1] == 10
    assert curve.check_eps == (curve.eps_max / 2,)
    assert (tmp_path / "security.png").exists()
    assert call(*DIGITS, "--out", str(tmp_path), "--seed", "7", "--overwrite").exit_code == 0
    assert not (tmp_path / "security.csv").exists()


@pytest.mark.parametrize("arguments", [(), ("--nb-images", "9"), ("--eps-max", "a")])
def test_what_is_no_run_or_no_number_is_refused(tmp_path, arguments):
    assert call("security", str(tmp_path), *arguments).exit_code == 2
    assert not list(tmp_path.iterdir())
