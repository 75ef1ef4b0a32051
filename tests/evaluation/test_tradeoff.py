import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch

from art_oat import PGD, OATClassifier, TradeoffCurve, to_conditional
from art_oat.evaluation import tradeoff
from art_oat.frontier import MeasuredPoint
from tests.conftest import make_classifier
from tests.evaluation.subjects import grouped
from tests.networks import LAMBDAS, Residual, images, shaken

X = images(40, torch.float32).numpy()


@pytest.fixture
def y(classifier) -> np.ndarray:
    """Labels that the network gets right at lam 0.3, but for every fifth."""
    predicted = classifier.predict(X, lam=0.3).argmax(axis=1)
    predicted[::5] = (predicted[::5] + 1) % 5
    return predicted


def measure(classifier, y, **options) -> TradeoffCurve:
    return TradeoffCurve.measure(classifier, X, y, **grouped(**{"attack": "pgd-5", **options}))


def untimed(curve: TradeoffCurve) -> list[MeasuredPoint]:
    """Points without the one figure that differs from measurement to measurement."""
    return [replace(point, latency=None) for point in curve.points]


@pytest.fixture
def slim_classifier() -> OATClassifier:
    model = shaken(Residual(), torch.float32, widths=(0.3, 0.5, 1.0))
    return OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))


def test_every_trained_point_is_measured(classifier, y):
    curve = measure(classifier, y)
    assert [(point.lam, point.width) for point in curve.points] == [(lam, 1.0) for lam in LAMBDAS]
    assert [point.clean for point in curve.points] == [
        np.mean(classifier.predict(X, lam=lam).argmax(axis=1) == y) for lam in LAMBDAS
    ]


def test_a_point_named_twice_is_measured_once(classifier, y):
    curve = measure(classifier, y, lambdas=(0.3, 0.1, 0.3), widths=[1.0, 1])
    assert [(point.lam, point.width) for point in curve.points] == [(0.3, 1.0), (0.1, 1.0)]


def test_every_lam_is_measured_at_every_width(slim_classifier, y):
    curve = measure(slim_classifier, y, lambdas=(0.0, 0.3))
    assert [(point.lam, point.width) for point in curve.points] == [
        (lam, width) for lam in (0.0, 0.3) for width in (0.3, 0.5, 1.0)
    ]
    assert [point.clean for point in curve.points] == [
        np.mean(slim_classifier.predict(X, lam=point.lam, width=point.width).argmax(axis=1) == y)
        for point in curve.points
    ]


def test_the_cost_of_a_point_is_that_of_the_network_built_at_its_width(slim_classifier, y):
    for point in measure(slim_classifier, y, lambdas=(0.0, 0.3)).points:
        inner, outer = math.ceil(6 * point.width), math.ceil(8 * point.width)
        weights = {"first": inner * 9, "second": outer * inner * 9, "shortcut": outer, "head": outer * 5}
        outputs = {"first": 6 * 6, "second": 3 * 3, "shortcut": 3 * 3, "head": 1}  # each reads every weight
        assert point.macs == sum(weights[name] * outputs[name] for name in weights)
        norms = 2 * (inner + 3 * outer)
        assert point.parameters == sum(weights.values()) + norms + 5  # and the biases of the head


def test_a_latency_holds_for_all_lams_of_a_width(slim_classifier, y):
    points = measure(slim_classifier, y, lambdas=(0.0, 0.3)).points
    assert len({(point.width, point.latency) for point in points}) == 3
    assert all(point.latency > 0 for point in points)


def test_costs_are_measured_before_the_first_attack_in_the_batch_asked_for(classifier, y, monkeypatch):
    order = []
    measure_costs = tradeoff.measure_costs
    monkeypatch.setattr(
        tradeoff, "measure_costs", lambda *a, **k: (order.append(k["batch_size"]), measure_costs(*a, **k))[1]
    )

    def attack(network, x, y, *, clip_values=None, generator=None):
        order.append("attack")
        return x

    curve = measure(classifier, y, attack=attack, lambdas=(0.0, 0.3), latency_batch_size=7)
    assert order[0] == 7
    assert set(order[1:]) == {"attack"}
    assert curve.latency_batch_size == 7


class Crop(PreprocessorPyTorch):
    """Cuts a third of the rows and columns off."""

    apply_fit = apply_predict = True

    def forward(self, x, y=None):
        return x[..., :4, :4], y


