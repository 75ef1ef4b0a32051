import json

import pytest

from art_oat import TradeoffCurve
from tests.cli.subjects import DIGITS, MEASURING, TRAINED, call, said


@pytest.mark.slow(seconds=1)
def test_a_run_gets_a_page_wherever_it_is_asked_for(tmp_path):
    run, page = tmp_path / "run", tmp_path / "elsewhere" / "page.html"
    assert call(*DIGITS, "--out", str(run)).exit_code == 0
    assert call("evaluate", str(run), *MEASURING).exit_code == 0
    curve = TradeoffCurve.from_csv(run / "tradeoff.csv")
    for arguments, expected in ((), run / "report.html"), (("--out", str(page)), page):
        result = call("report", str(run), "--nb-images", "10", *arguments, "--json")
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert told["page"] == str(expected)
        assert [(it["lam"], it["robust"]) for it in told["points"]] == [(it.lam, it.robust) for it in curve.points]
        assert {line["lam"] for line in told["radii"]} >= {0.0, 1.0}
        assert f"The page is {expected}" in result.stderr
        assert "small-4 on digits" in expected.read_text(encoding="utf-8")


@pytest.mark.slow(seconds=1)
def test_a_network_of_the_users_own_is_run_where_its_code_is_trusted(tmp_path):
    network = ("--network", "tests.models.test_external:tiny")
    words = ["train", "--data", "digits", "--nb-train", "50", *TRAINED[2:], *network, "--out", str(tmp_path)]
    assert call(*words).exit_code == 0
    refused = call("report", str(tmp_path), "--nb-images", "10")
    assert refused.exit_code == 2
    assert "loading it would run that code" in said(refused)
    assert call("report", str(tmp_path), "--nb-images", "10", "--trust-network").exit_code == 0
    assert "--trust-network" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [("--out", "/dev/null/page.html"), ("--nb-images", "9"), ()])
def test_what_cannot_be_written_or_is_no_run_is_refused(tmp_path, arguments):
    result = call("report", str(tmp_path), *arguments)
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())
