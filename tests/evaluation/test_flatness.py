import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from art_oat import PGD
from art_oat.classifier import OATClassifier
from art_oat.evaluation import Displacements, EvaluationOptions, Flatness, ThreatModel
from art_oat.storage import read_rows
from tests.conftest import make_classifier
from tests.networks import images

X, Y, EPS = images(12, torch.float32).numpy(), np.arange(12) % 5, 0.05
FEW = Displacements(nb_directions=2, nb_restarts=1, nb_steps=2, distances=(-0.5, 0.0, 0.5), nb_attack_steps=3)
OPTIONS = EvaluationOptions(verbose=False)


@pytest.fixture(scope="module")
def classifier() -> OATClassifier:
    return make_classifier(widths=(0.5, 1.0), preprocessing=(0.5, 0.2))


@pytest.fixture(scope="module")
def flatness(classifier) -> Flatness:
    return Flatness.measure(classifier, X, Y, eps=EPS, lambdas=[1.0, 0.3], displacements=FEW, options=OPTIONS)


def test_every_operating_point_is_measured_at_the_network_that_stands_there(classifier, flatness):
    assert [(it.lam, it.width) for it in flatness.points] == [(0.3, 0.5), (1.0, 0.5), (0.3, 1.0), (1.0, 1.0)]
    x, y = classifier.as_tensors(X, Y)
    for point in flatness.points:
        network, generator = classifier.at(point.lam, point.width).as_module(), torch.Generator().manual_seed(0)
        x_adv = PGD.for_evaluation(EPS, 3, "Linf")(network, x, y, clip_values=(0, 1), generator=generator)
        assert point.loss == pytest.approx(float(F.cross_entropy(network(x_adv), y)), rel=1e-3)  # signs of gradients
        np.testing.assert_array_equal(point.landscape[:, 1], point.loss)
        assert point.worst >= 0
    assert len({point.average for point in flatness.points}) == len(flatness.points)


def test_the_classifier_and_the_global_generator_are_left_alone_and_a_seed_gives_the_same(classifier, flatness):
    before, state = classifier.model.state_dict(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in before.items()}
    classifier.model.train()
    again = Flatness.measure(classifier, X, Y, eps=EPS, lambdas=[0.3], displacements=FEW, options=OPTIONS)
    assert all(module.training for module in classifier.model.modules())
    assert all(torch.equal(before[name], it) for name, it in classifier.model.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("average_losses", "worst_losses", "landscape"):
        np.testing.assert_array_equal(getattr(again.at(0.3, 1.0), name), getattr(flatness.at(0.3, 1.0), name))


def test_a_csv_and_a_table_hold_a_row_per_point(flatness, tmp_path):
    flatness.to_csv(tmp_path / "it.csv")
    rows = read_rows(tmp_path / "it.csv")
    assert [float(row["average"]) for row in rows] == [point.average for point in flatness.points]
    assert [float(row["loss at 0"]) for row in rows] == [point.loss for point in flatness.points]
    assert len(str(flatness).splitlines()) == 2 + 2 + len(flatness.points) + 2
    assert "PGD-3 at eps 0.05 (Linf) on 12 samples" in flatness.title()


def test_a_point_that_was_not_measured_or_not_named_wholly_is_refused(flatness):
    assert flatness.at(1.0, 0.5).width == 0.5
    for dials in ((0.7, 1.0), (0.3,)):
        with pytest.raises(ValueError, match=re.escape("(0.3, 0.5), (1, 0.5)")):
            flatness.at(*dials)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"classifier": None}, TypeError, "classifier must be an OATClassifier"),
        ({"displacements": 0.5}, TypeError, "displacements must be Displacements"),
        ({"eps": -1, "lambdas": [3]}, ValueError, "lam must lie.*eps must be a number above 0"),
        ({"eps": ThreatModel(1, "L1")}, ValueError, "norm must be one of"),
        ({"eps": 0.7}, ValueError, "eps must be below 0.5"),
        ({"x": X[:, 0]}, ValueError, "x must have shape"),
        ({"options": EvaluationOptions(nb_workers=2)}, ValueError, "nb_workers must be left out"),
    ],
)
def test_what_cannot_be_measured_is_refused_up_front(classifier, changes, error, said):
    given = {"classifier": classifier, "x": X, "y": Y, "eps": EPS, "displacements": FEW, "options": OPTIONS, **changes}
    with pytest.raises(error, match=said):
        Flatness.measure(given.pop("classifier"), given.pop("x"), given.pop("y"), **given)


def test_numbers_of_numpy_are_taken_as_plain_ones():
    moves = Displacements(np.float32(0.5), nb_steps=np.int64(3), distances=np.linspace(-1, 1, 3))
    assert asdict(moves) == asdict(Displacements(0.5, nb_steps=3, distances=(-1.0, 0.0, 1.0)))
