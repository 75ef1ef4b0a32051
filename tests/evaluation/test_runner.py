import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from art_oat import (
    PGD,
    OperatingPoint,
    TradeoffCurve,
)
from art_oat.evaluation import EvaluationOptions, RobustnessReport, ThreatModel
from art_oat.evaluation.runner import Evaluation
from art_oat.evaluation.shards import WRONG
from art_oat.evaluation.suite import suites_of
from tests.conftest import make_classifier
from tests.evaluation.subjects import (
    Logged,
    Stopped,
    X,
    answers,
    grouped,
    judged,
    logged,
    varied_classifier,
)

ROOT = Path(__file__).parents[2]
POINTS = [OperatingPoint(lam, 1.0) for lam in (1.0, 0.3, 0.0)]


@pytest.fixture(scope="module")
def varied():
    return varied_classifier()


# -- A sample stands only where it was attacked. ----------------------------------------------------------------------


def test_whatever_stands_was_attacked_at_its_own_point_by_every_stage(varied, tmp_path):
    stages = {"one": Logged(tmp_path / "one"), "two": Logged(tmp_path / "two")}
    options = grouped(eps=0.1, lambdas=[0.0, 0.3, 1.0], shard_size=7)
    curve = TradeoffCurve.measure(varied, X, answers(), attack=stages, **options)
    for report in curve.reports:
        calls = logged(stages[report.attack].log)
        seen = {index for lam, _, ids in calls if lam == report.point.lam for index in ids}
        assert set(np.flatnonzero(report.is_robust).tolist()) <= seen
        assert seen == set(np.flatnonzero(~np.isin(report.broken_by, [WRONG, "carried"])).tolist())
    assert any(report.nb_carried for report in curve.reports)


# -- What is kept. ----------------------------------------------------------------------------------------------------


def two_attacks(log: Path, pause: float = 0.0) -> dict[str, Logged]:
    return {"first": Logged(log, "first", pause=pause), "second": Logged(log, "second", 0.05, pause)}


def at_three_points(log: Path, attack=None, points=POINTS, **options) -> Evaluation:
    classifier, threat = varied_classifier(), ThreatModel(0.1)
    suites, faults = suites_of(attack or two_attacks(log), classifier, eps=0.1, norm="Linf")
    assert not faults
    options = EvaluationOptions(**{"shard_size": 12, "verbose": False, **options})
    return Evaluation(classifier, X, answers(), points, suites, threat, options)


def judge_one_point(state: Path | None, log: Path, pause: float = 0.0) -> list[RobustnessReport]:
    attack = {"first": Logged(log, "first", pause=pause)}
    return [judged(varied_classifier(), eps=0.1, attack=attack, lam=1.0, shard_size=2, state=state)]


def measure_curve(state: Path | None, log: Path, pause: float = 0.0) -> list[RobustnessReport]:
    options = grouped(eps=0.1, lambdas=[0.0, 0.3, 1.0], shard_size=7, state=state)
    attack = two_attacks(log, pause)
    return [*TradeoffCurve.measure(varied_classifier(), X, answers(), attack=attack, **options).reports]


