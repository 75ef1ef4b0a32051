import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import speed
from benchmarks.speed import ROWS, TOLERANCE, Given, broken, folded, predictions, widths_together

README = (Path(speed.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
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
def test_the_readme_promises_what_is_checked(row):
    goal = "" if row.goal is None else f"{row.goal:.2f}"
    assert f"| {row.name} | {row.against} | {row.promise:.2f} | {goal} |" in README


def test_both_sides_of_a_prediction_answer_the_same_images_alike_before_training():
    own, plain = predictions(4)(SMALL)
    torch.testing.assert_close(own(), plain(), rtol=1e-4, atol=1e-5)  # float32 through ten layers


def test_the_folded_network_answers_as_the_plain_one_before_training():
    own, plain = folded(SMALL)
    torch.testing.assert_close(own(), plain(), rtol=1e-4, atol=1e-5)


def test_the_networks_of_one_width_are_as_large_as_the_one_of_three_at_that_width():
    together, alone = widths_together(SMALL)
    model = together.func.model
    steps = alone.__closure__[0].cell_contents
    for width, step in zip(model.widths, steps, strict=True):
        shapes = [weight.shape for weight in model.pinned(model.point(0.0, width)).network.parameters()]
        assert [weight.shape for weight in step.model.pinned(0.0).network.parameters()] == shapes


@pytest.mark.slow
def test_rows_run_on_tiny_networks_and_write_nothing(monkeypatch, capsys):
    monkeypatch.setattr(speed.record, "write", lambda *_: pytest.fail("a smoke run wrote something"))
    monkeypatch.setattr(speed, "DEMO", dataclasses.replace(speed.DEMO, network="small-4-8", nb_epochs=1))
    speed.main(["--smoke", "--only", "predict", "fold", "ART's", "step of", "train", "loop"])
    shown = capsys.readouterr().out
    assert all(row.name in shown for row in ROWS if not row.is_against_published and row.name != "import")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name} against {row.against}")
def test_what_is_promised_was_measured(row):
    """A promise is no less than what was measured; and no more than a twentieth above it, unless the goal is."""
    kept = {(it["what"], it["against"]): float(it["ratio"]) for it in speed.record.read(speed.RESULT)}
    measured = kept[row.name, row.against]
    assert measured <= row.promise <= max(1.05 * measured + 0.01, row.goal or 0)


def test_a_name_that_no_row_begins_with_is_refused(capsys):
    with pytest.raises(SystemExit):
        speed.main(["--only", "nothing"])
    assert "fold" in capsys.readouterr().err


def test_rows_measured_anew_replace_their_like_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "RESULT", tmp_path / "speed.csv")
    fold, loop = ({"what": row.name, "against": row.against} for row in ROWS if row.name.startswith(("fold", "loop")))
    speed.write([{**fold, "ratio": "1"}, {**loop, "ratio": "2"}], {"command": "first"})
    speed.write([{**loop, "ratio": "3"}], {"command": "second"})
    assert [(row["ratio"], row["command"]) for row in speed.record.read(speed.RESULT)] == [
        ("1", "first"),
        ("3", "second"),
    ]
