"""Frontiers: compared with sums over a grid, and with a search through all points; and their files, whatever is in them."""  # noqa: E501

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from art_oat import AdaptivePolicy, Frontier, OperatingPoint, TradeoffCurve, TransferMatrix
from art_oat.frontier import MeasuredPoint
from tests.properties.entry import Entry, tried
from tests.properties.strategies import Odd, Values, counts, fixed, numbers

SHARES = st.integers(0, 8).map(lambda n: n / 8)


def measured(lam, clean, robust, macs, width):
    return MeasuredPoint(lam / 16, width, clean, robust, 10, 10, macs=macs, parameters=10 - macs, latency=macs / 1e3)


POINTS = st.lists(
    st.builds(measured, st.integers(0, 16), SHARES, SHARES, st.integers(1, 9), st.sampled_from((0.5, 1.0))),
    min_size=1,
    max_size=6,
)
FRONTIER = Values(POINTS.map(tuple).map(Frontier))


def area(found, given):
    """By sums over the cells between all coordinates."""
    points = given["self"].points
    corner = given.get("reference", (0.0, 0.0))
    across = sorted({corner[0], *(p.clean for p in points if p.clean > corner[0])})
    up = sorted({corner[1], *(p.robust for p in points if p.robust > corner[1])})
    total = 0.0
    for left, right in zip(across, across[1:], strict=False):  # noqa: RUF007
        for low, high in zip(up, up[1:], strict=False):  # noqa: RUF007
            if any(p.clean >= right and p.robust >= high for p in points):
                total += (right - left) * (high - low)
    assert found == pytest.approx(total, abs=1e-12)


def meets(point, given):
    floors = {"min_robust": point.robust, "min_clean": point.clean}
    costs = {"max_macs": point.macs, "max_parameters": point.parameters, "max_latency_ms": point.latency_ms}
    return all(float(given.get(name, 0)) <= share for name, share in floors.items()) and all(
        given.get(name) is None or cost <= float(given[name]) for name, cost in costs.items()
    )


def cannot_be_met(given):
    return () if any(meets(point, given) for point in given["self"].points) else tuple(given)[1:] or ("self",)


def best(found, given):
    """Nothing that meets the bounds has a higher expected accuracy, then sum of both, nor a smaller width."""
    threat = float(given.get("threat", 0))

    def worth(p):
        return (1 - threat) * p.clean + threat * p.robust, p.clean + p.robust, -p.width

    fitting = [point for point in given["self"].points if meets(point, given)]
    chosen = max(map(worth, fitting))
    assert any(worth(p) == chosen and p.operating_point == found for p in fitting)


def beats(other, point, costs):
    """By the definition, one quantity after the other."""
    better = [other.clean - point.clean, other.robust - point.robust]
    better += [getattr(point, cost) - getattr(other, cost) for cost in costs]
    return min(better) >= 0 and max(better) > 0


def unbeaten(found, given):
    """Kept is what the definition keeps, in the order that is told; twice is once; and no area is lost."""
    points, costs = given["self"].points, given.get("costs")
    costs = ("macs", "parameters", "latency") if costs is None else costs
    kept = [p for p in points if not any(beats(other, p, costs) for other in points)]
    assert sorted(found.points, key=repr) == sorted(kept, key=repr)
    order = [(-p.clean, -p.robust, p.width, p.lam) for p in found.points]
    assert order == sorted(order)
    assert found.pareto(costs=costs) == found
    assert found.area() == given["self"].area()
    assert all(p in kept or any(beats(other, p, costs) for other in kept) for p in points)


def as_good_as_any(found, given):
    """No point that meets the floors and the time is right more often, where that share of samples is attacked."""
    policy, threat = given["self"], given.get("threat", 0)
    share = float(np.mean(np.asarray(threat, dtype=np.float64)))
    bounds = {"min_robust": policy.min_robust, "max_latency_ms": given.get("max_latency_ms")}
    fitting = [p for p in policy.curve.points if meets(p, bounds)]
    expected = {p: (1 - share) * p.clean + share * p.robust for p in fitting}
    taken = [it for p, it in expected.items() if p.operating_point == found]
    assert max(expected.values()) == pytest.approx(max(taken))


def no_point_is_fast_enough(given):
    policy = given["self"]
    bounds = {"min_robust": policy.min_robust, "max_latency_ms": given.get("max_latency_ms")}
    return () if any(meets(p, bounds) for p in policy.curve.points) else ("max_latency_ms", "min_robust")


