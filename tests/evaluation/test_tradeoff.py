import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch

from art_oat import PGD, OATClassifier, TradeoffCurve
from art_oat.evaluation import tradeoff
from art_oat.frontier import MeasuredPoint
from tests.conftest import make_classifier
from tests.evaluation.subjects import X as IMAGES
from tests.evaluation.subjects import answers, grouped, index_of, varied_classifier
from tests.networks import LAMBDAS, Residual, images, shaken

X = images(40, torch.float32).numpy()


@pytest.fixture
def y(classifier) -> np.ndarray:
    """Labels that the network gets right at lam 0.3, but for every fifth."""
    predicted = classifier.predict(X, lam=0.3).argmax(axis=1)
    predicted[::5] = (predicted[::5] + 1) % 5
    return predicted


def measure(classifier, y, x=X, **options) -> TradeoffCurve:
    return TradeoffCurve.measure(classifier, x, y, **grouped(**{"attack": "pgd-5", **options}))


def untimed(curve: TradeoffCurve) -> list[MeasuredPoint]:
    """Points without the one figure that differs from measurement to measurement."""
    return [replace(point, latency=None) for point in curve.points]


@pytest.fixture
def slim_classifier() -> OATClassifier:
    return make_classifier(widths=(0.3, 0.5, 1.0))


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(
    ("options", "points"),
    [
        ({}, [(lam, width) for lam in LAMBDAS for width in (0.3, 0.5, 1.0)]),
        ({"lambdas": (0.3, 0.1, 0.3), "widths": [1.0, 1], "shard_size": 7}, [(0.3, 1.0), (0.1, 1.0)]),
    ],
)
def test_every_point_that_is_trained_or_named_is_measured_once(slim_classifier, y, options, points):
    curve = measure(slim_classifier, y, **{"attack": "pgd-1", **options})
    assert [tuple(point.operating_point) for point in curve.points] == points
    predicted = [slim_classifier.predict(X, lam=lam, width=width).argmax(axis=1) for lam, width in points]
    assert [point.clean for point in curve.points] == [np.mean(it == y) for it in predicted]


@pytest.mark.slow(seconds=1)
def test_the_cost_of_a_point_is_that_of_the_network_built_at_its_width(slim_classifier, y):
    points = measure(slim_classifier, y, lambdas=(0.0, 0.3)).points
    for point in points:
        inner, outer = math.ceil(6 * point.width), math.ceil(8 * point.width)
        weights = {"first": inner * 9, "second": outer * inner * 9, "shortcut": outer, "head": outer * 5}
        outputs = {"first": 6 * 6, "second": 3 * 3, "shortcut": 3 * 3, "head": 1}  # each reads every weight
        assert point.macs == sum(weights[name] * outputs[name] for name in weights)
        norms = 2 * (inner + 3 * outer)
        assert point.parameters == sum(weights.values()) + norms + 5  # and the biases of the head
        assert point.latency > 0
    assert len({(point.width, point.latency) for point in points}) == 3  # one for all lams of a width


def test_costs_are_measured_before_the_first_attack_in_the_batch_asked_for(classifier, y, monkeypatch):
    order, measure_costs = [], tradeoff.measure_costs
    monkeypatch.setattr(
        tradeoff, "measure_costs", lambda *a, **k: (order.append(k["batch_size"]), measure_costs(*a, **k))[1]
    )

    def attack(network, x, y, *, clip_values=None, generator=None):
        order.append("attack")
        return x

    curve = measure(classifier, y, attack=attack, lambdas=(0.0, 0.3), latency_batch_size=7)
    assert order[0] == curve.latency_batch_size == 7
    assert set(order[1:]) == {"attack"}


class Crop(PreprocessorPyTorch):
    """Cuts a third of the rows and columns off."""

    apply_fit = apply_predict = True

    def forward(self, x, y=None):
        return x[..., :4, :4], y


def test_costs_are_those_of_the_inputs_that_the_network_sees(y):
    classifier = make_classifier(preprocessing_defences=Crop(device_type="cpu"))
    (point,) = measure(classifier, y, lambdas=[0.3]).points
    assert point.macs == 4 * 4 * 6 * 9 + 2 * 2 * (8 * 6 * 9 + 8) + 8 * 5


@pytest.mark.slow(seconds=1)
def test_measuring_leaves_the_model_as_it_was(slim_classifier, y):
    before = {name: tensor.clone() for name, tensor in slim_classifier.model.state_dict().items()}
    slim_classifier.model.train()
    measure(slim_classifier, y, lambdas=[0.3])
    assert slim_classifier.model.training
    assert all(torch.equal(before[name], it) for name, it in slim_classifier.model.state_dict().items())


