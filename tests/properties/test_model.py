"""The conditional network, and how it is made: compared with the plain network, and with the folded ones."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from art_oat import OATModel, OperatingPoint, fold, to_conditional
from tests.properties import subjects
from tests.properties.entry import Entry, tried
from tests.properties.strategies import LAMBDAS as LAMS
from tests.properties.strategies import NO_NUMBERS, SEEDS, Odd, Values, choices, counts, fixed, inputs, numbers

MODEL = subjects.model()
X = torch.rand(3, *subjects.SHAPE, generator=torch.Generator().manual_seed(1))

DIAL = numbers(0, 1).or_none()
FARTHER = Values(DIAL.right | st.floats(1, 1.75), DIAL.wrong.filter(lambda it: not _is_farther(it)) | st.just(1.7501))
WIDTH = Values(
    st.sampled_from((0.5, 1.0, 1, np.float32(0.5), np.float64(1), None)),
    NO_NUMBERS.filter(lambda it: it is not None) | st.sampled_from((0.75, 0, -1, 1.5, 0.50001, 10**400)),
)


def _is_farther(value):
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and 1 < value <= 1.75


def dial(lam):
    return 0.0 if lam is None else float(lam)


def dialed(width):
    return 1.0 if width is None else float(width)


def lams_of(nb_samples: int) -> Values:
    """One lam per sample."""
    several = st.lists(st.integers(0, 64).map(lambda n: n / 64), min_size=nb_samples, max_size=nb_samples)
    tensors = several.map(torch.tensor) | several.map(lambda lams: torch.tensor(lams, dtype=torch.float64))
    wrong = [torch.zeros(nb_samples + 1), torch.zeros(nb_samples, 1), torch.full((nb_samples,), torch.nan)]
    wrong += [torch.full((nb_samples,), 2.0), torch.full((nb_samples,), -0.1), torch.zeros(0)]
    wrong += [torch.zeros(nb_samples, dtype=torch.complex64), torch.ones(nb_samples, dtype=torch.bool)]
    halves = several.map(lambda lams: torch.tensor(lams).bfloat16()).filter(lambda it: bool((it <= 1).all()))
    return Values(tensors, st.sampled_from(wrong), halves)


LAM = Values(FARTHER.right | lams_of(3).right, FARTHER.wrong | lams_of(3).wrong, lams_of(3).either)
TENSORS = inputs(subjects.SHAPE, sizes=[3])
X3 = Values(
    st.sampled_from((X, X.double(), X.flip(3), X.to(memory_format=torch.channels_last), X.round().long())),
    st.sampled_from((X.numpy(), X.tolist(), None, "x", 0.5, Odd(), {"x": X}, torch.tensor(0.5))),
    st.sampled_from((X.bfloat16(), X.half(), X.round().bool())),
)


def lams_per_sample(lam):
    return lam.double().numpy() if isinstance(lam, Tensor) and lam.dim() else dial(lam)


def answers(found, given):
    """Every row is what the plain network at its lam answers."""
    lam, width = lams_per_sample(given.get("lam")), dialed(given.get("width"))
    expected = subjects.scores(given["x"], lam, width)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def at_point(network, given):
    point = OperatingPoint(dial(given.get("lam")), dialed(given.get("width")))
    with torch.no_grad():
        np.testing.assert_allclose(network(X).numpy(), subjects.scores(X, *point), rtol=1e-4, atol=1e-5)


POINTS = Values(
    st.builds(OperatingPoint, st.floats(0, 1.75).filter(lambda lam: lam != 1.7501), st.sampled_from((0.5, 1.0)))
    | numbers(0, 1).right
    | st.none(),
    st.sampled_from((OperatingPoint(1.8), OperatingPoint(0.5, 0.75), "0.5", [0.5], (0.5, 1.0), 2, -0.5, Odd(), True)),
    names=("lam", "width"),
)


def pinned_at(network, given):
    point = given.get("point")
    point = point if isinstance(point, OperatingPoint) else OperatingPoint(dial(point))
    with torch.no_grad():
        np.testing.assert_allclose(network(X).numpy(), subjects.scores(X, *point), rtol=1e-4, atol=1e-5)


def set_default(point):
    MODEL.default_point = point
    return MODEL.default_point


def default_is(found, given):
    point = given["point"]
    expected = tuple(point) if isinstance(point, OperatingPoint) else (dial(point), 1.0)
    assert tuple(found) == pytest.approx(expected)


def default_is_reset():
    MODEL.default_point = OperatingPoint(0.0, 1.0)
    MODEL.is_lam_named = False


def live_at(network, given):
    network.set_lam(torch.tensor([0.0, 0.5, 1.0]))
    with torch.no_grad():
        expected = subjects.scores(X, [0.0, 0.5, 1.0], dialed(given.get("width")))
        np.testing.assert_allclose(network(X).numpy(), expected, rtol=1e-4, atol=1e-5)


NETWORK = subjects.plain()
NETWORKS = fixed(
    NETWORK,
    wrong=st.sampled_from(
        (None, "resnet18", Odd(), nn.Linear, nn.Linear(2, 2), MODEL, nn.DataParallel(NETWORK), {}, 1.0)
    ),
)
PATHS = ((), ["norm"], ("norm",), lambda path, norm: False, lambda path, norm: True)
NO_PATHS = st.sampled_from((None, "norm", 1.5, True, Odd(), ["nrm"], [1], ["stem.norm"], [None], [["norm"]], {0.5}))
SHAPES = Values(
    st.sampled_from((None, (1, 4, 4), [1, 4, 4], (1, 5, 6), (np.int64(1), 4, 4), torch.Size((1, 4, 4)))),
    st.sampled_from(
        ((), (0, 4, 4), (1, -4, 4), (1.0, 4, 4), "144", 16, True, (True, 4, 4), ("1", 4, 4), Odd(), [[1]], b"ab")
    ),
    st.sampled_from((np.array([1, 4, 4]),)),
)
WIDTHS = Values(
    st.sampled_from(((1.0,), [1], (0.5, 1.0), (1, 0.5, 0.75), np.array([0.5, 1.0]), {1.0})),
    st.sampled_from(
        (
            None,
            1.0,
            "1",
            b"\1",
            (),
            [0.5],
            (0.5, 0.5, 1),
            (0, 1),
            (-0.5, 1),
            (1, 1.5),
            (float("nan"), 1),
            ("1",),
            (True,),
            Odd(),
        )
    ),
)
CONVERSION = {
    "network": NETWORKS.called("holds no norm"),
    "lambdas": LAMS,
    "widths": WIDTHS,
    "heads": choices("shared", "per-width"),
    "full_width": Values(
        st.sampled_from(((), ["stem"], lambda path, layer: False)), NO_PATHS.filter(lambda it: it != ["norm"])
    ),
    "input_shape": SHAPES,
    "seed": SEEDS,
    "encoding": choices("one-hot", "scalar", "dct", "random-orthogonal"),
    "code_dim": counts(5, 9).or_none(),
    "film": choices("linear", "two-layer"),
    "film_on": Values(st.sampled_from((None, *PATHS[1:])), NO_PATHS.filter(lambda it: it is not None)),
    "statistics": choices("dual", "shared", "single"),
    "keep": Values(st.sampled_from(((), [], lambda path, norm: False)), NO_PATHS),
}


def starts_alike(model, given):
    """Untrained, it answers at every lam as the network does."""
    assert isinstance(model, OATModel)
    lams = sorted(float(lam) for lam in given.get("lambdas", (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)))
    assert model.lambdas == pytest.approx(tuple(lams))
    assert model.widths == tuple(sorted(float(width) for width in given.get("widths", (1.0,))))
    with torch.no_grad():
        for lam in (lams[0], (lams[0] + lams[-1]) / 2, lams[-1]):
            torch.testing.assert_close(model.eval()(X, lam, 1.0), NETWORK(X), rtol=1e-4, atol=1e-5)


def convert(**given):
    return to_conditional(**given)


def conversion_conflicts(given):
    nb_lams = len(tuple(given.get("lambdas", range(6))))
    dim = given.get("code_dim")
    is_short = dim is not None and given.get("encoding", "one-hot") != "scalar" and int(dim) < nb_lams
    return ("code_dim",) if is_short else ()


ENTRIES = [
    Entry(
        "model(x, lam, width)",
        MODEL,
        {"x": X3, "lam": LAM, "width": WIDTH},
        ("x",),
        answers,
        lambda: [MODEL],
        nb_cases=120,
    ),
    Entry(
        "model.pinned(point(lam, width))",
        lambda **it: MODEL.pinned(MODEL.point(**it)),
        {"lam": FARTHER, "width": WIDTH},
        check=at_point,
        watched=lambda: [MODEL],
        nb_cases=60,
    ),
    Entry("model.pinned(point)", MODEL.pinned, {"point": POINTS}, check=pinned_at, watched=lambda: [MODEL]),
    Entry("fold", lambda **it: fold(MODEL, **it), {"point": POINTS}, check=pinned_at, watched=lambda: [MODEL]),
    Entry(
        "model.default_point",
        set_default,
        {"point": POINTS},
        ("point",),
        default_is,
        lambda: [MODEL],
        changes_nothing=False,
        restore=default_is_reset,
    ),
    Entry("model.live_network", MODEL.live_network, {"width": WIDTH}, check=live_at, watched=lambda: [MODEL]),
    Entry(
        "to_conditional",
        convert,
        CONVERSION,
        ("network", "input_shape"),
        starts_alike,
        lambda: [NETWORK],
        conversion_conflicts,
        nb_cases=120,
    ),
]


@pytest.mark.parametrize("entry", tried(ENTRIES), ids=lambda entry: entry.name)
def test_a_network_answers_as_plain_ones_do_or_refuses_by_name(entry):
    entry.try_many()


def test_a_copy_of_the_model_follows_what_is_written_to_it_after_a_refresh():
    model = copy.deepcopy(MODEL)
    pinned = model.pinned(0.25)
    model.network.head.bias.data += 1
    model.refresh()
    torch.testing.assert_close(pinned(X), fold(model, 0.25)(X))
