import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch

from art_oat import AdaptivePolicy, Frontier, OperatingPoint
from tests.frontier.points import SLIM, point

CURVE = Frontier((point(0, 0.9, 0.1), point(0.2, 0.7, 0.2), point(0.4, 0.8, 0.4), point(1, 0.6, 0.5)))
"""The second point lies below the others; the steps are at 0.1 / 0.4 and at 0.2 / 0.3."""


def random_curve(seed: int, nb_points: int = 12) -> Frontier:
    draws = np.random.default_rng(seed).integers(0, 21, (nb_points, 2)) / 20  # on a grid: with ties and points in line
    return Frontier(tuple(point(index / nb_points, *pair) for index, pair in enumerate(draws.tolist())))


def test_it_steps_from_corner_to_corner_of_the_hull_where_two_are_equally_good():
    thresholds, points = zip(*AdaptivePolicy(CURVE).steps(), strict=True)
    assert points == (OperatingPoint(0), OperatingPoint(0.4), OperatingPoint(1))
    assert thresholds == pytest.approx((0, 0.25, 2 / 3))


@pytest.mark.parametrize("seed", range(20))
def test_the_steps_are_where_the_point_of_highest_expected_accuracy_changes(seed):
    policy = AdaptivePolicy(random_curve(seed))
    steps = policy.steps()
    ends = [*(threat for threat, _ in steps[1:]), 1.0]
    for (start, at), end in zip(steps, ends, strict=True):
        assert start < end or start == end == 1
        inside = (start + end) / 2
        expected = [(1 - inside) * p.clean + inside * p.robust for p in policy.curve.points]
        taken = policy.point(threat=inside)
        assert max(expected) == pytest.approx(
            next(e for p, e in zip(policy.curve.points, expected, strict=True) if p.operating_point == at)
        )
        assert start == end or taken == at


@pytest.mark.parametrize("seed", range(20))
def test_more_threat_never_takes_a_less_robust_point_and_no_fixed_point_expects_more(seed):
    policy = AdaptivePolicy(random_curve(seed))
    points = {p.operating_point: p for p in policy.curve.points}
    robust = []
    for threat in np.linspace(0, 1, 33):
        taken = points[policy.point(threat=threat)]
        robust.append(taken.robust)
        best = max((1 - threat) * p.clean + threat * p.robust for p in points.values())
        assert (1 - threat) * taken.clean + threat * taken.robust == pytest.approx(best)
    assert robust == sorted(robust)


def test_a_point_that_another_beats_is_never_taken():
    for curve in map(random_curve, range(20)):
        assert {at for _, at in AdaptivePolicy(curve).steps()} <= {
            at.operating_point for at in curve.pareto(costs=()).points
        }


def test_the_floors_and_the_time_hold_whatever_the_threat():
    for threat in (0, 0.5, 1):
        assert AdaptivePolicy(CURVE, min_robust=0.4).point(threat=threat) in (OperatingPoint(0.4), OperatingPoint(1))
        assert AdaptivePolicy(CURVE, min_clean=0.8).point(threat=threat) in (OperatingPoint(0), OperatingPoint(0.4))
        assert AdaptivePolicy(SLIM).point(threat=threat, max_latency_ms=5).width == 0.5
    assert AdaptivePolicy(SLIM).steps(max_latency_ms=5) == (
        (0.0, OperatingPoint(0, 0.5)),
        (pytest.approx(0.1 / 0.3), OperatingPoint(1, 0.5)),
    )


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("means", [(0.0, 1.0), (0.1, 0.8), (7.0, -3.0)])
def test_a_share_of_attacked_samples_is_found_in_the_mean_of_scores(share, means):
    attacked = np.arange(400) < 400 * share
    scores = np.where(attacked, means[1], means[0]) + np.tile([-0.5, 0.5], 200)  # noise of mean 0
    assert AdaptivePolicy(CURVE, mean_scores=means).share(scores) == pytest.approx(share)


def test_flags_with_false_alarms_and_misses_give_the_share_on_average():
    false_alarms, hits, share = 0.2, 0.7, 0.3
    flags = np.repeat([True, False], [35, 65])  # 0.7 * 0.2 + 0.3 * 0.7 = 0.35 of them raised
    assert AdaptivePolicy(CURVE).share(flags) == pytest.approx(0.35)
    assert AdaptivePolicy(CURVE, mean_scores=(false_alarms, hits)).share(flags) == pytest.approx(share)


def test_a_share_stays_between_none_and_all():
    policy = AdaptivePolicy(CURVE, mean_scores=(0.2, 0.7))
    assert policy.share([0, 0, 0]) == 0
    assert policy.share([1, 1, 1]) == 1


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_scores_are_of_any_kind_and_a_number_is_the_share_itself(kind):
    policy = AdaptivePolicy(CURVE, mean_scores=(0.2, 0.7))
    assert policy.share(kind([0.2, 0.7])) == pytest.approx(0.5)
    assert policy.share(np.float32(0.5)) == 0.5
    assert policy.point(threat=kind([0.2, 0.7])) == OperatingPoint(0.4)


@pytest.mark.parametrize(
    ("threat", "message"),
    [
        (1.5, r"threat must lie in \[0, 1\], got 1.5"),
        (math.nan, r"threat must lie in \[0, 1\]"),
        (True, r"threat must lie in \[0, 1\], got True"),
        ("high", r"threat must lie in \[0, 1\], got 'high'"),
        (None, "threat must be a number or an array of numbers, got None"),
        ([], "one finite score per sample"),
        ([0.5, math.nan], "one finite score per sample"),
        ([[0.1, 0.9]], "one finite score per sample"),
        ([-2.0, 3.0], r"probabilities in \[0, 1\].*mean_scores"),
        (["a"], "threat must be a number or an array of numbers"),
    ],
)
def test_a_threat_that_cannot_be_is_refused(threat, message):
    with pytest.raises((TypeError, ValueError), match=message):
        AdaptivePolicy(CURVE).point(threat=threat)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"curve": 5}, "curve must be a Frontier"),
        ({"min_robust": 0.6}, "min_robust = 0.6 is missed by 0.100"),
        ({"min_clean": 2}, r"min_clean must lie in \[0, 1\]"),
        ({"mean_scores": (0.5, 0.5)}, "mean_scores must be two different numbers"),
        ({"mean_scores": 0.5}, "mean_scores must be two different numbers"),
        ({"mean_scores": (0, math.nan)}, "mean_scores must be two different numbers"),
    ],
)
def test_a_policy_that_could_take_no_point_is_not_made(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        AdaptivePolicy(**{"curve": CURVE, **arguments})


def test_no_point_that_is_fast_enough_is_told_with_what_is_missing():
    with pytest.raises(ValueError, match=r"max_latency_ms = 1 is missed by 1.5: the best is 2.5"):
        AdaptivePolicy(SLIM).point(threat=0.5, max_latency_ms=1)
    with pytest.raises(ValueError, match="max_latency_ms needs the latency_ms of every point"):
        AdaptivePolicy(CURVE).point(max_latency_ms=1)


def test_a_policy_is_a_value():
    policy = AdaptivePolicy(SLIM, min_robust=0.3, mean_scores=(0, 2))
    assert pickle.loads(pickle.dumps(policy)) == policy == dataclasses.replace(policy)
    assert hash(policy) == hash(dataclasses.replace(policy))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.min_robust = 0.0