@pytest.mark.slow(seconds=1)
def test_what_no_other_point_beats_is_a_curve_of_its_own_with_its_own_reports(slim_classifier, y):
    curve = measure(slim_classifier, y, attack=["pgd-1", "pgd-2"])
    front = curve.pareto(costs=("macs",))
    assert {p.operating_point for p in front.points} == {report.point for report in front.reports}
    assert len(front.reports) == 2 * len(front.points) < len(curve.reports)
    assert (front.eps, front.latency_batch_size) == (curve.eps, curve.latency_batch_size)
    assert front.area() == curve.area()


def test_without_room_to_move_robust_accuracy_is_clean_accuracy(classifier, y):
    for point in measure(classifier, y, eps=1e-9).points:
        assert point.robust == point.clean


def swap(nth: int, seen=None):
    """An attack that replaces every sample of a multiple of ``nth`` by one of another class."""

    def attack(network, x, y, *, clip_values=None, generator=None):
        if seen is not None:
            seen.setdefault(network.network.point.lam, []).extend(index_of(x))
        x_adv, everything = x.clone(), torch.from_numpy(IMAGES)
        given = network(everything).argmax(dim=1)
        for place, (index, label) in enumerate(zip(index_of(x), y, strict=True)):
            if index % nth == 0:
                x_adv[place] = everything[given != label][0]
        return x_adv

    return attack


def test_the_robust_accuracy_is_the_worst_case_over_the_attacks_sample_by_sample():
    classifier, y, index = varied_classifier(), answers(), np.arange(len(IMAGES))
    clean = classifier.predict(IMAGES, lam=0.3).argmax(axis=1) == y
    attacks = {"second": swap(2), "third": swap(3)}
    curve = measure(classifier, y, IMAGES, eps=1.0, allow_large_eps=True, attack=attacks, lambdas=[0.3])
    (point,) = curve.points
    second, third = clean & (index % 2 != 0), clean & (index % 3 != 0)
    assert point.by_attack == {"second": second.mean(), "third": third.mean()}
    assert point.robust == (second & third).mean() < min(point.by_attack.values())
    assert [report.is_robust.tolist() for report in curve.reports] == [second.tolist(), third.tolist()]


@pytest.mark.slow(seconds=1)
def test_examples_are_tried_at_the_next_point_and_all_that_is_robust_was_attacked_there():
    classifier, seen = varied_classifier(), {}
    y = classifier.predict(IMAGES, lam=1.0).argmax(axis=1)
    options = {"eps": 1.0, "allow_large_eps": True, "shard_size": 7}
    curve = measure(classifier, y, IMAGES, attack={"attack": swap(2, seen)}, **options)
    for number, report in enumerate(reversed(curve.reports)):
        nb_attacked = int(report.is_clean.sum()) - report.nb_carried
        assert len(seen[report.point.lam]) == nb_attacked >= report.is_robust.sum()
        assert (report.nb_carried > 0) == (number > 0)
    alone = measure(classifier, y, IMAGES, attack={"attack": swap(2)}, carries_examples=False, **options)
    assert all(point.robust <= own.robust for point, own in zip(curve.points, alone.points, strict=True))
    assert not any(report.nb_carried for report in alone.reports)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"nb_robust": 5, "attack": ["pgd-2", "autoattack"], "lambdas": [0.3]}, {"nb_workers": 2}]
)
def test_the_same_seed_gives_the_same_figures_whatever_the_number_of_workers(classifier, y, options):
    alone = measure(classifier, y, **{**options, "nb_workers": 1})
    assert untimed(measure(classifier, y, **options)) == untimed(alone)


@pytest.mark.parametrize("size", [5, 17, 40])
def test_the_attacked_subset_has_the_shares_of_the_classes(size):
    y = np.repeat(np.arange(4), [16, 8, 8, 8])
    index = tradeoff.subset(y, size, seed=0)
    assert len(set(index.tolist())) == size
    for label, count in Counter(y[index].tolist()).items():
        assert abs(count - size * np.mean(y == label)) <= 1


@pytest.mark.slow
def test_a_float64_model_is_measured(y):
    classifier = OATClassifier(shaken(Residual()), torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))
    (point,) = measure(classifier, y, attack="autoattack", lambdas=[0.3], nb_robust=5, eps=0.02).points
    assert point.robust <= point.clean + 1 / 5