def test_costs_are_those_of_the_inputs_that_the_network_sees(y):
    classifier = make_classifier(preprocessing_defences=Crop(device_type="cpu"))
    (point,) = measure(classifier, y, lambdas=[0.3]).points
    assert point.macs == 4 * 4 * 6 * 9 + 2 * 2 * (8 * 6 * 9 + 8) + 8 * 5


def test_measuring_leaves_the_model_as_it_was(slim_classifier, y):
    before = {name: tensor.clone() for name, tensor in slim_classifier.model.state_dict().items()}
    slim_classifier.model.train()
    measure(slim_classifier, y, lambdas=[0.3])
    assert slim_classifier.model.training
    assert all(torch.equal(before[name], it) for name, it in slim_classifier.model.state_dict().items())


def test_without_room_to_move_robust_accuracy_is_clean_accuracy(classifier, y):
    for point in measure(classifier, y, eps=1e-9).points:
        assert point.robust == point.clean


@pytest.fixture
def varied() -> OATClassifier:
    """Has several answers at every lam."""
    torch.manual_seed(0)
    model = to_conditional(Residual(), LAMBDAS)
    model.network.norm.film.output.weight.data.normal_(0, 0.01)
    classifier = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))
    model.network.head.bias.data -= classifier.at(0.3).as_module()(torch.from_numpy(X)).mean(dim=0)
    assert all(len(set(classifier.predict(X, lam=lam).argmax(axis=1))) > 1 for lam in LAMBDAS)
    return classifier


def swap(nth: int):
    """An attack that replaces every sample of a multiple of ``nth`` by one of another class."""

    def attack(network, x, y, *, clip_values=None, generator=None):
        x_adv, everything = x.clone(), torch.from_numpy(X)
        answers = network(everything).argmax(dim=1)
        for place, (image, label) in enumerate(zip(x, y, strict=True)):
            index = int((everything == image).flatten(1).all(dim=1).nonzero()[0])
            if index % nth == 0:
                x_adv[place] = everything[answers != label][0]
        return x_adv

    return attack


def test_the_robust_accuracy_is_the_worst_case_over_the_attacks_sample_by_sample(varied):
    index, classifier = np.arange(40), varied
    y = np.where(index % 5, classifier.predict(X, lam=0.3).argmax(axis=1), 0)
    clean = classifier.predict(X, lam=0.3).argmax(axis=1) == y
    attacks = {"second": swap(2), "third": swap(3)}
    curve = measure(classifier, y, eps=1.0, allow_large_eps=True, attack=attacks, lambdas=[0.3])
    (point,) = curve.points
    second, third = clean & (index % 2 != 0), clean & (index % 3 != 0)
    assert point.by_attack == {"second": second.mean(), "third": third.mean()}
    assert point.robust == (second & third).mean() < min(point.by_attack.values())
    assert [report.is_robust.tolist() for report in curve.reports] == [second.tolist(), third.tolist()]


def test_examples_are_tried_at_the_next_point_and_all_that_stands_was_attacked_there(varied):
    classifier, y = varied, varied.predict(X, lam=1.0).argmax(axis=1)
    seen: dict[float, list[int]] = {}

    def attack(network, x, y, *, clip_values=None, generator=None):
        seen.setdefault(network.network.point.lam, []).extend(len(x) * [1])
        return swap(2)(network, x, y)

    curve = measure(classifier, y, eps=1.0, allow_large_eps=True, attack={"attack": attack}, shard_size=7)
    for before, report in zip((None, *curve.reports[::-1]), curve.reports[::-1], strict=False):
        nb_attacked = int(report.is_clean.sum()) - report.nb_carried
        assert len(seen[report.point.lam]) == nb_attacked >= report.is_robust.sum()
        assert (report.nb_carried > 0) == (before is not None)
    alone = measure(classifier, y, eps=1.0, allow_large_eps=True, attack={"attack": attack}, carries_examples=False)
    assert all(point.robust <= own.robust for point, own in zip(curve.points, alone.points, strict=True))
    assert not any(report.nb_carried for report in alone.reports)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures(classifier, y):
    first, second = (measure(classifier, y, nb_robust=5, attack=["pgd-2", "autoattack"], lambdas=[0.3]) for _ in "12")
    assert untimed(first) == untimed(second)


@pytest.mark.parametrize("size", [5, 17, 40])
def test_the_attacked_subset_has_the_shares_of_the_classes(size):
    y = np.repeat(np.arange(4), [16, 8, 8, 8])
    index = tradeoff.subset(y, size, seed=0)
    assert len(set(index.tolist())) == size
    for label, count in Counter(y[index].tolist()).items():
        assert abs(count - size * np.mean(y == label)) <= 1


