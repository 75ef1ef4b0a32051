import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from torch import nn

from art_oat import PGD, OATClassifier, TransferMatrix, to_conditional
from art_oat.attacks import robust_correct
from art_oat.evaluation import cross_attacks
from art_oat.evaluation.cross_attacks import Mixture
from tests.conftest import make_classifier
from tests.evaluation.subjects import grouped
from tests.networks import LAMBDAS, Residual, images, shaken

X = images(40, torch.float32).numpy()
LAMS = (0.0, 0.3, 1.0)


def balanced(classifier) -> OATClassifier:
    """Let a classifier answer with every class, and change its mind within small distances."""
    head = classifier.model.network.head
    with torch.no_grad():
        head.bias -= torch.from_numpy(classifier.predict(X, lam=0.3)).mean(dim=0)
    return classifier


@pytest.fixture
def classifier() -> OATClassifier:
    return balanced(make_classifier())


@pytest.fixture
def y(classifier) -> np.ndarray:
    """Labels that the network gets right at lam 0.3, but for every fifth."""
    predicted = classifier.predict(X, lam=0.3).argmax(axis=1)
    predicted[::5] = (predicted[::5] + 1) % 5
    return predicted


def measure(classifier, y, x=X, **options) -> TransferMatrix:
    defaults = {"attack": PGD(0.05, nb_steps=3), "lambdas": LAMS}
    return TransferMatrix.measure(classifier, x, y, **grouped(**{**defaults, **options}))


def stay(network, x, y, *, clip_values=None, generator=None):
    """The attack that does nothing."""
    return x


def random_matrix(nb_images: int = 50, seed: int = 0) -> TransferMatrix:
    right = np.random.default_rng(seed).random((len(LAMS) + 2, len(LAMS), nb_images)) < 0.8
    return TransferMatrix(LAMS, right, 1 / 3, "L2", 0.5, "PGD-50", "AutoAttack")


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_are_those_of_their_formulas(seed):
    matrix = random_matrix(seed=seed)
    inputs, lams, samples = (range(size) for size in matrix.right.shape)
    right = matrix.right.astype(float)
    fixed = [np.mean([min(right[c, b, i] for c in inputs) for i in samples]) for b in lams]
    random = np.mean([min(np.mean([right[c, b, i] for b in lams]) for c in inputs) for i in samples])
    np.testing.assert_allclose(matrix.worst_case, fixed)
    np.testing.assert_allclose(matrix.random_dial, random)
    np.testing.assert_allclose(matrix.random_dial_gain, random - max(fixed), atol=1e-12)
    asked_again = np.mean([min(right[c, b, i] for c in inputs for b in lams) for i in samples])
    np.testing.assert_allclose(matrix.random_dial_asked_again, asked_again)
    assert matrix.best_lam == LAMS[int(np.argmax(fixed))]
    for a, row in enumerate(matrix.robust):
        np.testing.assert_allclose(row, (matrix.right[0] & matrix.right[a + 1]).mean(axis=1))


@pytest.mark.parametrize("seed", range(5))
def test_the_worst_case_is_at_most_what_any_attack_leaves_and_a_random_dial_lies_between_its_bounds(seed):
    matrix = random_matrix(seed=seed)
    assert (matrix.shares[-1] <= matrix.shares[:-1]).all()
    assert (matrix.worst_case < matrix.robust.diagonal()).any()
    assert matrix.random_dial >= matrix.worst_case.mean()
    assert matrix.random_dial_asked_again <= matrix.worst_case.min()


def test_the_error_of_the_gain_is_that_of_a_mean_of_differences():
    right = np.ones((4, 2, 100), dtype=bool)
    right[1, 0, :36] = False  # lam 0 falls for 36 images; drawn, these stand in half the cases
    matrix = TransferMatrix((0.0, 1.0), right, 0.1)
    assert matrix.best_lam == 1.0
    assert matrix.random_dial_gain == pytest.approx(-0.36 / 2)
    assert matrix.random_dial_gain_error == pytest.approx(0.5 * np.sqrt(0.36 * 0.64 / 100))


def test_a_blind_attacker_takes_the_lam_that_leaves_least_on_average():
    right = np.ones((5, 3, 10), dtype=bool)
    for lam in range(3):
        right[1 + lam, lam] = False  # attacked at its own lam, nothing stands
    right[2, :, :6] = False  # the attack at 0.3 carries over to the others for 6 of 10 images
    matrix = TransferMatrix(LAMS, right, 0.1)
    assert matrix.blind_lam == 0.3
    np.testing.assert_allclose(matrix.blind, [0.4, 0, 0.4])
    assert matrix.gain_of_knowing == pytest.approx(0.8 / 3)