def test_csv_gives_back_the_curve(classifier, y, tmp_path):
    curve = measure(classifier, y, norm="L2", eps=1 / 3, latency_batch_size=3)
    curve.to_csv(tmp_path / "curve.csv")
    assert TradeoffCurve.from_csv(tmp_path / "curve.csv") == curve


def test_a_csv_from_before_costs_were_measured_is_read(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text(
        "eps,norm,lam,width,clean,robust,nb_clean,nb_robust,robust:pgd-5\n0.1,L2,0.3,1.0,0.9,0.5,40,20,0.5\n"
    )
    expected = TradeoffCurve((MeasuredPoint(0.3, 1.0, 0.9, 0.5, 40, 20, {"pgd-5": 0.5}),), 0.1, "L2")
    assert TradeoffCurve.from_csv(path) == expected


# -- What is refused. -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 8}, r"eps must be below 0.5 \(Linf\), half the range of x"),
        ({"attack": []}, "attack must name at least one"),
        ({"attack": [PGD(0.05), PGD(0.04)]}, "attacks must have different names"),
        ({"lambdas": []}, "lambdas must be several numbers, at least one"),
        ({"lambdas": 0.3, "widths": 1}, "lambdas must be several numbers.*widths must be several numbers"),
        ({"nb_robust": 41}, "nb_robust must be at most 40"),
        ({"nb_robust": 5.5}, "nb_robust must be a whole number"),
        ({"x": X * 255, "y": np.full(40, 9)}, "x must lie within clip_values.*y must hold class indices"),
        (
            {
                "nb_robust": 99,
                "nb_workers": 0,
                "eps": -1,
                "attack": ["a", "b"],
                "lambdas": [3, 0.3],
                "widths": [1, 0.5],
            },
            "nb_workers.*nb_robust.*lam must lie.*width must be.*eps must be a number above 0",
        ),
        (
            {"classifier": make_classifier(clip_values=None), "attack": ["pgd-1", "autoattack"]},
            "AutoAttack needs the classifier's clip_values",
        ),
    ],
)
def test_faulty_arguments_are_refused_all_at_once(classifier, y, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        measure(**{"classifier": classifier, "y": y, **options})


def test_a_view_has_no_curve_and_a_large_radius_is_taken_where_it_is_meant(classifier, y):
    with pytest.raises(TypeError, match="classifier must be an OATClassifier"):
        measure(classifier.at(0.3), y)
    assert measure(classifier, y, eps=8, allow_large_eps=True, attack="pgd-1", lambdas=[0.3]).eps == 8


# -- What is drawn and written. ---------------------------------------------------------------------------------------


def curve_of(*widths: float, **options: int) -> TradeoffCurve:
    """Costs fall with the square of the width, from 1.159 G MACs and 45 ms."""
    points = []
    for width in widths:
        costs = {"macs": round(1.159e9 * width**2), "parameters": round(33.4e6 * width**2), "latency": 0.045 * width**2}
        for lam in LAMBDAS:
            shares = 0.9 - 0.1 * lam, 0.1 + 0.8 * lam * width
            points.append(MeasuredPoint(lam, width, *shares, 450, 150, {"pgd-20": 0.8, "autoattack": 0.5}, **costs))
    return TradeoffCurve(tuple(points), 0.2, **options)


def without_costs(curve: TradeoffCurve) -> TradeoffCurve:
    unknown = dict.fromkeys(("macs", "parameters", "latency"))
    return replace(curve, points=tuple(replace(point, **unknown) for point in curve.points))


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_picture_names_what_it_shows_and_is_saved_whole(tmp_path, widths, ending):
    path = tmp_path / "new" / f"tradeoff.{ending}"
    figure = curve_of(*widths).plot(path)
    assert path.stat().st_size > 1000
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    assert "AutoAttack" in figure.get_suptitle()
    assert "150 images" in figure.get_suptitle()


def legend_of(figure) -> list[str]:
    (legend,) = figure.legends
    assert not any(axes.get_legend() for axes in figure.axes)
    return [text.get_text() for text in legend.get_texts()]


def test_the_picture_of_one_width_labels_lams_and_attacks_and_says_nothing_of_cost():
    figure = curve_of(1.0).plot()
    _, right = figure.axes
    assert [text.get_text() for text in right.texts].count("lam 0") == 1
    assert legend_of(figure) == ["clean", "robust: worst case of all attacks", "PGD-20 alone", "AutoAttack alone"]


@pytest.mark.slow(seconds=1)
def test_the_title_names_subject_attacks_radius_and_images():
    expected = "ResNet-20 on digits. PGD-20 and AutoAttack at eps 0.2 (Linf) on 150 images, clean on 450; bars:"
    assert curve_of(1.0).plot(subject="ResNet-20 on digits").get_suptitle().replace("\n", " ").startswith(expected)
    at_width = curve_of(0.5).plot(subject="ResNet-20").get_suptitle()
    assert at_width.startswith("ResNet-20 at width 0.5. ")
    assert "eps 8/255 (Linf)" in replace(curve_of(1.0), eps=8 / 255).plot().get_suptitle()


def test_each_width_has_panels_of_its_own_that_say_what_it_costs_with_the_others_in_gray_behind():
    figure = curve_of(0.5, 0.75, 1.0).plot()
    assert legend_of(figure) == ["clean", "robust: worst case of all attacks", "other widths"]
    dials, trades = figure.axes[:3], figure.axes[3:]
    costs = ["width 1\n1.16 G MACs, 45 ms", "width 0.75\n0.652 G MACs, 25.3 ms", "width 0.5\n0.29 G MACs, 11.2 ms"]
    assert [axes.get_title() for axes in dials] == costs
    robust = {width: [0.1 + 0.8 * lam * width for lam in LAMBDAS] for width in (1.0, 0.75, 0.5)}
    for width, dial, trade in zip(robust, dials, trades, strict=True):
        (drawn,) = [line for line in dial.get_lines() if line.get_marker() == "s"]
        (traded,) = [line for line in trade.get_lines() if line.get_marker() == "o"]
        assert list(drawn.get_ydata()) == list(traded.get_xdata()) == robust[width]
        assert list(traded.get_ydata()) == [0.9 - 0.1 * lam for lam in LAMBDAS]
        behind = [list(line.get_xdata()) for line in trade.get_lines() if line.get_color() == "0.75"]
        assert sorted(behind) == sorted(shares for other, shares in robust.items() if other != width)


@pytest.mark.slow(seconds=1)
def test_the_title_of_a_width_says_what_the_latency_is_that_of_and_leaves_out_what_is_not_known():
    curve = curve_of(0.5, 1.0, latency_batch_size=32)
    assert curve.plot().axes[0].get_title() == "width 1\n1.16 G MACs, 45 ms for 32 images"
    assert [axes.get_title() for axes in without_costs(curve).plot().axes[:2]] == ["width 1", "width 0.5"]


@pytest.mark.parametrize("low", [0.75, 0.775, 0.9])
def test_percentages_on_the_axes_are_those_of_their_ticks(low):
    points = tuple(MeasuredPoint(lam, 1.0, low + 0.1 * (1 - lam), 0.4 * lam, 9999, 9999) for lam in LAMBDAS)
    figure = TradeoffCurve(points, 0.2).plot()
    figure.draw_without_rendering()
    for axis in (figure.axes[1].xaxis, figure.axes[1].yaxis):
        for place, text in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True):
            assert float(text.get_text().replace("\N{MINUS SIGN}", "-").rstrip("%")) == pytest.approx(100 * place)


