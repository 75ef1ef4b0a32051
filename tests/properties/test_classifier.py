"""The classifier: compared with plain networks and with ART's own classifiers of them."""

import copy
import warnings

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from hypothesis import strategies as st
from torch import nn

from art_oat import OATClassifier, OperatingPoint
from art_oat.checks import as_array
from tests.properties import subjects
from tests.properties.entry import Entry, tried
from tests.properties.strategies import ANYTHING, FLAGS, Odd, Values, choices, counts, fixed, indices_of, inputs, labels
from tests.properties.test_model import DIAL, FARTHER, WIDTH, dial, dialed

CLASSIFIER = subjects.classifier()
MODEL = CLASSIFIER.model
OTHER = subjects.classifier()
NB, K = 3, subjects.NB_CLASSES
X = inputs(subjects.SHAPE, sizes=[NB])
Y = labels(NB, K)
PREDICTED = inputs(subjects.SHAPE, sizes=[0, 1, 3, 5], takes_nan=True)
BATCH_SIZE = counts(1, 4)

several = st.lists(st.integers(0, 64).map(lambda n: n / 64), min_size=NB, max_size=NB)
LAMS = Values(
    FARTHER.right
    | several
    | several.map(np.array)
    | several.map(torch.tensor)
    | several.map(lambda it: np.float32(it)),  # noqa: PLW0108
    FARTHER.wrong.filter(lambda it: np.ndim(it) == 0 if not isinstance(it, set | dict | Odd | type) else True)
    | st.sampled_from(
        ([0.1, 0.2], [[0.1] * NB], np.full(NB, np.nan), [2.0] * NB, ["0.1"] * NB, np.zeros(0), [True] * NB)
    ),
    st.sampled_from(([0, 1, 0], (0.5, 0.25, 1.0), np.ma.masked_array([0.5] * NB, mask=False))),
)


def predicted(found, given):
    """Each row is what the plain network answers; the dtype is that of ART."""
    lam = given.get("lam")
    lam = dial(lam) if np.ndim(lam) == 0 else np.asarray(as_array(lam), dtype=np.float64)
    expected = subjects.scores(given["x"], lam, dialed(given.get("width")))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def is_of_three(given):
    """One lam per sample goes with so many samples only."""
    lam, x = given.get("lam"), given["x"]
    return ("lam",) if np.ndim(lam) == 1 and len(x) != NB else ()


def as_plain(answer, method, given, **more):
    """What ART's own classifier of the folded network answers."""
    plain = subjects.plain_classifier(0.0, 1.0)
    x = subjects.as_tensor(given["x"]).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = getattr(plain, method)(x, **more)
    answer = answer.detach().numpy() if isinstance(answer, torch.Tensor) else answer
    np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-5)


def one_hot(y):
    return np.eye(K, dtype=np.float32)[indices_of(y, K)]


def seen_at(view, given):
    lam, width = dial(given.get("lam")), dialed(given.get("width"))
    x = np.full((2, *subjects.SHAPE), 0.25, dtype=np.float32)
    assert tuple(view.point) == pytest.approx((lam, width))
    np.testing.assert_allclose(view.predict(x), subjects.scores(x, lam, width), rtol=1e-4, atol=1e-5)


START = copy.deepcopy(MODEL.state_dict())


def restored():
    """Everything is what it was before the training."""
    MODEL.load_state_dict(START)
    for parameter in MODEL.parameters():
        parameter.grad = None
    CLASSIFIER.optimizer.state.clear()
    MODEL.default_point = OperatingPoint(0.0, 1.0)
    MODEL.is_lam_named = False
    MODEL.eval()


def fit(**given):
    with torch.random.fork_rng(devices=[]):
        numpy_before = np.random.get_state()  # noqa: NPY002 - ART shuffles by NumPy's
        try:
            CLASSIFIER.fit(**given)
        finally:
            np.random.set_state(numpy_before)  # noqa: NPY002


