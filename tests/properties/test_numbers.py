"""What holds numbers: attacks, losses, schedules, points. Each is compared with its formula, in plain Python or NumPy."""  # noqa: E501

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from art_oat import (
    NFGSM,
    PGD,
    ALPLoss,
    MARTLoss,
    OneCycle,
    OperatingPoint,
    RandomCropFlip,
    SlowStart,
    StratifiedSampling,
    TRADESLoss,
    WeightPerturbation,
)
from art_oat.attacks import parse_eps
from art_oat.layers import Encoding
from art_oat.training import EarlyStopping, Piecewise, WarmUp, WarmupCosine, schedule_by_name
from art_oat.training.schedule import SCHEDULES
from tests.properties.entry import Entry, tried
from tests.properties.strategies import (
    FLAGS,
    LAMBDAS,
    POSITIVE,
    SEEDS,
    Values,
    choices,
    counts,
    fixed,
    numbers,
)

SHARE = numbers(0, 1)
INNER = numbers(0, 1, is_low_in=False, is_high_in=False)
PROGRESS = np.linspace(0, 1, 9)


def agrees(formula):
    """A schedule says at every progress what its formula says."""

    def check(schedule, given):
        for progress in PROGRESS:
            numbers_ = {name: float(value) for name, value in given.items()}
            assert schedule(progress) == pytest.approx(formula(progress, **numbers_), rel=1e-9, abs=1e-12)

    return check


def eased(t):
    return (1 - math.cos(math.pi * t)) / 2


def one_cycle(p, peak_at=0.3, start=1 / 25, end=1 / 25e4):
    return (
        start + (1 - start) * eased(p / peak_at)
        if p < peak_at
        else 1 + (end - 1) * eased((p - peak_at) / (1 - peak_at))
    )


def cosine(p, warmup=0.05, start=0.01, end=0.0):
    if p < warmup:
        return start + (1 - start) * p / warmup
    return end + (1 - end) * (1 + math.cos(math.pi * (p - warmup) / (1 - warmup))) / 2


def slow_start(p, peak_at=0.5, start=0.01, end=1 / 32):
    return start + (1 - start) * p / peak_at if p < peak_at else end ** ((p - peak_at) / (1 - peak_at))


def warm_up(schedule, given):
    share, start = float(given["share"]), float(given.get("start", 0.01))
    for p in PROGRESS:
        before = (start + (1 - start) * p / share) * given["then"](0.0)
        after = given["then"](max(0.0, (p - share) / (1 - share)))
        assert schedule(p) == pytest.approx(before if p < share else after, rel=1e-9)


def piecewise(schedule, given):
    factors = sorted(
        (float(point), float(factor)) for point, factor in given.get("factors", {0.5: 0.1, 0.75: 0.01}).items()
    )
    for p in PROGRESS:
        reached = [1.0] + [factor for point, factor in factors if point <= p]
        assert schedule(p) == pytest.approx(reached[-1])


def is_hashable(value):
    try:
        return not isinstance(value, torch.Tensor) and hash(value) is not None
    except TypeError:
        return False


def mapping(keys: Values, values: Values) -> Values:
    hashable = keys.right.filter(is_hashable)
    wrong = st.one_of(
        st.builds(lambda key, value: {key: value}, keys.wrong.filter(is_hashable), values.right),
        st.builds(lambda key, value: {key: value}, hashable, values.wrong),
        st.sampled_from((None, 1, True, "ab", [(0.5, 1.0)], {0.5}, np.array([0.5]))),
    )
    return Values(st.dictionaries(hashable, values.right, max_size=3), wrong)


def stratified(sampling, given):
    """Of 24 samples, lam 0 has a third, and the others their share of the rest, rounded."""
    lambdas = (0.0, 0.25, 1.0)
    weights = {0.25: 1.0, 1.0: 1.0} | {float(lam): float(it) for lam, it in given.get("weights", {}).items()}
    if not weights.keys() <= {0.25, 1.0}:
        return
    drawn = sampling.draw(lambdas, 24, torch.Generator().manual_seed(0))
    for lam in (0.25, 1.0):
        exact = 16 * weights[lam] / (weights[0.25] + weights[1.0])
        assert abs(int((drawn == lam).sum()) - exact) <= 1
    assert int((drawn == 0).sum()) == 8


WEIGHT, TARGET = torch.tensor([[2.0, -1.0], [0.5, 1.0], [-1.0, 0.25]]), torch.tensor([0, 1, 2, 0])


