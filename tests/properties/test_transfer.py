"""Transfer: compared with the features of the plain network, and with scikit-learn."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn

from art_oat import OATModel
from art_oat.transfer import LinearProbe, adapt, find_head, freeze_below, replace_head, unfreeze
from tests.properties import subjects
from tests.properties.entry import Entry, tried
from tests.properties.strategies import SEEDS, Odd, Values, choices, counts, fixed, indices_of, inputs, labels
from tests.properties.test_model import FARTHER, SHAPES, WIDTH, dial, dialed

PLAIN, MODEL = subjects.plain(), subjects.model()
X = torch.rand(6, *subjects.SHAPE, generator=torch.Generator().manual_seed(4))
NO_NETWORKS = st.sampled_from(
    (None, "x", Odd(), nn.Linear, subjects.classifier(), MODEL.pinned(0.0), nn.ReLU(), nn.DataParallel(PLAIN), {})
)
NETWORK = fixed(PLAIN, MODEL, wrong=NO_NETWORKS)
HEAD = fixed(None, "head", wrong=st.sampled_from(("", "hed", "stem.head", "norm", "stem", 1, [], Odd(), b"head", True)))
CLASSES = counts(2, 6)


def features(network, x=X):
    """What reaches the head."""
    with torch.no_grad():
        return torch.relu(network.norm(network.stem(x))).mean(dim=(2, 3))


def other_head(network, given):
    """Only the head is another: all other tensors are the same, to the bit."""
    old = given["network"].state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, old[name]) or "head" in name, name
    answer = network.eval()(X, 0.25, 1.0) if isinstance(network, OATModel) else network.eval()(X)
    assert answer.shape == (len(X), int(given["nb_classes"]))


def adapted(network, given):
    """At a point, the features are those of the network folded there."""
    has_point = given.get("lam") is not None or given.get("width") is not None
    is_fixed = given.get("protocol") == "fixed-feature"
    trainable = {name for name, it in network.named_parameters() if it.requires_grad}
    assert ({name for name in trainable if "head" not in name} == set()) == is_fixed
    if has_point:
        expected = features(subjects.folded(dial(given.get("lam")), dialed(given.get("width"))))
        torch.testing.assert_close(features(network.eval()), expected)


def has_no_dials(given):
    if given["source"] is MODEL:
        return ()
    return tuple(name for name in ("lam", "width") if given.get(name) is not None)


FRESH = copy.deepcopy(PLAIN)


def frozen(**given):
    return freeze_below(**given)


def is_frozen(found, given):
    """Everything before the part, nothing else; and it thaws again."""
    network, path = given["network"], given["path"]
    before = {"norm": {"stem"}, "head": {"stem", "norm"}, "stem": set()}[path]
    assert set(found) == before
    assert {name.split(".")[0] for name, it in network.named_parameters() if not it.requires_grad} == before


def thawed():
    unfreeze(FRESH)
    FRESH.eval()


def probe(**given):
    network = given.pop("network", None) or copy.deepcopy(PLAIN)
    fit = {name: given.pop(name) for name in ("x", "y", "batch_size", "validation_data") if name in given}
    return LinearProbe(network, **given).fit(**fit)


def solved(probe, given):
    """The objective is what scikit-learn reaches, from features of the plain network."""
    x, y = features(PLAIN, subjects.as_tensor(given["x"])).double().numpy(), indices_of(given["y"], subjects.NB_CLASSES)
    decay = float(np.atleast_1d(given.get("weight_decay", 1e-3))[0])
    if len(set(y.tolist())) < subjects.NB_CLASSES:
        return
    strength = decay * float(x.var(axis=0).mean())
    found = LogisticRegression(C=1 / (strength * len(x)), tol=1e-9, max_iter=5000).fit(x, y)
    table = found.decision_function(x)
    nll = np.logaddexp.reduce(table, axis=1) - table[np.arange(len(y)), y]
    assert probe.objective == pytest.approx(nll.mean() + strength / 2 * (found.coef_**2).sum(), rel=1e-3)


NB = 6
PROBE = {
    "weight_decay": Values(
        st.sampled_from((1e-2, np.float64(0.1), 1, [0.5])),
        st.sampled_from((None, 0, -1, "0.1", True, [], [0.1, 0], float("nan"), 10**400, Odd(), 1j, [[0.1]], {})),
    ),
    "head": HEAD,
    "input_shape": SHAPES,
    "x": inputs(subjects.SHAPE, sizes=[NB]),
    "y": labels(NB, subjects.NB_CLASSES),
    "batch_size": counts(1, 7),
}

ENTRIES = [
    Entry(
        "replace_head",
        replace_head,
        {"network": NETWORK, "nb_classes": CLASSES, "head": HEAD, "input_shape": SHAPES, "seed": SEEDS},
        ("network", "nb_classes", "input_shape"),
        other_head,
        lambda: [PLAIN, MODEL],
        nb_cases=80,
    ),
    Entry(
        "adapt",
        adapt,
        {
            "source": fixed(PLAIN, MODEL, wrong=NO_NETWORKS).called("network"),
            "nb_classes": CLASSES,
            "protocol": choices("fixed-feature", "full-network"),
            "lam": FARTHER,
            "width": WIDTH,
            "head": HEAD,
            "input_shape": SHAPES,
            "seed": SEEDS,
        },
        ("source", "nb_classes", "input_shape"),
        adapted,
        lambda: [PLAIN, MODEL],
        has_no_dials,
        nb_cases=80,
    ),
    Entry(
        "find_head",
        find_head,
        {"network": NETWORK, "input_shape": SHAPES},
        ("network", "input_shape"),
        lambda found, given: _is_head(found),
        lambda: [PLAIN, MODEL],
    ),
    Entry(
        "freeze_below",
        frozen,
        {
            "network": fixed(FRESH, wrong=NO_NETWORKS),
            "path": fixed("stem", "norm", "head", wrong=st.sampled_from(("", "hed", None, 1, [], Odd(), "norm.x"))),
            "input_shape": SHAPES,
        },
        ("network", "path", "input_shape"),
        is_frozen,
        lambda: [FRESH],
        changes_nothing=False,
        restore=thawed,
    ),
    Entry(
        "unfreeze",
        unfreeze,
        {"network": fixed(FRESH, MODEL, wrong=st.sampled_from((None, "x", Odd(), 1, nn.Linear)))},
        ("network",),
        watched=lambda: [FRESH, MODEL],
    ),
    Entry("LinearProbe", probe, PROBE, ("x", "y", "input_shape"), solved, lambda: [PLAIN], nb_cases=80),
]


def _is_head(found):
    assert found == "head"


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("entry", tried(ENTRIES), ids=lambda entry: entry.name)
def test_what_is_transferred_keeps_its_features_or_is_refused_by_name(entry):
    entry.try_many()