@pytest.mark.slow
def test_workers_give_the_same_figures(classifier, y):
    assert untimed(measure(classifier, y, nb_workers=2)) == untimed(measure(classifier, y))


def test_batches_do_not_change_the_clean_accuracy(classifier, y):
    first, second = (measure(classifier, y, shard_size=size) for size in (7, 40))
    assert [point.clean for point in first.points] == [point.clean for point in second.points]


def test_csv_gives_back_the_curve(classifier, y, tmp_path):
    curve = measure(classifier, y, norm="L2", eps=1 / 3, latency_batch_size=3)
    curve.to_csv(tmp_path / "curve.csv")
    assert TradeoffCurve.from_csv(tmp_path / "curve.csv") == curve


def test_a_csv_from_before_costs_were_measured_is_read(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text(
        "eps,norm,lam,width,clean,robust,nb_clean,nb_robust,robust:pgd-5\n0.1,L2,0.3,1.0,0.9,0.5,40,20,0.5\n"
    )
    assert TradeoffCurve.from_csv(path) == TradeoffCurve(
        (MeasuredPoint(0.3, 1.0, 0.9, 0.5, 40, 20, {"pgd-5": 0.5}),), 0.1, "L2"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "eps must be a number above 0"),
        ({"norm": "L0"}, "norm must be"),
        ({"attack": "fgsm"}, "attack must be"),
        ({"attack": []}, "attack must name at least one"),
        ({"lambdas": [3]}, "lam must lie in"),
        ({"widths": [0.5]}, "width must be one of"),
        ({"nb_robust": 41}, "nb_robust must be at most 40"),
        ({"nb_robust": 5.5}, "nb_robust must be a whole number"),
        ({"shard_size": 0}, "shard_size must be"),
        ({"seed": -1}, "seed must be"),
        ({"nb_workers": 0}, "nb_workers must be"),
        ({"latency_batch_size": 0}, "latency_batch_size must be"),
        ({"lambdas": []}, "must each hold at least one number"),
        ({"lambdas": 0.3}, "must each be several numbers"),
        ({"eps": "8/255"}, "eps must be a number"),
        ({"attack": [PGD(0.05), PGD(0.04)]}, "attacks must have different names"),
    ],
)
def test_faulty_options_are_refused(classifier, y, options, message):
    with pytest.raises(ValueError, match=message):
        measure(classifier, y, **options)


def test_every_fault_is_named_at_once(classifier, y):
    with pytest.raises(ValueError, match=r"nb_robust.*lam must lie.*width must be.*eps"):
        measure(classifier, y, nb_robust=99, eps=-1, attack=["foo", "pgd-0"], lambdas=[3, 0.3], widths=[1, 0.5])


def test_what_autoattack_cannot_judge_is_refused_before_any_attack_runs(y):
    with pytest.raises(ValueError, match="AutoAttack needs the classifier's clip_values"):
        measure(make_classifier(clip_values=None), y, attack=["pgd-1", "autoattack"])


@pytest.mark.slow
def test_a_float64_model_is_measured(y):
    model = shaken(Residual())
    classifier = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))
    (point,) = measure(classifier, y, attack="autoattack", lambdas=[0.3], nb_robust=5, eps=0.02).points
    assert point.robust <= point.clean + 1 / 5


def test_every_fault_of_the_data_is_named(classifier):
    with pytest.raises(ValueError, match=r"x must lie within clip_values.*y must hold class indices"):
        TradeoffCurve.measure(classifier, X * 255, np.full(40, 9), eps=0.1)
    with pytest.raises(ValueError, match="x must hold at least one sample"):
        TradeoffCurve.measure(classifier, X[:0], np.zeros(0), eps=0.1)
    with pytest.raises(TypeError, match="classifier must be an OATClassifier"):
        TradeoffCurve.measure(classifier.at(0.3), X, np.zeros(40), eps=0.1)


def curve_of(*widths: float, **options: int) -> TradeoffCurve:
    """Costs fall with the square of the width, from 1.159 G MACs and 45 ms."""
    points = [
        MeasuredPoint(
            lam,
            width,
            0.9 - 0.1 * lam,
            0.1 + 0.8 * lam * width,
            450,
            150,
            {"pgd-20": 0.8, "autoattack": 0.5},
            macs=round(1.159e9 * width**2),
            parameters=round(33.4e6 * width**2),
            latency=0.045 * width**2,
        )
        for width in widths
        for lam in LAMBDAS
    ]
    return TradeoffCurve(tuple(points), 0.2, **options)