def findings(reports: list[RobustnessReport]) -> dict:
    return {(report.point, report.attack): report.broken_by.tolist() for report in reports}


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
@pytest.mark.parametrize("kind", ["evaluate", "measure"])
def test_killed_at_a_random_moment_and_started_again_it_finds_the_same_and_attacks_nothing_twice(kind, tmp_path):
    run, shard_size = {"evaluate": (judge_one_point, 2), "measure": (measure_curve, 7)}[kind]
    state, log, draw = tmp_path / "state", tmp_path / "log", random.Random(kind)
    nb_calls, seconds = draw.randint(3, 9), draw.uniform(0, 0.1)
    undisturbed = run(None, tmp_path / "undisturbed")
    run_killed(kind, state, log, nb_calls, seconds)
    done, before = finished(state), len(logged(log))
    assert done
    assert before < len(logged(tmp_path / "undisturbed"))
    assert findings(run(state, log)) == findings(undisturbed)
    again = [(ids[0] // shard_size, f"{lam}x1.0 {name}") for lam, name, ids in logged(log)[before:]]
    assert again
    assert not done & set(again)
    assert len(again) == len(set(again))


def test_stopped_at_every_attack_in_turn_it_goes_on_to_the_same_and_attacks_nothing_twice(tmp_path):
    log = tmp_path / "log"
    undisturbed = findings(at_three_points(log).run())
    calls = logged(log)
    assert len(calls) > 8  # of 2 shards, 3 points and 2 suites; some may need no attack
    for nth in range(1, len(calls)):
        log.write_text("")
        log.with_suffix(".stop").write_text(str(nth))
        with pytest.raises(Stopped):
            at_three_points(log, state=tmp_path / str(nth)).run()
        log.with_suffix(".stop").unlink()
        assert findings(at_three_points(log, state=tmp_path / str(nth)).run()) == undisturbed
        assert logged(log) == [*calls[: nth + 1], *calls[nth:]]  # the one that was stopped is the one done again


def test_a_finished_folder_gives_the_result_without_an_attack(tmp_path):
    evaluation = at_three_points(tmp_path / "log", state=tmp_path / "state")
    first = evaluation.run()
    (tmp_path / "log").unlink()
    second = evaluation.run()
    assert not (tmp_path / "log").exists()
    assert findings(second) == findings(first)
    assert [report.seconds for report in second] == [report.seconds for report in first]
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "evaluation.json",
        *(f"shard-{number:05d}.npz" for number in range(2)),
    ]


def other_weights():
    classifier = varied_classifier()
    with torch.no_grad():
        classifier.model.network.head.bias[0] += 1e-6
    return classifier


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"eps": 0.06}, "eps"),
        ({"norm": "L2"}, "norm"),
        ({"attack": {"it": PGD(0.05, nb_steps=4)}}, r"attacks\.it\.nb_steps"),
        ({"lam": 0.3}, r"points\.0"),
        ({"shard_size": 8}, "shard_size"),
        ({"x": X + np.float32(1e-3) * (X < 0.5)}, "x"),
        ({"x": X[:-1], "y": answers()[:-1]}, "x was .*; y"),
        ({"y": (answers() + 1) % 5}, "y"),
        ({"classifier": other_weights()}, "weights"),
    ],
)
def test_the_folder_of_another_evaluation_is_refused_with_what_differs(varied, tmp_path, options, name):
    usual = {"classifier": varied, "y": answers(), "lam": 1.0, "state": tmp_path, "attack": {"it": PGD(0.05)}}
    judged(**usual)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"holds another: {name} was .*\. Name another folder"):
        judged(**{**usual, **options})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_views_of_several_points_do_not_share_a_folder(varied, tmp_path):
    judged(varied.at(1.0), y=answers(), state=tmp_path)
    judged(varied.at(1.0), y=answers(), state=tmp_path)
    with pytest.raises(ValueError, match=r"holds another: points\.0 was"):
        judged(varied.at(0.3), y=answers(), state=tmp_path)


def test_a_view_after_more_training_does_not_go_on(tmp_path):
    classifier = varied_classifier()
    judged(classifier.at(1.0), y=answers(), state=tmp_path)
    with torch.no_grad():
        classifier.model.network.norm.film.output.weight += 0.01
    with pytest.raises(ValueError, match="holds another: weights was"):
        judged(classifier.at(1.0), y=answers(), state=tmp_path)


def test_preprocessing_is_a_setting_too(tmp_path):
    judged(make_classifier(preprocessing=(0.5, 0.25)), y=answers(), state=tmp_path)
    with pytest.raises(ValueError, match=r"holds another: preprocessing\.0\.std was"):
        judged(make_classifier(preprocessing=(0.5, 0.2)), y=answers(), state=tmp_path)


