import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat.evaluation.displacement import Displacements, RobustLoss, along_filters, in_balls, movable, moved


def weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 2, 2, 2), (4, 3), (4,))]


def test_displacements_fill_the_ball_of_each_layer_uniformly():
    own, generator = [torch.tensor([3.0, 4.0], dtype=torch.float64)], torch.Generator().manual_seed(0)
    drawn = torch.stack([in_balls(own, generator)[0] for _ in range(2000)])
    shares = (drawn.norm(dim=1) / 5) ** 2  # of the disc: uniform in [0, 1]
    assert shares.max() <= 1
    assert abs(float(shares.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 2000)
    assert abs(float((shares < 0.25).double().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 2000)
    assert drawn.mean(dim=0).norm() < 4 * 5 / math.sqrt(2 * 2000)


def test_filters_of_a_direction_are_as_long_as_those_of_the_weights_and_biases_stay():
    own = weights()
    drawn = along_filters(own, torch.Generator().manual_seed(0))
    for weight, direction in zip(own[:2], drawn[:2], strict=True):
        torch.testing.assert_close(direction.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert not drawn[2].any()


def test_a_layer_of_zeros_stays():
    own = [torch.zeros(3, 2), torch.zeros(3)]
    for draw in (in_balls, along_filters):
        assert not any(it.any() for it in draw(own, torch.Generator().manual_seed(0)))


def test_weights_and_biases_move_once_each_and_norms_stay():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2), nn.LayerNorm(2))
    network.append(network[2])
    expected = [network[0].weight, network[0].bias, network[2].weight, network[2].bias]
    assert [id(it) for it in movable(network)] == [id(it) for it in expected]


def test_moved_weights_come_back_to_the_bit_whatever_happens():
    own = weights()
    kept = [it.clone() for it in own]
    with pytest.raises(RuntimeError, match=r"^1\.1 times$"), moved(own, weights(), 0.1):
        raise RuntimeError(f"{float(own[1].norm() / kept[1].norm()):.5g} times")
    assert all(torch.equal(a, b) for a, b in zip(own, kept, strict=True))


def shifted(network, x, y, *, clip_values=None, generator=None):
    """An attack that depends on the sample and the weights alone."""
    return x + 0.1 * next(network.parameters())[0]


@pytest.mark.parametrize("batch_size", [2, 7])
def test_the_loss_and_its_gradient_are_means_over_all_samples_whatever_the_batches(batch_size):
    torch.manual_seed(0)
    network, x, y = nn.Linear(3, 4).double(), torch.rand(7, 3, dtype=torch.float64), torch.arange(7) % 4
    loss = RobustLoss(network, x, y, shifted, batch_size=batch_size)
    expected = F.cross_entropy(network(shifted(network, x, y).detach()), y)
    gradients = torch.autograd.grad(expected, [*network.parameters()])
    value, found = loss.with_gradient([*network.parameters()])
    assert value == pytest.approx(float(expected), rel=1e-12)
    assert loss() == pytest.approx(float(expected), rel=1e-12)
    for own, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(own, other)


def noisy(network, x, y, *, clip_values=None, generator=None):
    return x + torch.randn(x.shape, dtype=x.dtype)


def test_the_same_weights_have_the_same_loss_also_under_an_attack_that_draws_from_the_global_generator():
    torch.manual_seed(0)
    network, x = nn.Linear(3, 4).double(), torch.rand(6, 3, dtype=torch.float64)
    loss = RobustLoss(network, x, torch.zeros(6, dtype=torch.long), noisy, batch_size=4)
    state = torch.get_rng_state()
    assert loss() == loss()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"average": -1, "worst": math.nan}, "average must be a number of at least 0.*worst must"),
        ({"nb_directions": 1, "nb_steps": 0}, "nb_directions must be a whole number, at least 2.*nb_steps"),
        ({"distances": (0.5, 0.1)}, "distances must ascend"),
        ({"distances": (0, math.inf)}, "distances must hold finite numbers"),
        ({"distances": 3}, "distances must be several numbers"),
    ],
)
def test_what_cannot_be_moved_by_is_refused_all_at_once(given, said):
    with pytest.raises((ValueError, TypeError), match=said):
        Displacements(**given)


def test_losses_are_counted_for_the_progress_bar():
    moves = Displacements(nb_directions=3, nb_restarts=2, nb_steps=4, distances=np.array([0, 1]))
    assert moves.nb_losses == 1 + 3 + 2 * 5 + 3 * 2