def fitted(_, given):
    """One batch an epoch: the steps are those of plain torch on the default point."""
    twin = subjects.classifier()
    x, y = subjects.as_tensor(given["x"]), given["y"]
    table = np.asarray(as_array(y))
    is_soft = table.dtype.kind == "f" and table.ndim == 2 and table.shape[1] == K and not np.isin(table, (0, 1)).all()
    target = torch.from_numpy(table).float() if is_soft else torch.from_numpy(indices_of(y, K))
    twin.model.train()
    for _ in range(int(given["nb_epochs"])):
        twin.optimizer.zero_grad()
        nn.functional.cross_entropy(twin.model(x), target).backward()
        twin.optimizer.step()
    for name, expected in twin.model.state_dict().items():
        torch.testing.assert_close(MODEL.state_dict()[name], expected, rtol=1e-3, atol=1e-5, msg=name)
    assert not MODEL.training


def set_params(**given):
    CLASSIFIER.set_params(**given)
    return CLASSIFIER.get_params()


def params_are_set(found, given):
    if "lam" in given:
        assert found["lam"] == pytest.approx(dial(given["lam"]))
    if "width" in given:
        assert found["width"] == dialed(given["width"])


def make(**given):
    model = given.pop("model", MODEL)
    optimizer = given.pop("optimizer", None)
    return OATClassifier(model, given.pop("loss", nn.CrossEntropyLoss()), optimizer=optimizer, **given)


def made(classifier, given):
    x = np.full((2, *subjects.SHAPE), 0.25, dtype=np.float32)
    np.testing.assert_allclose(classifier.predict(x), subjects.scores(x), rtol=1e-4, atol=1e-5)


NUMBER = DIAL.without(None)
DIALS = {
    "lam": Values(FARTHER.right.filter(lambda it: it is not None), FARTHER.wrong),
    "width": Values(WIDTH.right.filter(lambda it: it is not None), WIDTH.wrong),
}
TAKEN = {
    "model": fixed(MODEL, wrong=st.sampled_from((None, "model", Odd(), subjects.plain(), nn.Linear, 1))),
    "input_shape": Values(
        st.sampled_from(((1, 4, 4), [1, 4, 4], (1, 5, 6), torch.Size((1, 4, 4)))),
        st.sampled_from(
            (None, 4, "144", (), (3, 4, 4), (4, 4), (1, 0, 4), (1, -4, 4), (1, 4.5, 4), ("1", 4, 4), Odd(), {}, [[1]])
        ),
    ),
    "nb_classes": Values(
        st.sampled_from((3, np.int64(3))),
        st.sampled_from((None, 2, 4, 0, -3, 3.5, "3", True, 10**400, float("nan"), Odd(), [3])),
        st.sampled_from((3.0, np.array(3))),
    ),
    "loss": Values(
        st.sampled_from((nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1))),
        st.sampled_from((None, "ce", nn.CrossEntropyLoss, 1.0, Odd())),
    ),
    "optimizer": Values(
        st.sampled_from((None, CLASSIFIER.optimizer)),
        st.sampled_from(("sgd", torch.optim.SGD, 0.1, Odd(), OTHER.optimizer)),
    ),
    "clip_values": Values(
        st.sampled_from(
            (None, (0, 1), (0.0, 1.0), [0, 1], (np.float32(0), 1), (np.zeros(1), np.ones(1)), np.array([0, 1]))
        ),
        st.sampled_from(
            ((1, 0), (0,), (0, 1, 2), 1, "01", (0, "1"), (float("nan"), 1), (0, float("inf")), (0, 0), (None, 1), Odd())
        ),
    ),
    "device_type": choices("cpu", "auto").called("device", "device_type"),
    "channels_first": FLAGS,
}

