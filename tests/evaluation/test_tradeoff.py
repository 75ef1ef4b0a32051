from collections import Counter

import numpy as np
import pytest
import torch

from art_oat import PGD, MeasuredPoint, OATClassifier, TradeoffCurve
from art_oat.evaluation import tradeoff
from art_oat.evaluation.report import table
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, Residual, images, shaken

X = images(40, torch.float32).numpy()


@pytest.fixture
def y(classifier) -> np.ndarray:
    """Labels that the network gets right at lam 0.3, but for every fifth."""
    predicted = classifier.predict(X, lam=0.3).argmax(axis=1)
    predicted[::5] = (predicted[::5] + 1) % 5
    return predicted


def measure(classifier, y, **options) -> TradeoffCurve:
    return TradeoffCurve.measure(classifier, X, y, **{"eps": 0.05, "attack": "pgd-5", "verbose": False, **options})


def test_every_trained_point_is_measured(classifier, y):
    curve = measure(classifier, y)
    assert [(point.lam, point.width) for point in curve.points] == [(lam, 1.0) for lam in LAMBDAS]
    assert [point.clean for point in curve.points] == [
        np.mean(classifier.predict(X, lam=lam).argmax(axis=1) == y) for lam in LAMBDAS
    ]


def test_without_room_to_move_robust_accuracy_is_clean_accuracy(classifier, y):
    for point in measure(classifier, y, eps=1e-9).points:
        assert point.robust == point.clean


def test_the_robust_accuracy_is_the_worst_case_over_the_attacks_sample_by_sample(classifier, y, monkeypatch):
    index = torch.arange(40)
    clean = torch.from_numpy(classifier.predict(X, lam=0.3).argmax(axis=1) == y)
    even, third = clean & (index % 2 == 0), clean & (index % 3 == 0)
    masks = {"pgd-1": even, "pgd-2": third}
    monkeypatch.setattr(tradeoff, "withstand", lambda network, x, y, attack, **options: (clean, masks[attack]))
    monkeypatch.setattr(tradeoff, "within_ball", lambda attack, eps, norm: attack)
    monkeypatch.setattr(tradeoff, "attack_by_name", lambda name, eps, norm: name)
    (point,) = measure(classifier, y, attack=["pgd-1", "pgd-2"], lambdas=[0.3]).points
    assert point.by_attack == {"pgd-1": even.double().mean(), "pgd-2": third.double().mean()}
    assert point.robust == (even & third).double().mean() < min(point.by_attack.values())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures(classifier, y):
    first, second = (measure(classifier, y, nb_robust=5, attack=["pgd-2", "autoattack"], lambdas=[0.3]) for _ in "12")
    assert first == second


@pytest.mark.parametrize("size", [5, 17, 40])
def test_the_attacked_subset_has_the_shares_of_the_classes(size):
    y = np.repeat(np.arange(4), [16, 8, 8, 8])
    index = tradeoff._subset(y, size, seed=0)
    assert len(set(index.tolist())) == size
    for label, count in Counter(y[index].tolist()).items():
        assert abs(count - size * np.mean(y == label)) <= 1


@pytest.mark.slow
def test_workers_give_the_same_figures(classifier, y):
    assert measure(classifier, y, nb_workers=2) == measure(classifier, y)


def test_batches_do_not_change_the_clean_accuracy(classifier, y):
    first, second = (measure(classifier, y, batch_size=size) for size in (7, 40))
    assert [point.clean for point in first.points] == [point.clean for point in second.points]


def test_csv_gives_back_the_curve(classifier, y, tmp_path):
    curve = measure(classifier, y, norm="L2", eps=1 / 3)
    curve.to_csv(tmp_path / "curve.csv")
    assert TradeoffCurve.from_csv(tmp_path / "curve.csv") == curve


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "eps must be a number above 0"),
        ({"norm": "L0"}, "norm must be"),
        ({"attack": "fgsm"}, "attack must be"),
        ({"attack": []}, "attack must name at least one"),
        ({"lambdas": [2]}, "lam must lie in"),
        ({"widths": [0.5]}, "width must be one of"),
        ({"nb_robust": 41}, "nb_robust must be at most 40"),
        ({"nb_robust": 5.5}, "nb_robust must be a whole number"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"nb_workers": 0}, "nb_workers must be"),
        ({"lambdas": []}, "must each hold at least one number"),
        ({"lambdas": 0.3}, "must each be several numbers"),
        ({"eps": "8/255"}, "eps must be a number"),
        ({"attack": PGD(0.1)}, "attack must be 'autoattack' or 'pgd-K'"),
    ],
)
def test_faulty_options_are_refused(classifier, y, options, message):
    with pytest.raises(ValueError, match=message):
        measure(classifier, y, **options)


def test_every_fault_is_named_at_once(classifier, y):
    with pytest.raises(ValueError, match=r"nb_robust.*eps.*lam must lie.*width must be"):
        measure(classifier, y, nb_robust=99, eps=-1, attack=["foo", "pgd-0"], lambdas=[2, 0.3], widths=[1, 0.5])


def test_what_autoattack_cannot_judge_is_refused_before_any_attack_runs(y, monkeypatch):
    monkeypatch.setattr(tradeoff, "withstand", None)
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


def curve_of(*widths: float) -> TradeoffCurve:
    points = [
        MeasuredPoint(
            lam, width, 0.9 - 0.1 * lam, 0.1 + 0.8 * lam * width, 450, 150, {"pgd-20": 0.8, "autoattack": 0.5}
        )
        for width in widths
        for lam in LAMBDAS
    ]
    return TradeoffCurve(tuple(points), 0.2)


@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_names_what_it_shows_and_is_saved_whole(tmp_path, widths, ending):
    path = tmp_path / "new" / f"tradeoff.{ending}"
    figure = curve_of(*widths).plot(path)
    assert path.stat().st_size > 1000
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    left, right = figure.axes
    assert "AutoAttack" in figure.get_suptitle()
    assert "150 images" in figure.get_suptitle()
    assert [text.get_text() for text in right.texts].count("lam 0") == len(widths)
    assert len(left.get_legend().get_texts()) == 4 * len(widths)


def test_labels_of_points_that_coincide_are_merged():
    points = tuple(MeasuredPoint(lam, 1.0, 0.9, 0.5, 450, 150, {"pgd-20": 0.5}) for lam in LAMBDAS)
    left, right = TradeoffCurve(points, 0.2).plot().axes
    assert [text.get_text() for text in right.texts] == ["lam 0, 0.1, 0.2, 0.3, 0.4, 1"]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["clean", "robust: PGD-20"]


def test_the_table_holds_every_figure_with_its_error():
    text = table(curve_of(1.0)).splitlines()
    assert len(text) == 2 + len(LAMBDAS)
    assert "clean (450)" in text[0]
    assert "AutoAttack (150)" in text[0]
    assert text[2].split() == ["0", "1", "90.0", "+-", "1.4", "80.0", "50.0", "10.0", "+-", "2.4"]
