"""Evaluations: an attack of one known step is compared with plain networks, sample by sample."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from art_oat import PGD, TradeoffCurve, TransferMatrix, evaluate
from art_oat.attacks import attack_named
from art_oat.evaluation import EvaluationOptions, ThreatModel
from tests.properties import subjects
from tests.properties.entry import Entry, tried
from tests.properties.strategies import (
    POSITIVE,
    Odd,
    Values,
    choices,
    fixed,
    indices_of,
    inputs,
    labels,
)
from tests.properties.test_model import DIAL, WIDTH, dialed

NB, K = 4, subjects.NB_CLASSES
CLASSIFIER = subjects.classifier()
VIEW = CLASSIFIER.at(0.25)
PLAIN = subjects.plain_classifier(0.25, 1.0)
RADIUS = 0.1


def darken(network, x, y, *, clip_values=None, generator=None):
    """Takes every pixel down by as much as is allowed."""
    return (x - RADIUS).clamp(*[float(value) for value in clip_values]) if clip_values is not None else x - RADIUS


QUIET = EvaluationOptions(verbose=False)
TRAINED = Values(st.sampled_from((0.0, 0.25, 1.0, 0.5, np.float32(0.25), 1)), DIAL.wrong)
LAM = Values(TRAINED.right, TRAINED.wrong | st.none())
EPS = Values(
    st.sampled_from((RADIUS, np.float64(RADIUS), ThreatModel(RADIUS), ThreatModel(RADIUS, "Linf"))),
    st.sampled_from((None, 0, -0.1, "0.1", True, 0.9, [0.1], 10**400, float("nan"), float("inf"), Odd(), 1j))
    | st.sampled_from(
        (ThreatModel(-1.0), ThreatModel("x"), ThreatModel(0.9), ThreatModel(RADIUS, "L3"), ThreatModel(None))
    ),
    names=("norm",),
)
ATTACK = fixed(
    darken,
    {"dark": darken},
    PGD(RADIUS, nb_steps=1),
    "pgd-1",
    wrong=st.sampled_from(
        (
            "",
            "pgd",
            "no such",
            "screen",  # which needs four classes
            None,
            1,
            Odd(),
            {},
            [],
            PGD,
            {"a": None},
            {"a": "b"},
            ["pgd-1", "pgd-2"],
            {1: darken},
            b"pgd-1",
        )
    ),
)
BAD_OPTIONS = (
    *(
        EvaluationOptions(**{"verbose": False, **one})
        for one in (
            {"shard_size": 0},
            {"shard_size": 2.5},
            {"shard_size": "4"},
            {"seed": -1},
            {"seed": 0.5},
            {"seed": None},
        )
    ),
    *(
        EvaluationOptions(**{"verbose": False, **one})
        for one in ({"nb_workers": 0}, {"nb_workers": None}, {"nb_workers": True}, {"state": 5}, {"verbose": "yes"})
    ),
)
OPTIONS = Values(
    st.sampled_from(
        (QUIET, EvaluationOptions(2, verbose=False), EvaluationOptions(verbose=False, seed=7, shard_size=np.int64(3)))
    ),
    st.sampled_from((None, {}, "fast", 1, EvaluationOptions, Odd(), *BAD_OPTIONS)),
    names=("shard_size", "seed", "nb_workers", "state", "verbose"),
)
X, Y = inputs(subjects.SHAPE, sizes=[NB]), labels(NB, K)
EVALUATE = {
    "classifier": fixed(CLASSIFIER, wrong=st.sampled_from((None, "x", CLASSIFIER.model, Odd(), subjects.plain()))),
    "x": X,
    "y": Y,
    "eps": EPS,
    "attack": ATTACK,
    "lam": LAM,
    "width": WIDTH,
    "options": OPTIONS,
}


def right_at(x, y, lam, width):
    return subjects.scores(x, lam, width).argmax(axis=1) == indices_of(y, K)


def found_out(report, given):
    """A sample is clean if its plain answer is right, and robust if the answer to the darker image is, too."""
    lam, width = float(given["lam"]), dialed(given.get("width"))
    x = np.clip(subjects.as_tensor(given["x"]).numpy(), 0, 1)
    is_clean = right_at(x, given["y"], lam, width)
    assert report.is_clean.tolist() == is_clean.tolist()
    assert not (report.is_robust & ~is_clean).any()
    if given["attack"] is darken:
        darker = (torch.from_numpy(x) - RADIUS).clamp(0, 1)
        assert report.is_robust.tolist() == (is_clean & right_at(darker, given["y"], lam, width)).tolist()


def measured(curve, given):
    points = {(point.lam, point.width): point for point in curve.points}
    x = np.clip(subjects.as_tensor(given["x"]).numpy(), 0, 1)
    for (lam, width), point in points.items():
        is_clean = right_at(x, given["y"], lam, width)
        darker = right_at((torch.from_numpy(x) - RADIUS).clamp(0, 1), given["y"], lam, width)
        assert point.clean == pytest.approx(is_clean.mean())
        assert point.robust == pytest.approx((is_clean & darker).mean())


SEVERAL = Values(
    st.sampled_from((None, [0.25], (0.0, 1.0), np.array([0.5]), [0, 1])),
    st.sampled_from((0.5, "0.5", [], [2], [-1], ["0.5"], [True], [None, 3], [float("nan")], Odd(), [[0.5]], 1j)),
    names=("lam",),
)


def crossed(matrix, given):
    x = np.clip(subjects.as_tensor(given["x"]).numpy(), 0, 1)
    for k, lam in enumerate(matrix.lambdas):
        assert matrix.right[0, k].tolist() == right_at(x, given["y"], lam, dialed(given.get("width"))).tolist()


def named(**given):
    return attack_named(classifier=CLASSIFIER, **given)


BASE = ("classifier", "x", "y", "eps", "attack", "lam", "options")

ENTRIES = [
    Entry("evaluate", evaluate, EVALUATE, BASE, found_out, lambda: [CLASSIFIER], nb_cases=130),
    Entry(
        "evaluate a view",
        evaluate,
        EVALUATE
        | {
            "classifier": fixed(VIEW, PLAIN),
            "lam": fixed(None, wrong=st.sampled_from((0.25, "x"))),
            "width": fixed(None, wrong=st.sampled_from((1.0, "x"))),
            "attack": fixed(darken),
        },
        BASE,
        lambda found, given: found_out(found, given | {"lam": 0.25, "width": 1.0}),
        lambda: [CLASSIFIER, PLAIN],
    ),
    Entry(
        "TradeoffCurve.measure",
        TradeoffCurve.measure,
        EVALUATE
        | {
            "lambdas": SEVERAL,
            "widths": Values(
                st.sampled_from((None, [0.5], (1.0, 0.5))),
                st.sampled_from((1.0, [], [0.75], ["1"], Odd())),
                names=("width",),
            ),
            "attack": Values(st.just(darken), ATTACK.wrong.filter(lambda it: not isinstance(it, list) or not it)),
        },
        ("classifier", "x", "y", "eps", "attack", "options"),
        measured,
        lambda: [CLASSIFIER],
        nb_cases=50,
    ),
    Entry(
        "TransferMatrix.measure",
        TransferMatrix.measure,
        {name: EVALUATE[name] for name in ("classifier", "x", "y", "eps", "width", "options")}
        | {"attack": fixed(darken, PGD(RADIUS, nb_steps=1), wrong=st.sampled_from(("", 1, Odd(), PGD, {})))},
        ("classifier", "x", "y", "eps", "attack", "options"),
        crossed,
        lambda: [CLASSIFIER],
        nb_cases=50,
    ),
    Entry(
        "attack_named",
        named,
        {
            "name": choices("pgd-7", "pgd-1", "n-fgsm").called("attack"),
            "eps": POSITIVE,
            "norm": choices("Linf"),
            "objective": choices("cross-entropy", "kl"),
        },
        ("name", "eps"),
        lambda attack, given: _is_of(attack, given),  # noqa: PLW0108
        lambda: [CLASSIFIER],
    ),
]
del ENTRIES[2].arguments["lam"], ENTRIES[2].arguments["width"]


def _is_of(attack, given):
    assert attack.eps == float(given["eps"])


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("entry", tried(ENTRIES), ids=lambda entry: entry.name)
def test_an_evaluation_finds_what_a_known_attack_does_or_refuses_by_name(entry):
    entry.try_many()