def test_numbers_of_numpy_and_labels_written_otherwise_are_the_same_evaluation(varied, tmp_path):
    judged(varied, state=tmp_path, shard_size=7, seed=3)
    numpy = {"shard_size": np.int64(7), "seed": np.int32(3), "eps": np.float64(0.05), "lam": np.float64(varied.lam)}
    judged(varied, y=np.eye(5)[answers()], state=str(tmp_path), **numpy)


def test_a_damaged_folder_is_named_with_what_to_do(varied, tmp_path):
    state = tmp_path / "state"
    judged(varied, state=state, shard_size=7)
    path = state / "shard-00001.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"shard-00001\.npz is damaged\. Delete it"):
        judged(varied, state=state, shard_size=7)
    path.unlink()
    whole = judged(varied, shard_size=7)
    assert judged(varied, state=state, shard_size=7).broken_by.tolist() == whole.broken_by.tolist()
    for content in (b"{", b"[]", b"\xff\xfe"):
        (state / "evaluation.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"evaluation\.json is damaged"):
            judged(varied, state=state, shard_size=7)


def test_what_is_no_folder_of_an_evaluation_is_not_written_to(varied, tmp_path):
    state, file = tmp_path / "state", tmp_path / "file"
    judged(varied, state=state)
    (state / "evaluation.json").unlink()
    file.write_text("mine")
    for place in (state, file):
        with pytest.raises(ValueError, match="state must be a folder of this evaluation"):
            judged(varied, state=place)
    assert not (state / "evaluation.json").exists()
    assert file.read_text() == "mine"


def test_what_is_refused_leaves_no_folder_behind(varied, tmp_path):
    with pytest.raises(ValueError, match="eps must be"):
        judged(varied, eps=0, state=tmp_path / "new")
    assert not (tmp_path / "new").exists()


# -- What the result does not depend on. ------------------------------------------------------------------------------


def test_neither_the_order_of_engines_nor_that_of_points_nor_their_company_changes_what_a_stage_draws(tmp_path):
    def found(**options) -> dict:
        return findings(at_three_points(tmp_path / "log", carries_examples=False, **options).run())

    attacks = two_attacks(tmp_path / "log")
    expected = found()
    assert len({tuple(it) for it in expected.values()}) > 1
    assert found(attack=dict(reversed(attacks.items()))) == expected
    assert found(points=POINTS[::-1]) == expected
    alone = found(attack={"second": attacks["second"]}, points=POINTS[1:2])
    assert alone == {(POINTS[1], "second"): expected[POINTS[1], "second"]}


def test_the_order_of_engines_changes_no_carried_example(tmp_path):
    attacks = two_attacks(tmp_path / "log")
    first, second = (
        findings(at_three_points(tmp_path / "log", dict(it)).run())
        for it in (attacks.items(), reversed(attacks.items()))
    )
    assert first == second


def test_another_seed_draws_otherwise():
    starts = {}

    def attack(network, x, y, *, clip_values=None, generator=None):
        starts.setdefault(seed, []).append(torch.rand(1, generator=generator).item())
        return x

    for seed in (0, 1, 0):
        judged(varied_classifier(), attack=attack, shard_size=12, seed=seed)
    (a, b, *again), others = starts[0], starts[1]
    assert again == [a, b]
    assert len({a, b, *others}) == 4


@pytest.mark.slow
def test_two_workers_find_the_same_as_one(varied, tmp_path):
    for classifier, attack in ((varied, {"it": Logged(tmp_path / "log")}), (varied, "art:FastGradientMethod")):
        options = {"attack": attack, "lam": 0.3, "shard_size": 7, "eps": 0.1, "y": answers()}
        alone = judged(classifier, **options)
        together = judged(classifier, nb_workers=2, state=tmp_path / str(attack)[:5], **options)
        assert together.broken_by.tolist() == alone.broken_by.tolist()
        assert judged(classifier, state=tmp_path / str(attack)[:5], **options).seconds == together.seconds
    view = judged(varied.at(0.3), nb_workers=2, shard_size=7, y=answers())
    assert view.broken_by.tolist() == judged(varied.at(0.3), shard_size=7, y=answers()).broken_by.tolist()
