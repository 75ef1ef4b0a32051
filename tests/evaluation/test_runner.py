import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from art_oat import PGD, OperatingPoint, TradeoffCurve
from art_oat.evaluation import EvaluationOptions, RobustnessReport, ThreatModel
from art_oat.evaluation.runner import Evaluation
from art_oat.evaluation.shards import WRONG
from art_oat.evaluation.suite import suites_of
from art_oat.lock import locked_file
from tests.attacks.test_autoattack import Probabilities
from tests.conftest import make_classifier
from tests.evaluation.subjects import (
    Logged,
    Stopped,
    X,
    answers,
    grouped,
    linear_data,
    logged,
    plain_classifier,
    report_of,
    varied_classifier,
)

ROOT = Path(__file__).parents[2]
POINTS = [OperatingPoint(lam, 1.0) for lam in (1.0, 0.3, 0.0)]


@pytest.fixture(scope="module")
def varied():
    return varied_classifier()


def test_whatever_is_robust_was_attacked_at_its_own_point_by_every_attack(varied, tmp_path):
    attacks = {"one": Logged(tmp_path / "one"), "two": Logged(tmp_path / "two")}
    options = grouped(eps=0.1, lambdas=[0.0, 0.3, 1.0], shard_size=7)
    curve = TradeoffCurve.measure(varied, X, answers(), attack=attacks, **options)
    for report in curve.reports:
        calls = logged(attacks[report.attack].log)
        seen = {index for lam, _, ids in calls if lam == report.point.lam for index in ids}
        assert set(np.flatnonzero(report.is_robust).tolist()) <= seen
        assert seen == set(np.flatnonzero(~np.isin(report.broken_by, [WRONG, "carried"])).tolist())
    assert any(report.nb_carried for report in curve.reports)


# -- What is kept. ----------------------------------------------------------------------------------------------------


def two_attacks(log: Path, pause: float = 0.0) -> dict[str, Logged]:
    return {"first": Logged(log, "first", pause=pause), "second": Logged(log, "second", 0.05, pause)}


def evaluation(log: Path, attack=None, points=POINTS, **options) -> Evaluation:
    classifier, options = varied_classifier(), EvaluationOptions(**{"shard_size": 12, "verbose": False, **options})
    suites, _ = suites_of(attack or two_attacks(log), classifier, eps=0.1, norm="Linf")
    return Evaluation(classifier, X, answers(), points, suites, ThreatModel(0.1), options)


def findings(reports: list[RobustnessReport]) -> dict:
    return {(report.point, report.attack): report.broken_by.tolist() for report in reports}


def evaluate_one_point(state: Path | None, log: Path, pause: float = 0.0) -> dict:
    attack = {"first": Logged(log, "first", pause=pause)}
    return findings([report_of(varied_classifier(), eps=0.1, attack=attack, lam=1.0, shard_size=2, state=state)])


def measure_curve(state: Path | None, log: Path, pause: float = 0.0) -> dict:
    options = grouped(eps=0.1, attack=two_attacks(log, pause), lambdas=[0.0, 0.3, 1.0], shard_size=7, state=state)
    return findings(TradeoffCurve.measure(varied_classifier(), X, answers(), **options).reports)


def finished(state: Path) -> set[tuple[int, str]]:
    """Which shards are done with what, by what lies on disk."""
    done = set()
    for path in state.glob("shard-*.npz"):
        with np.load(path) as file:
            done |= {(int(path.stem.split("-")[1]), key) for key in file["keys"].tolist()}
    return done


