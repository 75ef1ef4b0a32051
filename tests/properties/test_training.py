"""Methods, trainers and losses: compared with steps taken in plain torch, and with sums in NumPy."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from art_oat import NFGSM, PGD, MARTLoss, Method, OATTrainer, OneCycle, TRADESLoss, WeightPerturbation, parameter_groups
from art_oat.training import (
    EarlyStopping,
    Piecewise,
    RestoreBest,
    StratifiedSampling,
    Validation,
    hybrid_loss,
    loss_by_name,
    recalibrate,
)
from art_oat.training.method import METHODS
from tests.properties import subjects
from tests.properties.entry import Entry, tried
from tests.properties.strategies import (
    FLAGS,
    POSITIVE,
    SEEDS,
    Odd,
    Values,
    choices,
    counts,
    fixed,
    inputs,
    labels,
    numbers,
)

NB, K = 4, subjects.NB_CLASSES
CLASSIFIER = subjects.classifier()
MODEL = CLASSIFIER.model
OTHER = subjects.classifier()
START = copy.deepcopy(MODEL.state_dict())
ATTACK = PGD(0.1, nb_steps=1)


def restored():
    MODEL.load_state_dict(START)
    for parameter in MODEL.parameters():
        parameter.grad = None
    CLASSIFIER.optimizer.state.clear()
    MODEL.eval()


NAMED = ("pgd-7", "pgd-1", "n-fgsm", "n-fgsm-1")
SOME_ATTACK = fixed(
    *NAMED,
    PGD(0.1),
    NFGSM(0.1),
    wrong=st.sampled_from(
        ("", "pgd", "pgd-0", "pgd-1x2", "PGD-7", "autoattack", "no such", "art:NoSuch", "é", "pgd-7\n")
    ),
)
SMALL = numbers(0, 0.4, is_low_in=False, is_high_in=False)
SHARE = numbers(0, 1, is_high_in=False)
METHOD = {
    "attack": SOME_ATTACK,
    "eps": Values(SMALL.right, POSITIVE.wrong),  # what is too large depends on the range of a classifier
    "eps_step": POSITIVE.or_none(),
    "norm": choices("Linf"),
    "allow_large_eps": FLAGS,
    "loss": fixed(
        "oat",
        "trades",
        "mart",
        "alp",
        hybrid_loss,
        TRADESLoss(2.0),
        wrong=st.sampled_from(("", "OAT", "ce", None, 1.0, [], Odd(), MARTLoss, np.array(["oat"]))),
    ),
    "sampling": fixed(
        StratifiedSampling(),
        StratifiedSampling({1.0: 5}),
        wrong=st.sampled_from((None, "uniform", {1.0: 5}, 5.0, StratifiedSampling)),
    ),
    "weight_perturbation": fixed(
        None,
        0.01,
        np.float64(0.01),
        WeightPerturbation(0.005),
        wrong=st.sampled_from(("0.01", True, 0.0, -1, math.nan, [0.01], 10**400, Odd(), 1j)),
    ),
    "augmentation": fixed(None, lambda x, generator: x, wrong=st.sampled_from(("crop", 4, [], Odd(), {}))),
    "ema": numbers(0, 1, is_low_in=False, is_high_in=False).or_none(),
    "clean_share": SHARE,
    "eps_warmup": SHARE,
    "width_sampling": choices("all", "sandwich", "random"),
    "distills": FLAGS,
    "clip_grad_norm": POSITIVE.or_none(),
    "matches_dropout": FLAGS,
    "compile_attack": fixed(False, wrong=st.sampled_from(("yes", None, Odd()))),
    "precision": choices("float32", "bf16"),
    "attack_precision": fixed(
        None, "float32", "bf16", wrong=st.sampled_from(("fp16", 32, [], torch.float32, "", True, Odd()))
    ),
}


def method_conflicts(given):
    found = []
    attack = given.get("attack", "pgd-7")
    if isinstance(attack, str) and attack.startswith("n-fgsm") and given.get("eps_step") is not None:
        found.append("eps_step")
    if bool(given.get("distills", False)) and given.get("width_sampling", "random") == "random":
        found += ["distills", "width_sampling"]
    return found


def as_given(method, given):
    """Fields are what was given, numbers as Python's own."""
    for name, value in given.items():
        found = getattr(method, name)
        if isinstance(value, int | float | np.generic) and not isinstance(value, bool | np.bool_):
            assert found == float(value)
            assert type(found) in (int, float, bool)
        elif not hasattr(value, "shape"):
            assert found == value


def named(**given):
    return Method.named(given.pop("name"), **given)


def combined(method, given):
    assert isinstance(method, Method)
    assert method == METHODS[given["name"]](**{name: value for name, value in given.items() if name != "name"})


LOGITS = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.25, -0.5], [1.5, 1.0, -2.0], [0.1, 0.2, 0.3]], dtype=torch.float64)