LINES = (
    "lam,width,clean,robust,nb_clean,nb_robust,robust:pgd-20",
    "0.0,1.0,0.9,0.1,100,50,0.1",
    "1.0,1.0,0.7,0.5,100,50,0.5",
)
CELLS = ("", "x", "nan", "inf", "-1", "2", "1e400", "0.5.5", "\x00", "é", '"', "9" * 5000, "0x1", "1_0", "--", "None")


def spoiled(row: int, column: int, cell: str) -> bytes:
    cells = [line.split(",") for line in LINES]
    cells[row][column] = cell
    return "\n".join(",".join(line) for line in cells).encode()


TEXT = "\n".join(LINES).encode()
OTHER_FILES = (
    *(
        b"",
        b"\n",
        b"lam",
        LINES[0].encode(),
        b"\xff\xfe\x00",
        b"{}",
        TEXT[:-30] + b"\x00",
        TEXT + b"\n1,2",
        TEXT.replace(b",", b";"),
    ),
    *(
        "\n".join((LINES[0], *LINES[1:], LINES[1] + ",1,2,3")).encode(),
        TEXT.replace(b"clean", b"klean"),
        b"\xef\xbb\xbf",
    ),
)
_FINE = {spoiled(1, column, "2") for column in (4, 5)}  # counts
FILES = Values(
    st.sampled_from((TEXT, TEXT + b"\n", TEXT.replace(b"\n", b"\r\n"))),
    st.builds(spoiled, st.just(1), st.integers(0, 5), st.sampled_from(CELLS[:6] + CELLS[7:10])).filter(
        lambda it: it not in _FINE
    )
    | st.sampled_from(OTHER_FILES),
    st.builds(spoiled, st.integers(0, 2), st.integers(0, 6), st.sampled_from(CELLS)),
    names=("from.csv",),
)


def with_file(read):
    def call(**given):
        with _folder() as folder:
            path = folder / "from.csv"
            path.write_bytes(given["content"])
            return read(path)

    return call


def _folder():
    import contextlib
    import tempfile

    @contextlib.contextmanager
    def made():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    return made()


def as_read(found, given):
    assert {(point.clean, point.robust) for point in found.points} <= {(0.9, 0.1), (0.7, 0.5)} or given[
        "content"
    ] != TEXT
    assert all(0 <= point.clean <= 1 and 0 <= point.robust <= 1 for point in found.points)


def written_again(**given):
    frontier = given["self"]
    with _folder() as folder:
        frontier.to_csv(folder / "from.csv")
        return Frontier.from_csv(folder / "from.csv")


SHARE = numbers(0, 1)
COSTS = numbers(0, math.inf)
COST = fixed(
    None, 0, 5, np.int64(7), 2.5, wrong=st.sampled_from((-1, math.nan, math.inf, "5", True, 10**400, Odd(), 1j, [1]))
)


def as_measured(point, given):
    n = int(given["nb_clean"])
    p = float(given["clean"])
    assert point.clean_error == pytest.approx(math.sqrt(p * (1 - p) / n))
    assert point.operating_point == OperatingPoint(float(given["lam"]), float(given["width"]))


BITS = np.random.default_rng(0).random((4, 2, 5)) < 0.5


def shares(matrix, given):
    """The diagonal is the share of images that are right as they are and after the attack at their own lam."""
    right = np.asarray(given["right"])
    for k in range(2):
        assert matrix.robust[k, k] == pytest.approx((right[0, k] & right[k + 1, k]).mean())


