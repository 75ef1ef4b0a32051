"""Several processes that share an evaluation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.multiprocessing import ProcessExitedException

from art_oat import TradeoffCurve
from art_oat.evaluation import EvaluationOptions, evaluate
from art_oat.group import Group
from tests.evaluation.subjects import (
    Logged,
    X,
    answers,
    grouped,
    linear_data,
    logged,
    plain_classifier,
    varied_classifier,
)
from tests.processes import in_processes

SHARD_SIZE = 5  # of 24 samples


@dataclass
class Noted(Logged):
    """Notes its attacks in a file that is no part of its settings."""

    log: Path = field(repr=False)


def measured(folder: Path, state: Path | None = None) -> list[Any]:
    """All that a curve says, but for times; attacks are noted for each process."""
    rank, size = Group.here().rank, Group.here().size
    log = folder / f"log-{size}-{rank}"
    attacks = {"first": Noted(log, "first"), "second": Noted(log, "second", 0.05)}
    given = grouped(eps=0.1, lambdas=[0.0, 0.3, 1.0], shard_size=SHARD_SIZE, state=state, uses_group=True)
    curve = TradeoffCurve.measure(varied_classifier(), X, answers(), attack=attacks, **given)
    points = [(point.lam, point.clean, point.robust, point.by_attack, point.parameters) for point in curve.points]
    return [points, [(it.point, it.attack, it.broken_by.tolist()) for it in curve.reports]]


def called(folder: Path) -> list[tuple[int, float, str]]:
    """Which shard was attacked at which lam by what, in any process, sorted."""
    calls = [call for path in folder.glob("log-*") for call in logged(path)]
    return sorted((index[0] // SHARD_SIZE, lam, name) for lam, name, index in calls)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("nb", [2, 4])
def test_processes_that_share_an_evaluation_find_what_one_finds_and_each_attacks_its_shards(nb, tmp_path):
    (expected,) = in_processes(1, tmp_path, measured, tmp_path)
    for found in in_processes(nb, tmp_path, measured, tmp_path):
        assert found == expected
    for rank in range(nb):
        shards = {index[0] // SHARD_SIZE for _, _, index in logged(tmp_path / f"log-{nb}-{rank}")}
        assert shards == set(range(5)[rank::nb])


def stopped_in_one(folder: Path, state: Path) -> list[Any]:
    if Group.here().rank == 1:
        (folder / "log-2-1.stop").write_text("4")
    return measured(folder, state)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("nb", [1, 3])
def test_what_two_processes_left_is_gone_on_with_by_another_number_and_nothing_is_attacked_twice(nb, tmp_path):
    state, first, second = tmp_path / "state", tmp_path / "first", tmp_path / "second"
    for folder in (first, second, tmp_path / "whole"):
        folder.mkdir()
    with pytest.raises(ProcessExitedException, match="process 1 terminated"):
        in_processes(2, tmp_path, stopped_in_one, first, state)
    kept = {path.name: set(np.load(path)["keys"].tolist()) for path in state.glob("shard-*.npz")}
    assert any(kept.values())
    (whole,) = in_processes(1, tmp_path, measured, tmp_path / "whole")
    assert in_processes(nb, tmp_path, measured, second, state) == [whole] * nb
    done = {(int(name[6:11]), key) for name, keys in kept.items() for key in keys}
    assert called(second)
    assert not done & {(shard, f"{lam}x1.0 {name}") for shard, lam, name in called(second)}


def refused() -> str:
    x, y = linear_data()
    y[Group.here().rank] = (y[Group.here().rank] + 1) % 4
    with pytest.raises(ValueError, match="must be the same in all 2 processes") as caught:
        evaluate(plain_classifier(), x, y, eps=0.1, options=EvaluationOptions(uses_group=True, verbose=False))
    return str(caught.value)


def test_what_is_not_the_same_in_all_processes_is_refused_in_all(tmp_path):
    for said in in_processes(2, tmp_path, refused):
        assert said.startswith("the settings, data and weights of an evaluation must be the same")


def by_itself() -> int:
    if not Group.here().is_first:
        return 0
    x, y = linear_data()
    options = EvaluationOptions(verbose=False)
    return len(evaluate(plain_classifier(), x, y, eps=0.01, attack="pgd-3", options=options).broken_by)


def test_unless_asked_to_share_a_process_of_a_group_evaluates_by_itself(tmp_path):
    assert in_processes(2, tmp_path, by_itself) == [8, 0]
