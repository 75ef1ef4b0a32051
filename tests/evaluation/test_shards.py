import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from art_oat import PGD
from art_oat.attacks import distance, is_correct
from art_oat.evaluation import EvaluationOptions, ThreatModel
from art_oat.evaluation.shards import CARRIED, ROBUST, WRONG, Examples, Shard
from tests.evaluation.subjects import X, index_of, varied_classifier

OPTIONS = EvaluationOptions(seed=3)
LAMS = (1.0, 0.3, 0.0)
NETWORKS = {lam: varied_classifier().at(lam).as_module() for lam in LAMS}


def shard(options: EvaluationOptions = OPTIONS, number: int = 0) -> Shard:
    """All samples, with the answers at lam 0.3 as labels, but for every fifth."""
    x = torch.from_numpy(X)
    y = NETWORKS[0.3](x).argmax(dim=1)
    y[::5] = (y[::5] + 1) % 5
    return Shard(x, y, number, ThreatModel(0.05), options, (0, 1))


def quiet(progress) -> None:
    """Tell nobody."""


class Watched:
    """PGD that remembers what it was given, and drawn from."""

    def __init__(self, nb_steps: int = 3, eps: float = 0.05) -> None:
        self.attack = PGD(eps, nb_steps=nb_steps)
        self.asked: list[tuple[torch.nn.Module, list[int]]] = []
        self.seeds: list[int] = []

    def __call__(self, network, x, y, *, clip_values=None, generator=None):
        self.asked.append((network, index_of(x)))
        self.seeds.append(generator.initial_seed())
        return self.attack(network, x, y, clip_values=clip_values, generator=generator)


def test_every_attack_meets_exactly_what_is_left_on_the_network_of_its_point():
    attacks = {"first": Watched(1), "second": Watched(3), "third": Watched(9)}
    whole = shard()
    for network in NETWORKS.values():
        result = whole.attack(network, "suite", attacks, quiet)
        wrong = (~is_correct(network, whole.x, whole.y)).nonzero().flatten().tolist()
        assert np.flatnonzero(result.broken_by == WRONG).tolist() == wrong
        left = np.flatnonzero(~np.isin(result.broken_by, [WRONG, CARRIED])).tolist()
        assert len(left) > 1
        for name, attack in attacks.items():
            assert attack.asked[-1] == (network, left)
            left = [index for index in left if result.broken_by[index] != name]
        assert left == np.flatnonzero(result.broken_by == ROBUST).tolist() != []


def test_what_a_carried_example_breaks_is_answered_wrongly_there_within_the_ball():
    whole, carried = shard(), {}
    for lam, network in NETWORKS.items():
        before = whole.examples["suite"].x_adv.clone() if whole.examples else whole.x
        broken = whole.attack(network, "suite", {"attack": Watched()}, quiet).broken_by == CARRIED
        assert not is_correct(network, before, whole.y)[broken].any()
        assert (distance(whole.x, before, "Linf") <= 0.05 + 1e-6).all()
        carried[lam] = int(broken.sum())
    assert carried[LAMS[0]] == 0
    assert sum(carried.values()) > 0


def test_an_example_that_breaks_nothing_here_spares_no_sample_the_attack():
    whole, network, watched = shard(), NETWORKS[0.3], Watched()
    clean = is_correct(network, whole.x, whole.y)
    whole.examples["suite"] = Examples(whole.x.clone(), torch.ones_like(clean))
    result = whole.attack(network, "suite", {"attack": watched}, quiet)
    assert CARRIED not in result.broken_by
    assert watched.asked == [(network, clean.nonzero().flatten().tolist())]


def test_carried_examples_only_ever_break():
    """What is robust with them met the same attack on the same input, so that it can be robust without them."""

    def deterministic(network, x, y, *, clip_values=None, generator=None):
        return PGD(0.05, nb_steps=3, has_random_start=False)(network, x, y, clip_values=clip_values)

    with_them, without = shard(), shard(replace(OPTIONS, carries_examples=False))
    nb_saved = 0
    for network in NETWORKS.values():
        found = [it.attack(network, "suite", {"attack": deterministic}, quiet).broken_by for it in (with_them, without)]
        robust, robust_alone = (broken_by == ROBUST for broken_by in found)
        assert not (robust & ~robust_alone).any()
        assert CARRIED not in found[1]
        nb_saved += int((found[0] == CARRIED).sum())
    assert nb_saved > 0


def test_examples_are_carried_from_one_run_of_a_suite_to_its_next_alone():
    whole = shard()
    result = whole.attack(NETWORKS[1.0], "one", {"attack": Watched()}, quiet)
    assert whole.examples["one"].is_found.tolist() == (result.broken_by == "attack").tolist()
    assert ROBUST in result.broken_by
    assert CARRIED not in whole.attack(NETWORKS[0.3], "other", {"attack": Watched()}, quiet).broken_by
    assert CARRIED in whole.attack(NETWORKS[0.3], "one", {"attack": Watched()}, quiet).broken_by


def test_draws_depend_on_seed_shard_suite_and_attack_and_on_nothing_else():
    seeds = {}
    for seed, number, suite in itertools.product((0, 1), (0, 1), ("a", "b")):
        attacks = {"one": Watched(), "two": Watched()}
        whole = shard(replace(OPTIONS, seed=seed, carries_examples=False), number)
        for network in NETWORKS.values():
            whole.attack(network, suite, attacks, quiet)
        for name, attack in attacks.items():
            (seeds[seed, number, suite, name],) = set(attack.seeds)
    assert len(set(seeds.values())) == len(seeds)