def log_softmax(z):
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def hybrid(found, given):
    """``mean((1 - lam) CE(clean) + lam CE(attacked))``."""
    y, lam = given["y"].numpy(), given["lam"].numpy()
    table = np.eye(K)[y] if y.ndim == 1 else y
    clean = -(table * log_softmax(given["logits"].numpy())).sum(axis=1)
    attacked = np.zeros(len(lam))
    attacked[lam > 0] = -(table[lam > 0] * log_softmax(given["logits_adv"].numpy())).sum(axis=1)
    assert float(found) == pytest.approx(float(((1 - lam) * clean + lam * attacked).mean()), rel=1e-9)


HYBRID = {
    "logits": fixed(
        LOGITS, LOGITS.flip(1), wrong=st.sampled_from((None, LOGITS.numpy(), "x", LOGITS[:2], LOGITS[0], LOGITS[None]))
    ),
    "logits_adv": fixed(
        LOGITS[:2], wrong=st.sampled_from((LOGITS[:1], LOGITS, LOGITS[:0], None, LOGITS[:2].numpy(), LOGITS[:2, :2]))
    ),
    "y": fixed(
        torch.tensor([0, 1, 2, 0]),
        torch.full((4, 3), 1 / 3, dtype=torch.float64),
        wrong=st.sampled_from(
            (
                None,
                [0, 1, 2, 0],
                torch.tensor([0, 1, 2, 3]),
                torch.tensor([0, 1]),
                torch.tensor([0.0, 1, 2, 0]),
                torch.tensor([-1, 0, 1, 2]),
            )
        ),
    ),
    "lam": fixed(
        torch.tensor([0.0, 0.5, 0.0, 1.0], dtype=torch.float64),
        torch.tensor([0.25, 0.0, 1.0, 0.0], dtype=torch.float64),
        wrong=st.sampled_from((None, 0.5, torch.zeros(3), torch.zeros(4, 1), [0.0, 0.5, 0.0, 1.0])),
    ),
}


def stepped(_, given):
    """One batch of lam 0 and 1 alone, without attack: the step is that of plain SGD on the network at these lams."""


def fit(**given):
    trainer = OATTrainer(CLASSIFIER, ATTACK, seed=3)
    trainer.fit(verbose=False, **given)
    return trainer


def seen(trainer, given):
    """As many records as epochs, all finite; the same seed gives the same weights to the bit."""
    assert len(trainer.history) == int(given["nb_epochs"])
    first = copy.deepcopy(MODEL.state_dict())
    assert all(bool(tensor.isfinite().all()) for tensor in first.values())
    restored()
    plain = given | {"x": subjects.as_tensor(given["x"]).numpy(), "nb_epochs": int(given["nb_epochs"])}
    fit(**(plain | ({"batch_size": int(given["batch_size"])} if "batch_size" in given else {})))
    assert all(torch.equal(tensor, first[name]) for name, tensor in MODEL.state_dict().items())


VALID_X, VALID_Y = np.full((3, *subjects.SHAPE), 0.5, dtype=np.float32), np.array([0, 1, 2])
FIT = {
    "x": inputs(subjects.SHAPE, sizes=[NB]),
    "y": labels(NB, K, takes_soft=True),
    "validation_data": Values(
        st.sampled_from((None, (VALID_X, VALID_Y), [VALID_X, VALID_Y], Validation(VALID_X, VALID_Y, 2))),
        st.sampled_from(
            (  # noqa: RUF005
                VALID_X,
                (VALID_X,),
                (VALID_X, VALID_Y[:2]),
                (VALID_X[:, :, :2], VALID_Y),
                (VALID_X * np.nan, VALID_Y),
                "x",
                1,
                Odd(),
            )
            + (
                (None, None),
                (VALID_X, None),
                (VALID_X, VALID_Y + 5),
                (VALID_X[:0], VALID_Y[:0]),
                (2 * VALID_X + 1, VALID_Y),
            )
            + (Validation(VALID_X, VALID_Y, 0), Validation(VALID_X, VALID_Y, 1.5), Validation("x", "y"))
        ),
        names=("validation", "validation x", "validation y"),
    ),
    "batch_size": counts(2, 5),
    "nb_epochs": counts(1, 2),
    "scheduler": Values(
        st.sampled_from((None, OneCycle(), Piecewise({}), lambda p: 1 - p / 2)),
        st.sampled_from(
            (
                "cosine",
                1,
                Odd(),
                [],
                lambda p: -1.0,
                lambda p: math.nan,
                lambda p: "x",
                lambda: 1.0,
                OneCycle,
                torch.optim.lr_scheduler.StepLR(OTHER.optimizer, 1),
            )
        ),
    ),
    "callbacks": Values(
        st.sampled_from(((), [], [lambda record: None], (RestoreBest(),), [EarlyStopping(1)])),
        st.sampled_from((None, 1, RestoreBest(), [RestoreBest], [None], ["csv"], lambda record: None, Odd())),
    ),
}