def test_labels_of_points_that_coincide_are_merged():
    points = tuple(MeasuredPoint(lam, 1.0, 0.9, 0.5, 450, 150, {"pgd-20": 0.5}) for lam in LAMBDAS)
    figure = TradeoffCurve(points, 0.2).plot()
    assert [text.get_text() for text in figure.axes[1].texts] == ["lam 0, 0.1, 0.2, 0.3, 0.4, 1"]
    assert legend_of(figure) == ["clean", "robust: PGD-20"]


def test_the_table_holds_every_figure_with_its_error():
    text = curve_of(1.0).table().splitlines()
    assert len(text) == 2 + len(LAMBDAS)
    assert "clean (450)" in text[0]
    assert "AutoAttack (150)" in text[0]
    assert text[2].split() == ["0", "1", "90.0", "+-", "1.4", "80.0", "50.0", "10.0", "+-", "2.4"]


def test_the_table_says_what_widths_cost_unless_that_is_not_known_or_the_same_in_every_row():
    header, _, *rows = curve_of(0.5, 1.0, latency_batch_size=32).table().splitlines()
    assert header.endswith("MACs  parameters  latency (batch 32)")
    costs = [re.split(r"\s{2,}", row)[-3:] for row in rows]
    assert costs == [["0.29 G", "8.35 M", "11.2 ms"]] * len(LAMBDAS) + [["1.16 G", "33.4 M", "45 ms"]] * len(LAMBDAS)
    assert "MACs" not in without_costs(curve_of(0.5, 1.0)).table()
    assert curve_of(1.0).table() == without_costs(curve_of(1.0)).table()