def test_without_an_attack_every_row_is_the_clean_accuracy(classifier, y):
    matrix = measure(classifier, y, attack=stay, lambdas=None)
    clean = [np.mean(classifier.predict(X, lam=lam).argmax(axis=1) == y) for lam in LAMBDAS]
    assert matrix.lambdas == LAMBDAS
    assert len(set(clean)) > 1
    for row in (*matrix.robust, matrix.clean, matrix.at_once, matrix.worst_case):
        np.testing.assert_allclose(row, clean)
    np.testing.assert_allclose(matrix.shares[:, -1], np.mean(clean))
    assert matrix.attack == matrix.attack_at_once == "stay"


def test_before_training_all_lams_answer_alike_and_drawing_one_changes_nothing():
    torch.manual_seed(0)
    model = to_conditional(Residual(), LAMBDAS)
    classifier = balanced(OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1)))
    labels = classifier.predict(X, lam=0.3).argmax(axis=1)
    matrix = measure(classifier, labels)
    assert (matrix.right == matrix.right[:, :1]).all()
    assert matrix.random_dial_gain == 0
    assert matrix.robust.min() < 1


def test_the_diagonal_is_what_the_attack_leaves_at_its_own_lam_and_the_last_row_attacks_the_mixture(classifier, y):
    matrix, attack = measure(classifier, y, shard_size=15, seed=4), PGD(0.05, nb_steps=3)
    x, labels = classifier.as_tensors(X, y)
    networks = [classifier.at(lam).as_module() for lam in LAMS]

    def attacked(network, target) -> tuple[torch.Tensor, torch.Tensor]:
        options = {"clip_values": (0, 1), "generator": torch.Generator().manual_seed(4), "batch_size": 15}
        return robust_correct(network, x, labels, lambda _, *batch, **given: attack(target, *batch, **given), **options)

    for index, network in enumerate(networks):
        clean, robust = attacked(network, network)
        assert np.array_equal(matrix.right[0, index], clean)
        assert matrix.robust[index, index] == robust.double().mean()
        _, at_once = attacked(network, Mixture(networks))
        assert matrix.at_once[index] == at_once.double().mean()
    assert (matrix.robust.diagonal() < matrix.clean).any()


@pytest.mark.slow(seconds=1)
def test_an_attack_from_outside_leaves_all_lams_at_once_to_pgd(classifier, y):
    own = FastGradientMethod(classifier, eps=0.05)
    matrix, reference = measure(classifier, y, attack=own), measure(classifier, y, attack=None)
    assert (matrix.attack, matrix.attack_at_once) == ("FastGradientMethod", "PGD-50")
    assert np.array_equal(matrix.right[-1], reference.right[-1])
    for lam, network_rows in zip(LAMS, matrix.right[1:-1], strict=True):
        x_adv = FastGradientMethod(classifier.at(lam), eps=0.05).generate(X, y=np.eye(5, dtype=np.float32)[y])
        answers = [classifier.predict(x_adv, lam=it).argmax(axis=1) == y for it in LAMS]
        assert np.array_equal(network_rows, answers)


@pytest.mark.slow(seconds=1)
def test_the_default_is_pgd_of_50_steps_of_a_twentieth_of_the_radius(classifier, y):
    first, second = (measure(classifier, y, attack=attack) for attack in (None, PGD(0.05, 0.05 / 20, 50)))
    assert np.array_equal(first.right, second.right)


def test_the_same_seed_gives_the_same_matrix_and_the_global_generator_is_spared(classifier, y):
    state = torch.get_rng_state()
    first, second = (measure(classifier, y, eps=0.1, attack=PGD(0.1, nb_steps=1)) for _ in "12")
    assert np.array_equal(first.right, second.right)
    assert torch.equal(torch.get_rng_state(), state)


def test_lams_come_ascending_and_once_at_the_width_asked_for(y):
    model = shaken(Residual(), torch.float32, widths=(0.5, 1.0))
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, clip_values=(0, 1))
    matrix = measure(classifier, y, attack=stay, lambdas=(1, 0.3, 1.0, 0.05), width=0.5)
    assert (matrix.lambdas, matrix.width) == ((0.05, 0.3, 1.0), 0.5)
    for lam, row in zip(matrix.lambdas, matrix.right[0], strict=True):
        assert np.array_equal(row, classifier.predict(X, lam=lam, width=0.5).argmax(axis=1) == y)


@pytest.mark.parametrize("nb_images", [1, 8, 50])
def test_csv_gives_back_every_answer(tmp_path, nb_images):
    matrix = random_matrix(nb_images)
    matrix.to_csv(tmp_path / "matrix.csv")
    again = TransferMatrix.from_csv(tmp_path / "matrix.csv")
    assert np.array_equal(again.right, matrix.right)
    assert {**asdict(again), "right": 0} == {**asdict(matrix), "right": 0}