ENTRIES = [
    Entry(
        "predict(x, lam, width)",
        CLASSIFIER.predict,
        {"x": PREDICTED, "batch_size": BATCH_SIZE, "lam": LAMS, "width": WIDTH},
        ("x",),
        predicted,
        lambda: [CLASSIFIER],
        is_of_three,
        nb_cases=160,
    ),
    Entry(
        "at(lam).predict(x)",
        CLASSIFIER.at(0.0).predict,
        {"x": PREDICTED, "batch_size": BATCH_SIZE},
        ("x",),
        predicted,
        lambda: [CLASSIFIER],
        nb_cases=80,
    ),
    Entry("at", CLASSIFIER.at, {"lam": FARTHER, "width": WIDTH}, check=seen_at, watched=lambda: [CLASSIFIER]),
    Entry(
        "loss_gradient",
        CLASSIFIER.loss_gradient,
        {"x": X, "y": Y},
        ("x", "y"),
        lambda found, given: as_plain(found, "loss_gradient", given, y=one_hot(given["y"])),
        lambda: [CLASSIFIER],
        nb_cases=80,
    ),
    Entry(
        "at(lam).loss_gradient",
        CLASSIFIER.at(0.0).loss_gradient,
        {"x": X, "y": Y},
        ("x", "y"),
        lambda found, given: as_plain(found, "loss_gradient", given, y=one_hot(given["y"])),
        lambda: [CLASSIFIER],
    ),
    Entry(
        "class_gradient",
        CLASSIFIER.class_gradient,
        {
            "x": X,
            "label": Values(
                st.sampled_from((None, 0, 2, np.int64(1), np.array([0, 1, 2]), [2, 2, 0])),
                ANYTHING.filter(lambda it: it is not None and not (isinstance(it, int | np.integer) and 0 <= it < 3)),
            ),
        },
        ("x",),
        lambda found, given: as_plain(found, "class_gradient", given, label=given.get("label")),
        lambda: [CLASSIFIER],
    ),
    Entry(
        "compute_loss",
        CLASSIFIER.compute_loss,
        {"x": X, "y": Y, "reduction": choices("none", "mean", "sum")},
        ("x", "y"),
        lambda found, given: as_plain(
            found, "compute_loss", given, y=one_hot(given["y"]), reduction=given.get("reduction", "none")
        ),
        lambda: [CLASSIFIER],
    ),
    Entry(
        "get_activations",
        CLASSIFIER.get_activations,
        {
            "x": X,
            "layer": Values(
                st.sampled_from(("stem", "norm", "head", 0, 1)),
                st.sampled_from(("no", "", None, 7, -9, 1.5, True, Odd(), [0])),
            ),
            "batch_size": BATCH_SIZE,
        },
        ("x", "layer"),
        lambda found, given: as_plain(found, "get_activations", given, layer=given["layer"], batch_size=8),
        lambda: [CLASSIFIER],
    ),
    Entry(
        "fit",
        fit,
        {"x": X, "y": labels(NB, K, takes_soft=True), "batch_size": counts(NB, 9), "nb_epochs": counts(1, 2)},
        ("x", "y", "batch_size", "nb_epochs"),
        fitted,
        lambda: [CLASSIFIER],
        changes_nothing=False,
        restore=restored,
        nb_cases=80,
    ),
    Entry(
        "set_params",
        set_params,
        DIALS
        | {
            "model": fixed(MODEL, wrong=st.sampled_from((None, OTHER.model, "model"))),
            "nb_classes": TAKEN["nb_classes"],
            "clip_values": TAKEN["clip_values"],
        },
        (),
        params_are_set,
        lambda: [CLASSIFIER],
        changes_nothing=False,
        restore=restored,
    ),
    Entry("OATClassifier", make, TAKEN, ("input_shape", "nb_classes"), made, lambda: [MODEL], nb_cases=100),
]


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("entry", tried(ENTRIES), ids=lambda entry: entry.name)
def test_a_classifier_answers_as_plain_ones_do_or_refuses_by_name(entry):
    entry.try_many()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spoils_the_scores_of_its_own_sample_alone(value):
    x = np.full((3, *subjects.SHAPE), 0.5, dtype=np.float32)
    x[1, 0, 0, 0] = value
    with pytest.warns(UserWarning, match="1"):
        scores = CLASSIFIER.predict(x)
    assert np.isnan(scores[1]).all()
    np.testing.assert_allclose(scores[[0, 2]], subjects.scores(x[[0, 2]]), rtol=1e-4, atol=1e-5)


def test_an_attack_of_art_finds_on_a_view_what_it_finds_on_the_plain_network():
    x = np.full((2, *subjects.SHAPE), 0.5, dtype=np.float32)
    found, expected = (
        FastGradientMethod(it, eps=0.1).generate(x, np.eye(K)[:2])
        for it in (CLASSIFIER.at(0.0), subjects.plain_classifier(0.0, 1.0))
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