def run_killed(kind: str, state: Path, log: Path, nb_calls: int, seconds: float) -> None:
    """Start it in a process of its own, and kill that some time after a number of attacks."""
    command = [sys.executable, "-m", "tests.evaluation.killed", kind, str(state), str(log)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while len(logged(log)) < nb_calls and process.poll() is None:
            time.sleep(0.005)
        time.sleep(seconds)
        process.kill()
        _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "run", "shard_size"), [("evaluate", evaluate_one_point, 2), ("measure", measure_curve, 7)]
)
def test_killed_at_a_random_moment_and_started_again_it_finds_the_same_and_attacks_nothing_twice(
    kind, run, shard_size, tmp_path
):
    state, log, draw = tmp_path / "state", tmp_path / "log", random.Random(kind)
    nb_calls, seconds = draw.randint(3, 9), draw.uniform(0, 0.1)
    undisturbed = run(None, tmp_path / "undisturbed")
    run_killed(kind, state, log, nb_calls, seconds)
    done, before = finished(state), len(logged(log))
    assert done
    assert before < len(logged(tmp_path / "undisturbed"))
    assert run(state, log) == undisturbed
    again = [(ids[0] // shard_size, f"{lam}x1.0 {name}") for lam, name, ids in logged(log)[before:]]
    assert again
    assert not done & set(again)
    assert len(again) == len(set(again))


@pytest.mark.slow(seconds=1)
def test_stopped_at_every_attack_in_turn_it_goes_on_to_the_same_and_attacks_nothing_twice(tmp_path):
    log = tmp_path / "log"
    undisturbed = findings(evaluation(log).run())
    calls = logged(log)
    assert len(calls) > 8  # of 2 shards, 3 points and 2 attacks; some may have nothing to do
    for nth in range(1, len(calls)):
        log.write_text("")
        log.with_suffix(".stop").write_text(str(nth))
        with pytest.raises(Stopped):
            evaluation(log, state=tmp_path / str(nth)).run()
        log.with_suffix(".stop").unlink()
        assert findings(evaluation(log, state=tmp_path / str(nth)).run()) == undisturbed
        assert logged(log) == [*calls[: nth + 1], *calls[nth:]]  # the one that was stopped is the one done again


def test_a_state_folder_is_one_evaluation_s_at_a_time_and_nothing_marks_it_afterwards(tmp_path):
    state = tmp_path / "state"
    said = r"one process at a time may write .*state.evaluation\.json, but process"
    with locked_file(state / "evaluation.json"), pytest.raises(RuntimeError, match=said):
        evaluation(tmp_path / "log", state=state).run()
    assert not list(tmp_path.iterdir())  # nothing was attacked, and no folder is left
    evaluation(tmp_path / "log", state=state).run()
    assert {path.name for path in tmp_path.iterdir()} == {"log", "state"}
    assert not list(state.glob(".*"))


def test_the_working_directory_is_a_state_folder_too_and_nothing_is_written_around_it(tmp_path, monkeypatch):
    state = tmp_path / "a" / "state"
    state.mkdir(parents=True)
    monkeypatch.chdir(state)
    first = evaluation(tmp_path / "log", state=".").run()
    calls = logged(tmp_path / "log")
    assert findings(evaluation(tmp_path / "log", state=state).run()) == findings(first)
    assert logged(tmp_path / "log") == calls  # all was found there
    assert [path.name for path in state.parent.iterdir()] == ["state"]


def test_a_finished_folder_gives_the_result_without_an_attack(tmp_path):
    log, state = tmp_path / "log", tmp_path / "state"
    first = evaluation(log, state=state).run()
    log.unlink()
    second = evaluation(log, state=state).run()
    assert not log.exists()
    assert findings(second) == findings(first)
    assert [report.seconds for report in second] == [report.seconds for report in first]
    names = ["evaluation.json", "shard-00000.npz", "shard-00001.npz"]
    assert sorted(path.name for path in state.iterdir()) == names


def test_warnings_are_kept_with_the_shards(tmp_path):
    network, (x, y) = Probabilities(), linear_data()
    options = {"attack": "screen", "eps": 0.01, "shard_size": 4, "state": tmp_path}
    with pytest.warns(UserWarning, match="probability distribution"):
        first, second = (report_of(plain_classifier(network), x.numpy(), y.numpy(), **options) for _ in "12")
    assert first.warnings == second.warnings != ()


def changed(module_name: str):
    classifier = varied_classifier()
    with torch.no_grad():
        next(classifier.model.network.get_submodule(module_name).parameters())[0] += 1e-6
    return classifier


VARIED = varied_classifier()
USUAL = {"classifier": VARIED, "y": answers(), "lam": 1.0, "attack": {"it": PGD(0.05)}}
VIEW = {"classifier": VARIED.at(1.0), "y": answers()}


@pytest.mark.parametrize(
    ("usual", "options", "name"),
    [
        (USUAL, {"seed": 1}, "seed"),
        (USUAL, {"eps": 0.06}, "eps"),
        (USUAL, {"norm": "L2"}, "norm"),
        (USUAL, {"attack": {"it": PGD(0.05, nb_steps=4)}}, r"attacks\.it\.nb_steps"),
        (USUAL, {"lam": 0.3}, r"points\.0"),
        (USUAL, {"shard_size": 8}, "shard_size"),
        (USUAL, {"x": X + np.float32(1e-3) * (X < 0.5)}, "x"),
        (USUAL, {"x": X[:-1], "y": answers()[:-1]}, "x was .*; y"),
        (USUAL, {"y": (answers() + 1) % 5}, "y"),
        (USUAL, {"classifier": changed("head")}, "weights"),
        (VIEW, {"classifier": VARIED.at(0.3)}, r"points\.0"),
        (VIEW, {"classifier": changed("norm.film").at(1.0)}, "weights"),
        (
            {"classifier": make_classifier(preprocessing=(0.5, 0.25)), "y": answers()},
            {"classifier": make_classifier(preprocessing=(0.5, 0.2))},
            r"preprocessing\.0\.std",
        ),
    ],
)
def test_the_folder_of_another_evaluation_is_refused_with_what_differs(tmp_path, usual, options, name):
    report_of(**usual, state=tmp_path)
    report_of(**usual, state=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"holds another: {name} was .*\. Name another folder"):
        report_of(**{**usual, **options}, state=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_numbers_of_numpy_and_labels_written_otherwise_are_the_same_evaluation(varied, tmp_path):
    report_of(varied, state=tmp_path, shard_size=7, seed=3)
    numpy = {"shard_size": np.int64(7), "seed": np.int32(3), "eps": np.float64(0.05), "lam": np.float64(varied.lam)}
    report_of(varied, y=np.eye(5)[answers()], state=str(tmp_path), **numpy)


def test_a_damaged_folder_is_named_with_what_to_do(varied, tmp_path):
    whole = report_of(varied, state=tmp_path, shard_size=7)
    path = tmp_path / "shard-00001.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"shard-00001\.npz is damaged\. Delete it"):
        report_of(varied, state=tmp_path, shard_size=7)
    path.unlink()
    assert report_of(varied, state=tmp_path, shard_size=7).broken_by.tolist() == whole.broken_by.tolist()
    for content in (b"{", b"[]", b"\xff\xfe"):
        (tmp_path / "evaluation.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"evaluation\.json is damaged"):
            report_of(varied, state=tmp_path, shard_size=7)


def test_what_is_no_folder_of_an_evaluation_is_not_written_to_and_what_is_refused_makes_none(varied, tmp_path):
    state, file = tmp_path / "state", tmp_path / "file"
    report_of(varied, state=state)
    (state / "evaluation.json").unlink()
    file.write_text("mine")
    for place in (state, file):
        with pytest.raises(ValueError, match="state must be a folder of this evaluation"):
            report_of(varied, state=place)
    with pytest.raises(ValueError, match="eps must be"):
        report_of(varied, eps=0, state=tmp_path / "new")
    assert not (state / "evaluation.json").exists()
    assert file.read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_with_state_an_attack_must_say_its_settings(varied, tmp_path):
    own = PGD(0.05)

    def silent(network, x, y, *, clip_values=None, generator=None):
        return own(network, x, y, clip_values=clip_values, generator=generator)

    with pytest.raises(ValueError, match=r"must say its settings.*which it does not\. Give it a __repr__"):
        report_of(varied, attack={"it": silent}, state=tmp_path)


# -- What the result does not depend on. ------------------------------------------------------------------------------


@pytest.mark.slow(seconds=1)
def test_neither_the_order_of_attacks_nor_that_of_points_nor_their_company_changes_what_an_attack_draws(tmp_path):
    def found(**options) -> dict:
        return findings(evaluation(tmp_path / "log", carries_examples=False, **options).run())

    attacks = two_attacks(tmp_path / "log")
    expected = found()
    assert len({tuple(it) for it in expected.values()}) > 1
    assert found(attack=dict(reversed(attacks.items()))) == expected
    assert found(points=POINTS[::-1]) == expected
    alone = found(attack={"second": attacks["second"]}, points=POINTS[1:2])
    assert alone == {(POINTS[1], "second"): expected[POINTS[1], "second"]}


def test_the_order_of_attacks_changes_no_carried_example(tmp_path):
    attacks = two_attacks(tmp_path / "log")
    orders = dict(attacks), dict(reversed(attacks.items()))
    first, second = (findings(evaluation(tmp_path / "log", order).run()) for order in orders)
    assert first == second


def test_another_seed_draws_otherwise(varied):
    starts = {}

    def attack(network, x, y, *, clip_values=None, generator=None):
        starts.setdefault(seed, []).append(torch.rand(1, generator=generator).item())
        return x

    for seed in (0, 1, 0):
        report_of(varied, attack=attack, shard_size=12, seed=seed)
    (a, b, *again), others = starts[0], starts[1]
    assert again == [a, b]
    assert len({a, b, *others}) == 4


@pytest.mark.slow
def test_two_workers_find_the_same_as_one(varied, tmp_path):
    logging = {"it": Logged(tmp_path / "log")}
    cases = [(varied, logging, 0.3), (varied, "art:FastGradientMethod", 0.3), (varied.at(0.3), "pgd-3", None)]
    for number, (classifier, attack, lam) in enumerate(cases):
        options = {"attack": attack, "lam": lam, "shard_size": 7, "eps": 0.1, "y": answers()}
        alone, state = report_of(classifier, **options), tmp_path / str(number)
        together = report_of(classifier, nb_workers=2, state=state, **options)
        assert together.broken_by.tolist() == alone.broken_by.tolist()
        assert report_of(classifier, state=state, **options).seconds == together.seconds


@pytest.mark.parametrize("nb_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_progress_says_which_attack_and_how_many_are_not_broken(varied, capsys, nb_workers):
    report_of(varied, lam=0.3, verbose=True, attack="pgd-3x2", shard_size=12, nb_workers=nb_workers)
    said = capsys.readouterr().err
    assert "PGD-3 (2 restarts)" in said
    assert "4/4" in said
    assert re.search(r"lam 0\.3, pgd-3 #1 on \d+ of 12", said)
    assert re.search(r"pgd-3 #2: \d+ of 12 not broken", said)