def fit_conflicts(given):
    needs = any(isinstance(one, RestoreBest | EarlyStopping) for one in given.get("callbacks", ()))
    return ("callbacks", "validation_data") if needs and given.get("validation_data") is None else ()


def make(**given):
    return OATTrainer(**given)


def no_optimizer():
    bare = subjects.classifier()
    bare._optimizer = None
    return bare


MAKE = {
    "classifier": fixed(
        CLASSIFIER,
        wrong=st.sampled_from(
            (None, MODEL, subjects.plain_classifier(0.0, 1.0), CLASSIFIER.at(0.5), "x", no_optimizer())
        ),
    ),
    "method": fixed(
        None,
        ATTACK,
        Method(),
        Method.fast(),
        NFGSM(0.1),
        wrong=st.sampled_from(("dial", Method.dial, 1, Odd(), PGD, [], nn.Linear(1, 1), {}, "")),
    ).called("attack"),
    "seed": SEEDS,
}


def decays(groups, given):
    """Every parameter once; what decays is what has more than one axis and is no FiLM, unless the kind is not exempt."""  # noqa: E501
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in given["model"].parameters())
    assert {group["weight_decay"] for group in groups} <= {0.0, float(given["weight_decay"])}


def calibrated(**given):
    recalibrate(**given)


def averages(_, given):
    """The mean of the clean side is the average over the batches of what reaches the norm at lam 0."""
    norm = MODEL.network.norm.at(1.0).clean
    with torch.no_grad():
        means = [MODEL.network.stem.at(1.0)(subjects.as_tensor(x)).mean(dim=(0, 2, 3)) for x in LOADER]
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(dim=0), rtol=1e-4, atol=1e-5)


LOADER = [torch.rand(4, *subjects.SHAPE, generator=torch.Generator().manual_seed(k)) for k in range(2)]

ENTRIES = [
    Entry("Method", Method, METHOD, (), as_given, conflicts=method_conflicts, nb_cases=150),
    Entry(
        "Method.named",
        named,
        {"name": choices(*METHODS).called("method")}
        | {name: METHOD[name] for name in ("eps", "loss", "ema", "clean_share")},
        ("name",),
        combined,
    ),
    Entry("hybrid_loss", hybrid_loss, HYBRID, tuple(HYBRID), hybrid, nb_cases=60),
    Entry("loss_by_name", loss_by_name, {"name": choices("oat", "trades", "mart", "alp").called("loss")}, ("name",)),
    Entry(
        "OATTrainer.fit",
        fit,
        FIT,
        ("x", "y", "nb_epochs"),
        seen,
        lambda: [CLASSIFIER],
        fit_conflicts,
        changes_nothing=False,
        restore=restored,
        nb_cases=150,
    ),
    Entry("OATTrainer", make, MAKE, ("classifier",), watched=lambda: [CLASSIFIER], nb_cases=60),
    Entry(
        "OATTrainer(parts)",
        lambda **it: OATTrainer(CLASSIFIER, **it),
        METHOD,
        watched=lambda: [CLASSIFIER],
        conflicts=method_conflicts,
        nb_cases=60,
    ),
    Entry(
        "parameter_groups",
        parameter_groups,
        {
            "model": fixed(
                MODEL,
                subjects.plain(),
                wrong=st.sampled_from((None, "x", CLASSIFIER, Odd(), nn.ReLU(), list(MODEL.parameters()))),
            ),
            "weight_decay": numbers(0, math.inf),
            "exempt": fixed(
                (),
                ["norm"],
                {"bias", "film"},
                wrong=st.sampled_from((None, "norm", ["norms"], 1, [1], [[]], Odd(), [None])),
            ),
        },
        ("model", "weight_decay"),
        decays,
    ),
    Entry(
        "recalibrate",
        calibrated,
        {
            "model": fixed(MODEL, CLASSIFIER, wrong=st.sampled_from((None, "x", subjects.plain(), Odd()))),
            "loader": fixed(
                LOADER,
                [x.numpy() for x in LOADER],
                [(x, VALID_Y) for x in LOADER],
                wrong=st.sampled_from(([], (), None, 1, "x", [None], ["x"], [1.0], [LOADER[0][:, :, 0, 0]], [Odd()])),
            ),
            "seed": SEEDS,
        },
        ("model", "loader"),
        averages,
        lambda: [CLASSIFIER],
        changes_nothing=False,
        restore=restored,
    ),
]


@pytest.mark.parametrize("entry", tried(ENTRIES), ids=lambda entry: entry.name)
def test_a_training_takes_the_steps_of_plain_torch_or_refuses_by_name(entry):
    entry.try_many()