def test_a_csv_of_another_kind_or_cut_short_is_refused(tmp_path):
    path = tmp_path / "matrix.csv"
    random_matrix().to_csv(path)
    lines = path.read_text().splitlines()
    for text in ("eps,lam\n0.1,1\n", "\n".join(lines[:-1]), path.read_text().replace("L2", "L7"), ""):
        path.write_text(text)
        with pytest.raises(ValueError, match="must be a CSV that to_csv wrote"):
            TransferMatrix.from_csv(path)


def stranger() -> FastGradientMethod:
    return FastGradientMethod(make_classifier(), eps=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 8, "attack": PGD(8)}, r"eps must be below 0.5 \(Linf\), half the range of x"),
        ({"norm": "L1", "attack": None}, "norm must be"),
        ({"attack": PGD(0.1)}, "attack must have the eps given, 0.05, got one with 0.1"),
        ({"attack": PGD(0.05, norm="L2")}, "attack must have the norm given, 'Linf', got one with 'L2'"),
        ({"lambdas": [0.3, 0.3]}, r"lambdas must hold at least 2 different lams, got \[0.3, 0.3\]"),
        ({"lambdas": 0.3}, "lambdas must be several numbers"),
        ({"width": 0.5}, "width must be one of"),
        ({"state": "folder", "nb_workers": 2}, "state and nb_workers must be left out here"),
        (
            {"x": X * 255, "y": np.full(40, 9), "eps": -1, "attack": stranger(), "lambdas": [2, 0.3], "shard_size": 0},
            "clip_values.*y must hold class.*shard_size.*eps must be.*must be made for the classifier.*lam must",
        ),
    ],
)
def test_what_is_faulty_is_refused_all_at_once_before_any_attack_runs(classifier, y, monkeypatch, options, message):
    monkeypatch.setattr(cross_attacks, "right_after", None)
    with pytest.raises(ValueError, match=message):
        measure(**{"classifier": classifier, "y": y, **options})


def test_what_is_no_classifier_or_no_attack_is_refused_and_a_large_radius_is_taken_where_it_is_meant(classifier, y):
    with pytest.raises(TypeError, match="classifier must be an OATClassifier"):
        measure(classifier.at(0.3), y)
    with pytest.raises(TypeError, match="attack must be an attack of"):
        measure(classifier, y, attack="pgd-50")
    assert measure(classifier, y, eps=8, attack=PGD(8, nb_steps=1), allow_large_eps=True).eps == 8


def test_an_attack_that_leaves_its_ball_is_no_measurement(classifier, y):
    with pytest.raises(RuntimeError, match=r"must stay within eps = 0\.05"):
        measure(classifier, y, attack=lambda network, x, y: (x + 0.1).clamp(0, 1))


@pytest.mark.parametrize("shape", [(4, 3, 10), (5, 2, 10), (5, 3, 0), (5, 3)])
def test_answers_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"right must have shape \[A \+ 2, A, N\]"):
        TransferMatrix(LAMS, np.ones(shape, dtype=bool), 0.1)


def test_the_table_holds_every_share_and_what_follows_from_them():
    matrix = random_matrix()
    text = matrix.table()
    rows = [re.findall(r"\d+\.\d", line) for line in text.splitlines()[4:10]]
    assert [[float(cell) for cell in row[-4:]] for row in rows] == [
        [round(100 * share, 1) for share in row] for row in matrix.shares
    ]
    assert f"gain of {100 * matrix.random_dial_gain:+.1f} +- " in text
    assert "PGD-50 (all at once: AutoAttack) at eps 85/255 (L2) on 50 images, width 0.5" in text
    assert "Drawing is not a defense" in text


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_holds_every_share_and_is_saved_whole(tmp_path, ending):
    matrix, path = random_matrix(), tmp_path / "new" / f"transfer.{ending}"
    (axes,) = matrix.plot(path).axes
    assert path.stat().st_size > 1000
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(b, a): f"{100 * share:.1f}" for (a, b), share in np.ndenumerate(matrix.shares)}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.3", "1", "random dial"]


def test_text_in_the_picture_stands_out_from_its_cell():
    """By at least 4.5 to 1, the ratio that WCAG 2.1 asks for."""
    lams = tuple(np.linspace(0, 1, 9).tolist())
    chances = np.linspace(0, 1, 99).reshape(11, 9, 1)
    right = np.random.default_rng(0).random((11, 9, 50)) < chances[::-1]
    (axes,) = TransferMatrix(lams, right, 0.1).plot().axes
    (image,) = axes.get_images()
    colors = image.to_rgba(image.get_array())[..., :3]
    for text in axes.texts:
        column, row = text.get_position()
        cell, ink = luminance(colors[row, column]), float(text.get_color() == "white")
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) >= 4.5


def luminance(color) -> float:
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
