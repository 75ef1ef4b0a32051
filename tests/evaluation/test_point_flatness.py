import math

import numpy as np
import pytest
import torch
from torch import nn

from art_oat import PGD, OperatingPoint
from art_oat.evaluation.displacement import Displacements, RobustLoss, along_filters, movable
from art_oat.evaluation.point_flatness import PointFlatness, flatness_at, t_margin

EPS, XI = 0.1, 0.8
X, Y = np.array([0.2, 0.5, 0.9]), np.array([0, 1, 1])
WEIGHTS = np.array([0.7, 1.9])
POINT = OperatingPoint(0.3)
EXACT = PGD(EPS, 2 * EPS, 1)
"""One step from anywhere in an interval around a number, twice as long as it, ends at the better end."""


def two_weights() -> nn.Linear:
    """Scores ``w_k x`` of two classes for one number: one layer of two weights, whose ball is a disc."""
    network = nn.Linear(1, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        network.weight.copy_(torch.from_numpy(WEIGHTS)[:, None])
    return network


def robust_loss(weights: np.ndarray) -> np.ndarray:
    """Its robust loss by the formula, ``log(1 + exp(-m))`` with the margin at the worse end, for ``[..., 2]``."""
    gaps = np.where(Y == 0, 1, -1) * (weights[..., :1] - weights[..., 1:])
    return np.maximum(*(np.logaddexp(0, -gaps * end) for end in (X - EPS, X + EPS))).mean(axis=-1)


def disc(nb_radii: int, nb_angles: int) -> np.ndarray:
    """Places in the disc of the bound around the weights, of the same area each, ``[P, 2]``; the edge is among them."""
    radii = np.sqrt(np.linspace(0, 1, nb_radii + 1)[1:]) * XI * np.linalg.norm(WEIGHTS)
    angles = np.linspace(0, 2 * np.pi, nb_angles, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return WEIGHTS + (radii[:, None, None] * circle).reshape(-1, 2)


def loss_of(network: nn.Module, **options) -> RobustLoss:
    return RobustLoss(network, torch.from_numpy(X)[:, None], torch.from_numpy(Y), **{"attack": EXACT, **options})


def found_at(network: nn.Module, loss: RobustLoss | None = None, **moves) -> PointFlatness:
    defaults = {"average": XI, "worst": XI, "nb_directions": 2, "nb_restarts": 1, "nb_steps": 1, "distances": ()}
    displacements = Displacements(**{**defaults, **moves})
    return flatness_at(loss or loss_of(network), movable(network), POINT, displacements, 0)


def test_the_loss_at_the_weights_is_that_of_the_formula():
    assert found_at(two_weights()).loss == pytest.approx(float(robust_loss(WEIGHTS)), rel=1e-12)


def test_the_worst_case_is_the_largest_rise_of_a_dense_grid_over_the_ball():
    brute = float(robust_loss(disc(50, 3600)).max() - robust_loss(WEIGHTS))
    point = found_at(two_weights(), nb_restarts=3, nb_steps=40)
    assert brute > 0.1
    assert point.worst == pytest.approx(brute, rel=1e-4)  # of the angles of the grid, and of the last steps
    assert point.worst_of_least_search < point.worst  # there is a second maximum, where other searches end


def test_the_average_case_is_the_integral_over_the_ball_within_its_interval():
    brute = float(robust_loss(disc(400, 180)).mean() - robust_loss(WEIGHTS))
    point = found_at(two_weights(), nb_directions=400)
    margin = point.average_interval[1] - point.average
    assert margin < 0.3 * brute  # it can fail
    assert abs(point.average - brute) < 2 * margin  # 4 standard errors


def test_the_landscape_is_the_robust_loss_with_adversarial_examples_made_anew():
    distances, network = (-2.0, -0.5, 0.0, 1.0), two_weights()
    point = found_at(network, distances=distances)
    generator = torch.Generator().manual_seed(0)
    for row in point.landscape:
        direction = along_filters([network.weight], generator)[0].numpy()[:, 0]
        expected = [robust_loss(WEIGHTS + distance * direction) for distance in distances]
        np.testing.assert_allclose(row, expected, rtol=1e-12)
    assert (point.landscape[:, 2] == point.loss).all()


def two_layers() -> tuple[nn.Module, RobustLoss]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x, y = torch.rand(12, 4, dtype=torch.float64), torch.arange(12) % 3
    return network, RobustLoss(network, x, y, PGD(0.1, 0.05, 4), (0, 1), batch_size=5)


def test_rescaling_two_layers_of_a_relu_network_leaves_all_figures_as_they_are():
    moves = {"nb_directions": 4, "nb_restarts": 2, "nb_steps": 5, "distances": (-1.0, 0.5)}
    plain, scaled = (found_at(*_scaled(*two_layers(), factor), **moves) for factor in (1, 7))
    for name in ("loss", "average_losses", "worst_losses", "landscape"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(plain, name), rtol=1e-9, err_msg=name)
    assert plain.average != 0


def _scaled(network: nn.Module, loss: RobustLoss, factor: float) -> tuple[nn.Module, RobustLoss]:
    with torch.no_grad():
        for parameter, power in zip(network.parameters(), (1, 1, -1, 0), strict=True):
            parameter.mul_(factor**power)
    return network, loss


def test_within_a_radius_of_0_nothing_rises():
    network, loss = two_layers()
    point = found_at(network, loss, average=0, worst=0, nb_restarts=2, nb_steps=3)
    assert (point.average, point.worst, point.worst_of_least_search) == (0, 0, 0)
    assert point.average_interval == (0, 0)


def test_the_worst_case_is_above_every_random_displacement_of_the_same_size_and_never_falls():
    network, loss = two_layers()
    point = found_at(network, loss, nb_directions=20, nb_steps=10)
    assert point.worst_losses.max() > point.average_losses.max()
    for xi in (1e-6, 0.01):
        assert found_at(network, loss, worst=xi).worst > 0


def test_afterwards_the_weights_are_what_they_were_to_the_bit():
    network, loss = two_layers()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    found_at(network, loss, distances=(0.0, 1.0))
    assert all(torch.equal(own, kept) for own, kept in zip(network.parameters(), before, strict=True))


def test_the_interval_is_that_of_student():
    assert t_margin(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # tables, 2 degrees