def test_restarts_of_one_attack_start_elsewhere():
    started = []

    def attack(network, x, y, *, clip_values=None, generator=None):
        started.append(torch.rand(4, generator=generator).tolist())
        return x

    shard().attack(NETWORKS[0.3], "suite", {"it #1": attack, "it #2": attack}, quiet)
    assert started[0] != started[1]


def test_every_attack_is_told_with_what_is_left_to_do():
    told = []
    result = shard().attack(NETWORKS[0.3], "suite", {"one": Watched(1), "two": Watched()}, told.append)
    clean, broken = (int((result.broken_by != WRONG).sum()), int((result.broken_by == "one").sum()))
    assert sum(progress.nb_done for progress in told) == 2
    assert told[0] == (f"one on {clean} of {len(X)}", 0, False)
    assert told[1] == (f"one: {clean - broken} of {len(X)} not broken", 1, False)


def written(path) -> Shard:
    whole = shard()
    for lam, suite in itertools.product(LAMS, ("a", "b:c/d")):
        result = whole.attack(NETWORKS[lam], suite, {"pgd #1": Watched()}, quiet)
        whole.results[f"{lam} {suite}"] = replace(result, notices=("it is so", "really")[: int(lam)])
    whole.write(path)
    return whole


def test_a_file_gives_back_the_results_and_the_examples(tmp_path):
    expected, read = written(tmp_path / "shard.npz"), shard()
    read.read(tmp_path / "shard.npz")
    assert [*read.results] == [*expected.results]
    for key, result in expected.results.items():
        assert read.results[key].broken_by.tolist() == result.broken_by.tolist()
        assert (read.results[key].seconds, read.results[key].notices) == (result.seconds, result.notices)
    for suite, examples in expected.examples.items():
        assert torch.equal(read.examples[suite].x_adv, examples.x_adv)
        assert torch.equal(read.examples[suite].is_found, examples.is_found)
    assert [path.name for path in tmp_path.iterdir()] == ["shard.npz"]


def test_without_a_file_there_is_nothing_to_take_in(tmp_path):
    whole = shard()
    whole.read(tmp_path / "shard.npz")
    assert whole.results == {}


def damaged_versions(whole: bytes) -> list[bytes]:
    draw = random.Random(0)
    cut = [whole[: draw.randrange(len(whole))] for _ in range(8)]
    place = whole.index(b"x_adv:a") + 400  # within the values
    flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    return [b"", b"not an archive", *cut, flipped]


def test_a_damaged_file_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "shard.npz"
    written(path)
    for content in damaged_versions(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"shard\.npz is damaged\. Delete it"):
            shard().read(path)


FORGED = {
    "too few results": (lambda kept: kept.update({"broken_by:1.0 a": kept["broken_by:1.0 a"][:-1]}), "must hold"),
    "too many results": (lambda kept: kept.update({"broken_by:1.0 a": np.array(["x"] * 99)}), "must hold"),
    "results that are no names": (lambda kept: kept.update({"broken_by:1.0 a": np.zeros(len(X))}), "must hold"),
    "a time of NaN": (lambda kept: kept.update({"seconds:1.0 a": np.array(np.nan)}), "must hold"),
    "too few examples": (lambda kept: kept.update({"x_adv:a": kept["x_adv:a"][1:]}), "finite examples"),
    "examples of NaN": (lambda kept: kept["x_adv:a"].fill(np.nan), "finite examples"),
    "examples in float64": (lambda kept: kept.update({"x_adv:a": kept["x_adv:a"].astype(float)}), "finite examples"),
    "numbers for truths": (lambda kept: kept.update({"is_found:a": np.ones(len(X))}), "finite examples"),
    "the samples of another shard": (lambda kept: kept.update(samples=np.array("0")), "other samples"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_file_that_does_not_hold_one_result_for_each_sample_is_refused_whole(tmp_path, name):
    path, (spoil, message) = tmp_path / "shard.npz", FORGED[name]
    written(path)
    with np.load(path) as file:
        kept = dict(file)
    spoil(kept)
    np.savez(path, **kept)
    whole = shard()
    with pytest.raises(ValueError, match=rf"shard\.npz is damaged\. Delete it.*{message}"):
        whole.read(path)
    assert whole.results == whole.examples == {}


def test_a_flipped_bit_of_a_file_is_refused_or_changes_nothing(tmp_path):
    path, draw = tmp_path / "shard.npz", random.Random(0)
    expected, good = written(path), path.read_bytes()
    for _ in range(100):
        flipped, place = bytearray(good), draw.randrange(len(good))
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        whole = shard()
        try:
            whole.read(path)
        except ValueError as error:
            assert "shard.npz is damaged" in str(error)  # noqa: PT017
        else:
            for key, result in expected.results.items():
                assert whole.results[key].broken_by.tolist() == result.broken_by.tolist()
            for suite, examples in expected.examples.items():
                assert torch.equal(whole.examples[suite].x_adv, examples.x_adv)


def test_a_file_of_something_else_is_named_as_damaged(tmp_path):
    path = tmp_path / "shard.npz"
    for arrays in ({}, {"keys": np.array(["a"])}, {"keys": np.array(["a"]), "suites": np.array([])}):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match="is damaged"):
            shard().read(path)
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(ValueError, match="is damaged"):
        shard().read(path)