def without_costs(curve: TradeoffCurve) -> TradeoffCurve:
    return replace(
        curve, points=tuple(replace(point, macs=None, parameters=None, latency=None) for point in curve.points)
    )


@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_names_what_it_shows_and_is_saved_whole(tmp_path, widths, ending):
    path = tmp_path / "new" / f"tradeoff.{ending}"
    figure = curve_of(*widths).plot(path)
    assert path.stat().st_size > 1000
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    assert "AutoAttack" in figure.get_suptitle()
    assert "150 images" in figure.get_suptitle()


def test_the_picture_of_one_width_labels_lams_and_attacks_and_says_nothing_of_cost():
    figure = curve_of(1.0).plot()
    left, right = figure.axes
    assert [text.get_text() for text in right.texts].count("lam 0") == 1
    assert len(left.get_legend().get_texts()) == 4
    assert figure.legends == []


def legend_of(figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_the_picture_has_a_curve_per_width_in_the_color_that_the_legend_gives_its_cost_with():
    figure = curve_of(0.5, 0.75, 1.0).plot()
    expected = {"width 1: 1.16 G MACs, 45 ms", "width 0.75: 0.652 G MACs, 25.3 ms", "width 0.5: 0.29 G MACs, 11.2 ms"}
    assert set(legend_of(figure)) == expected
    (legend,) = figure.legends
    colors = {line.get_label().split(":")[0]: line.get_color() for line in legend.get_lines()}
    assert len(set(colors.values())) == 3
    left, right = figure.axes
    for width in (0.5, 0.75, 1.0):
        color = colors[f"width {width:g}"]
        robust = [0.1 + 0.8 * lam * width for lam in LAMBDAS]
        drawn = [list(line.get_ydata()) for line in left.get_lines() if line.get_color() == color]
        assert sorted(drawn) == sorted([robust, [0.9 - 0.1 * lam for lam in LAMBDAS]])
        assert robust in [list(line.get_xdata()) for line in right.get_lines() if line.get_color() == color]


def test_in_a_picture_of_several_widths_every_point_holds_its_lam():
    _, right = curve_of(0.5, 1.0).plot().axes
    expected = {(0.1 + 0.8 * lam * width, 0.9 - 0.1 * lam): lam for lam in LAMBDAS for width in (0.5, 1.0)}
    assert {text.xy: float(text.get_text()) for text in right.texts} == expected


def test_the_legend_of_widths_says_what_the_latency_is_that_of_and_leaves_out_what_is_not_known():
    curve = curve_of(0.5, 1.0, latency_batch_size=32)
    assert legend_of(curve.plot())[0] == "width 1: 1.16 G MACs, 45 ms for 32 images"
    assert legend_of(without_costs(curve).plot()) == ["width 1", "width 0.5"]


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
    left, right = TradeoffCurve(points, 0.2).plot().axes
    assert [text.get_text() for text in right.texts] == ["lam 0, 0.1, 0.2, 0.3, 0.4, 1"]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["clean", "robust: PGD-20"]


def test_the_table_holds_every_figure_with_its_error():
    text = curve_of(1.0).table().splitlines()
    assert len(text) == 2 + len(LAMBDAS)
    assert "clean (450)" in text[0]
    assert "AutoAttack (150)" in text[0]
    assert text[2].split() == ["0", "1", "90.0", "+-", "1.4", "80.0", "50.0", "10.0", "+-", "2.4"]


def test_the_table_of_several_widths_says_what_each_costs():
    header, _, *rows = curve_of(0.5, 1.0, latency_batch_size=32).table().splitlines()
    assert header.endswith("MACs  parameters  latency (batch 32)")
    costs = [re.split(r"\s{2,}", row)[-3:] for row in rows]
    assert costs == [["0.29 G", "8.35 M", "11.2 ms"]] * len(LAMBDAS) + [["1.16 G", "33.4 M", "45 ms"]] * len(LAMBDAS)


def test_the_table_leaves_out_costs_that_are_not_known_or_the_same_in_every_row():
    assert "MACs" not in without_costs(curve_of(0.5, 1.0)).table()
    assert curve_of(1.0).table() == without_costs(curve_of(1.0)).table()


def test_a_radius_in_another_unit_is_refused_unless_it_is_meant(classifier, y):
    with pytest.raises(ValueError, match=r"eps must be below 0.5 \(Linf\), half the range of x"):
        measure(classifier, y, eps=8)
    assert measure(classifier, y, eps=8, allow_large_eps=True, attack="pgd-1", lambdas=[0.3]).eps == 8