def points() -> torch.Tensor:
    return torch.rand(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def linear(x):
    return x.flatten(1) @ WEIGHT.to(x).T


def gradient(x):
    """Of the cross-entropy of the linear network, in closed form."""
    return (linear(x).softmax(dim=1) - torch.nn.functional.one_hot(TARGET, 3)) @ WEIGHT.to(x)


def attacked(attack):
    return attack(linear, points(), TARGET, clip_values=(0, 1), generator=torch.Generator().manual_seed(9))


def pgd(attack, given):
    """The steps of the formula, sample by sample, from the start that PGD draws."""
    eps = float(given.get("eps", 8 / 255))
    nb_steps, norm = int(given.get("nb_steps", 7)), given.get("norm", "Linf")
    step = min(1.25 * eps, eps + 4 / 255) / nb_steps if given.get("eps_step") is None else float(given["eps_step"])
    x = points()
    x_adv = attacked(attack)
    distance = (x_adv - x).abs().amax(dim=1) if norm == "Linf" else (x_adv - x).norm(dim=1)
    rounding = 8 * torch.finfo(torch.float64).eps  # of x up to 1, which a tiny eps is added to
    assert bool((distance <= eps * (1 + 1e-9) + rounding).all())
    assert bool(((x_adv >= 0) & (x_adv <= 1)).all())
    if given.get("has_random_start", True):
        return
    expected = x
    for _ in range(nb_steps):
        g = gradient(expected)
        moved = expected + step * (g.sign() if norm == "Linf" else g / g.norm(dim=1, keepdim=True)) - x
        if norm == "Linf":
            moved = moved.clamp(-eps, eps)
        else:
            moved = moved * (eps / moved.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
        expected = (x + moved).clamp(0, 1)
    torch.testing.assert_close(x_adv, expected)


def pgd_conflicts(given):
    is_stuck = given.get("objective") == "kl" and not given.get("has_random_start", True)
    return ("has_random_start", "objective") if is_stuck else ()


def n_fgsm(attack, given):
    eps = float(given.get("eps", 8 / 255))
    step = eps if given.get("eps_step") is None else float(given["eps_step"])
    uniform = torch.rand(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    noisy = (points() + float(given.get("noise", 2.0)) * eps * (2 * uniform - 1)).clamp(0, 1)
    torch.testing.assert_close(attacked(attack), (noisy + step * gradient(noisy).sign()).clamp(0, 1))


def perturbed(perturbation, given):
    """A weight ``w`` goes to ``w + gamma ||w|| v / ||v||``, and back."""
    layer = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
    with perturbation(layer, lambda: layer.weight[0, 0]):
        moved = layer.weight.detach().clone()
    torch.testing.assert_close(moved, torch.tensor([[3.0 + 5.0 * float(given.get("gamma", 0.01)), 4.0]]))
    assert layer.weight.tolist() == [[3.0, 4.0]]
    assert not perturbation.is_due(int(given.get("warmup_epochs", 0)))
    assert perturbation.is_due(int(given.get("warmup_epochs", 0)) + 1)


LOGITS = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)


def log_softmax(z):
    z = np.asarray(z)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def trades_and_mart(kind):
    def check(loss, given):
        beta, y, rows = float(given.get("beta", kind().beta)), np.array([0, 2]), np.arange(2)
        p, q = log_softmax(LOGITS), log_softmax(2 * LOGITS.flip(1))
        clean, divergence = -p[rows, y], (np.exp(p) * (p - q)).sum(axis=1)
        wrong = np.exp(q)
        wrong[rows, y] = 0
        boosted = -q[rows, y] - np.log(1 - wrong.max(axis=1)) + beta * divergence * (1 - np.exp(p[rows, y]))
        expected = (clean + beta * divergence).mean() if kind is TRADESLoss else boosted.mean()
        found = loss(LOGITS, 2 * LOGITS.flip(1), torch.tensor(y), torch.ones(2, dtype=torch.float64))
        assert float(found) == pytest.approx(float(expected), rel=1e-9)

    return check


def paired(loss, given):
    y, moved = torch.tensor([0, 2]), 2 * LOGITS.flip(1)
    squares = float(given.get("beta", 1)) * ((moved - LOGITS) ** 2).mean()
    expected = torch.nn.functional.cross_entropy(moved, y) + squares
    found = loss(LOGITS, moved, y, torch.ones(2, dtype=torch.float64))
    assert float(found) == pytest.approx(float(expected), rel=1e-9)


def point(answer, given):
    assert tuple(answer) == (float(given["lam"]), float(given.get("width", 1.0)))


def cropped(augmentation, given):
    """Every image is a window of itself with a black frame, mirrored or not."""
    padding = int(given.get("padding", 4))
    x = torch.arange(1.0, 25).view(2, 1, 3, 4)
    out = augmentation(x, torch.Generator().manual_seed(1))
    for image, changed in zip(x, out, strict=True):
        framed = torch.nn.functional.pad(image, (padding,) * 4)
        windows = [framed[:, i : i + 3, j : j + 4] for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
        forms = [*windows, *(it.flip(2) for it in windows if given.get("has_flip", True))]
        assert any(torch.equal(changed, window) for window in forms)


def lambdas_of(given):
    return sorted(float(lam) for lam in given.get("lambdas", (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)))


def encoded(encoding, given):
    """Rows are orthonormal, or lam itself; between lams lies the straight line between their rows."""
    lams, kind = lambdas_of(given), given.get("kind", "one-hot")
    table = encoding(torch.tensor(lams, dtype=torch.float64)).double()
    if kind == "scalar":
        np.testing.assert_allclose(table.numpy()[:, 0], lams, atol=1e-6)
    else:
        np.testing.assert_allclose(table @ table.T, np.eye(len(lams)), atol=1e-5)
        assert table.shape[1] == (given.get("dim") or (len(lams) if kind == "one-hot" else 128))
    if len(lams) > 1:
        middle = torch.tensor([(lams[0] + lams[1]) / 2])
        np.testing.assert_allclose(encoding(middle)[0], (table[0] + table[1]) / 2, atol=1e-5)


ENCODINGS = ("scalar", "one-hot", "dct", "random-orthogonal")


def dim_conflicts(given):
    kind, dim, nb_lams = given.get("kind", "one-hot"), given.get("dim"), len(lambdas_of(given))
    return ("dim",) if dim is not None and kind != "scalar" and dim < nb_lams else ()


def eval_fraction(value, text):
    above, _, below = text.partition("/")
    assert value == float(above) / float(below or 1)


TEXTS = Values(
    st.tuples(st.integers(0, 99), st.integers(1, 255)).map("{0[0]}/{0[1]}".format) | st.floats(0, 9).map(str),
    st.sampled_from(("", "/", "1/0", "a", "8/255/2", "1 2", "0x1", "8//255", "nan/x", "\n", "1,5", "é")),
)


SCHEDULE_NAMES = choices(*SCHEDULES)
FACTOR = numbers(0, math.inf)

ENTRIES = [
    Entry("OneCycle", OneCycle, {"peak_at": INNER, "start": SHARE, "end": SHARE}, check=agrees(one_cycle)),
    Entry(
        "WarmupCosine",
        WarmupCosine,
        {"warmup": numbers(0, 1, is_high_in=False), "start": SHARE, "end": SHARE},
        check=agrees(cosine),
    ),
    Entry(
        "SlowStart",
        SlowStart,
        {"peak_at": INNER, "start": SHARE, "end": numbers(0, 1, is_low_in=False)},
        check=agrees(slow_start),
    ),
    Entry("Piecewise", Piecewise, {"factors": mapping(SHARE, FACTOR)}, check=piecewise),
    Entry(
        "WarmUp",
        WarmUp,
        {
            "share": INNER,
            "then": fixed(OneCycle(), Piecewise(), lambda p: 1 - p / 2, wrong=st.sampled_from((None, 1, "x", [], {}))),
            "start": SHARE,
        },
        needed=("share", "then"),
        check=warm_up,
    ),
    Entry(
        "schedule_by_name",
        schedule_by_name,
        {"name": SCHEDULE_NAMES.called("schedule"), "lr_warmup": INNER.or_none()},
        needed=("name",),
        check=lambda schedule, given: [schedule(float(p)) for p in PROGRESS],
    ),
    Entry(
        "StratifiedSampling",
        StratifiedSampling,
        {"weights": mapping(numbers(0, 1, is_low_in=False), POSITIVE)},
        check=stratified,
    ),
    Entry("TRADESLoss", TRADESLoss, {"beta": POSITIVE}, check=trades_and_mart(TRADESLoss)),
    Entry("MARTLoss", MARTLoss, {"beta": POSITIVE}, check=trades_and_mart(MARTLoss)),
    Entry("ALPLoss", ALPLoss, {"beta": POSITIVE}, check=paired),
    Entry("EarlyStopping", EarlyStopping, {"patience": counts()}, needed=("patience",)),
    Entry("WeightPerturbation", WeightPerturbation, {"gamma": POSITIVE, "warmup_epochs": counts(0)}, check=perturbed),
    Entry(
        "PGD",
        PGD,
        {
            "eps": POSITIVE,
            "eps_step": POSITIVE.or_none(),
            "nb_steps": counts(),
            "norm": choices("Linf", "L2"),
            "has_random_start": FLAGS,
            "objective": choices("cross-entropy", "kl"),
        },
        check=pgd,
        conflicts=pgd_conflicts,
        nb_cases=100,
    ),
    Entry("NFGSM", NFGSM, {"eps": POSITIVE, "eps_step": POSITIVE.or_none(), "noise": POSITIVE}, check=n_fgsm),
    Entry(
        "OperatingPoint",
        OperatingPoint,
        {"lam": numbers(0, 2, is_high_in=False), "width": numbers(0, 1, is_low_in=False)},
        needed=("lam",),
        check=point,
    ),
    Entry("RandomCropFlip", RandomCropFlip, {"padding": counts(0, 3), "has_flip": FLAGS}, check=cropped),
    Entry(
        "Encoding",
        Encoding,
        {
            "lambdas": LAMBDAS,
            "kind": choices(*ENCODINGS).called("encoding"),
            "dim": counts(5, 9).or_none().called("code_dim"),
            "seed": SEEDS,
        },
        check=encoded,
        nb_cases=60,
    ),
    Entry(
        "parse_eps",
        parse_eps,
        {"text": TEXTS.called("eps")},
        needed=("text",),
        check=lambda value, given: eval_fraction(value, given["text"]),
    ),
]


@pytest.mark.parametrize("entry", tried(ENTRIES), ids=lambda entry: entry.name)
def test_numbers_are_computed_with_as_the_formula_says_or_refused_by_name(entry):
    entry.try_many()
