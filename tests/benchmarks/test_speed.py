from pathlib import Path

import pytest
import torch

from art_oat.storage import read_rows
from benchmarks import speed
from benchmarks.pairs import Given, folded, predictions, widths_together
from benchmarks.speed import ROWS, TOLERANCE, broken
from benchmarks.tables import RESULTS

RESULTS_PAGE = (Path(speed.__file__).parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
SMALL = Given(official=None, is_smoke=True)


def row(ratio: float, promise: float) -> dict[str, object]:
    return {"what": "it", "against": "the other", "ratio": f"{ratio:.3f}", "promise": promise}


def test_a_promise_is_broken_from_a_tenth_above_it_on():
    assert broken([row(0.5, 0.5), row(0.54, 0.5), row(0.1, 0.5)]) == []
    (fault,) = broken([row(0.54, 0.5), row(0.56, 0.5)])
    assert "at most 0.5" in fault
    assert "took 0.560" in fault


def test_check_fails_where_a_promise_is_broken_and_passes_where_it_is_kept(monkeypatch):
    monkeypatch.setattr(speed, "measured", lambda it, given: row(TOLERANCE * it.promise + 0.01, it.promise))
    with pytest.raises(SystemExit, match="at most"):
        speed.main(["--check", "--only", "fold"])
    monkeypatch.setattr(speed, "measured", lambda it, given: row(it.promise, it.promise))
    speed.main(["--check", "--only", "fold"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name} against {row.against}")
def test_the_page_of_results_promises_what_is_checked(row):
    goal = "" if row.goal is None else f"{row.goal:.2f}"
    assert f"| {row.name} | {row.against} | {row.promise:.2f} | {goal} |" in RESULTS_PAGE


def test_both_sides_of_a_prediction_answer_the_same_images_alike_before_training():
    own, plain = predictions(4)(SMALL)
    torch.testing.assert_close(own(), plain(), rtol=1e-4, atol=1e-5)  # float32 through ten layers


def test_the_folded_network_answers_as_the_plain_one_before_training():
    own, plain = folded(SMALL)
    torch.testing.assert_close(own(), plain(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow(seconds=1)
def test_the_networks_of_one_width_are_as_large_as_the_one_of_three_at_that_width():
    together, alone = widths_together(SMALL)
    model = together.func.model
    steps = alone.__closure__[0].cell_contents
    for width, step in zip(model.widths, steps, strict=True):
        shapes = [weight.shape for weight in model.pinned(model.point(0.0, width)).network.parameters()]
        assert [weight.shape for weight in step.model.pinned(0.0).network.parameters()] == shapes


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name} against {row.against}")
def test_what_is_promised_was_measured(row):
    """A promise is no less than what was measured; and no more than a twentieth above it, unless the goal is."""
    kept = {(it["what"], it["against"]): float(it["ratio"]) for it in read_rows(RESULTS / "speed.csv")}
    measured = kept[row.name, row.against]
    assert measured <= row.promise <= max(1.05 * measured + 0.01, row.goal or 0)


def test_a_name_that_no_row_begins_with_is_refused():
    with pytest.raises(SystemExit, match="fold"):
        speed.main(["--only", "nothing"])