ENTRIES = [
    Entry(
        "MeasuredPoint",
        MeasuredPoint,
        {
            "lam": numbers(0, 1),
            "width": numbers(0, 1, is_low_in=False),
            "clean": SHARE,
            "robust": SHARE,
            "nb_clean": counts(),
            "nb_robust": counts(),
            "macs": COST,
            "parameters": COST,
            "latency": Values(st.none() | numbers(0, 9, is_low_in=False).right, COST.wrong | st.just(0)),
        },
        ("lam", "width", "clean", "robust", "nb_clean", "nb_robust"),
        as_measured,
        nb_cases=100,
    ),
    Entry(
        "Frontier",
        Frontier,
        {
            "points": Values(
                POINTS | POINTS.map(tuple),
                st.sampled_from((None, (), [], 1, "p", [None], [0.5], [{}], Odd(), {"a": 1})),
            )
        },
        ("points",),
    ),
    Entry(
        "Frontier.area",
        Frontier.area,
        {
            "self": FRONTIER,
            "reference": Values(
                st.tuples(SHARES, SHARES),
                st.sampled_from(
                    (
                        None,
                        0.5,
                        (0.5,),
                        "01",
                        (0, None),
                        (0, "1"),
                        (math.nan, 0),
                        (0, 0, 0),
                        (0, math.inf),
                        Odd(),
                        (True, 0),
                    )
                ),
            ),
        },
        ("self",),
        area,
        nb_cases=100,
    ),
    Entry(
        "Frontier.select",
        Frontier.select,
        {
            "self": FRONTIER,
            "min_robust": SHARE,
            "min_clean": SHARE,
            "max_macs": numbers(0, math.inf, is_low_in=False).or_none(),
            "max_parameters": numbers(0, math.inf, is_low_in=False).or_none(),
            "max_latency_ms": numbers(0, math.inf, is_low_in=False).or_none(),
            "threat": SHARE,
        },
        ("self",),
        best,
        conflicts=cannot_be_met,
        nb_cases=150,
    ),
    Entry(
        "Frontier.pareto",
        Frontier.pareto,
        {
            "self": FRONTIER,
            "costs": Values(
                st.none() | st.sampled_from((("macs",), ["latency", "parameters"], (), {"latency": 1})),
                st.sampled_from(("macs", "clean", ("clean",), ("macs", 1), 1, Odd(), (Odd(),), (None,), "", 0.5)),
            ),
        },
        ("self",),
        unbeaten,
        nb_cases=100,
    ),
    Entry(
        "AdaptivePolicy.point",
        AdaptivePolicy.point,
        {
            "self": Values(
                POINTS.map(lambda it: AdaptivePolicy(Frontier(tuple(it)), min_robust=min(p.robust for p in it)))
            ),
            "threat": Values(
                SHARE.right
                | st.lists(st.sampled_from((True, False)), min_size=1, max_size=5)
                | st.lists(SHARES, min_size=1, max_size=5).map(np.array),
                SHARE.wrong.filter(lambda it: not isinstance(it, list))
                | st.sampled_from(([], [math.nan], [2.0], [-0.1, 0.5], [[0.5]], ["a"], np.zeros((2, 2)), [None])),
            ),
            "max_latency_ms": numbers(0, math.inf, is_low_in=False).or_none(),
        },
        ("self",),
        as_good_as_any,
        conflicts=no_point_is_fast_enough,
        nb_cases=100,
    ),
    Entry("Frontier.from_csv", with_file(Frontier.from_csv), {"content": FILES}, ("content",), as_read, nb_cases=150),
    *(
        Entry(
            f"{kind.__name__}.from_csv",
            with_file(kind.from_csv),
            {"content": Values(st.nothing(), FILES.wrong | FILES.right, names=FILES.names)},
            ("content",),
            kinds=("refused",),
        )
        for kind in (TradeoffCurve, TransferMatrix)
    ),
    Entry(
        "Frontier.to_csv",
        written_again,
        {"self": FRONTIER},
        ("self",),
        lambda found, given: _same(found, given["self"]),
        kinds=("right",),
    ),
    Entry(
        "TransferMatrix",
        TransferMatrix,
        {
            "lambdas": fixed(
                (0.0, 1.0),
                (0, 0.5),
                wrong=st.sampled_from((None, (), (0.0,), (0.0, 0.5, 1.0), 1, (0.0, "1"), (0.0, math.nan), Odd())),
            ),
            "right": fixed(
                BITS,
                ~BITS,
                wrong=st.sampled_from(
                    (None, BITS[:3], BITS[..., :0], BITS[0], 1, "x", [[1]], [[1], [1, 2]], BITS * 0.5, Odd())
                ),
            ),
            "eps": numbers(0, 9, is_low_in=False),
        },
        ("lambdas", "right", "eps"),
        shares,
    ),
]


def _same(found, expected):
    assert found.points == expected.points


@pytest.mark.parametrize("entry", tried(ENTRIES), ids=lambda entry: entry.name)
def test_a_frontier_says_what_a_slow_search_says_or_refuses_by_name(entry):
    entry.try_many()
