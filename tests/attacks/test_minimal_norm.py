import math

import pytest
import torch
from torch import nn

from art_oat.attacks import DDN, FMN, distance
from tests.evaluation.subjects import Linear, X, curved, exact_radii, linear_data, telling_eps

KINDS = [(FMN, "Linf"), (FMN, "L2"), (DDN, "L2")]


@pytest.mark.parametrize(("kind", "norm"), KINDS)
def test_what_is_reported_is_how_far_an_input_in_range_lies_that_is_answered_wrongly(kind, norm):
    network, x = curved(), torch.from_numpy(X)
    y = network(x).argmax(dim=1)
    y[::4] = (y[::4] + 1) % 5
    far, x_adv = kind(3.0, norm, nb_steps=20).nearest(network, x, y, clip_values=(0, 1))
    is_found = far.isfinite()
    assert is_found.float().mean() > 0.5
    torch.testing.assert_close(far[is_found], distance(x, x_adv, norm)[is_found], rtol=0, atol=0)
    assert torch.equal(network(x_adv).argmax(dim=1) != y, is_found)
    assert torch.equal(far == 0, network(x).argmax(dim=1) != y)
    assert torch.equal(x_adv[~is_found], x[~is_found])
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize(("kind", "norm"), KINDS)
def test_nothing_farther_than_eps_is_reported_and_all_that_is_nearer_on_a_linear_network_is(kind, norm):
    network, (x, _) = Linear(2), linear_data(32)
    y = network(x).argmax(dim=1)
    exact = exact_radii(network, x, y, norm)
    eps = telling_eps(exact)
    far, x_adv = kind(eps, norm).nearest(network, x, y, clip_values=(0, 1))
    assert torch.equal(far.isfinite(), exact < eps)
    assert distance(x, x_adv, norm).max() <= eps * (1 + 1e-6)


@pytest.mark.parametrize(("kind", "norm"), KINDS)
def test_a_range_that_lies_between_makes_the_nearest_error_farther(kind, norm):
    # class 1 needs the sum of both pixels above 1; the first may not grow, so that the second has to go all the way
    network = nn.Linear(2, 2)
    network.weight.data, network.bias.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([1.0, 0.0])
    x, y = torch.tensor([[0.3, 0.3]]), torch.tensor([0])
    free, _ = kind(2.0, norm).nearest(network, x, y)
    held, _ = kind(2.0, norm).nearest(network, x, y, clip_values=(torch.tensor([0.0, 0.0]), torch.tensor([0.3, 1.0])))
    assert free.item() == pytest.approx(0.2 if norm == "Linf" else 0.2 * math.sqrt(2), rel=0.01)
    assert held.item() == pytest.approx(0.4, rel=0.01)


@pytest.mark.parametrize(("kind", "norm"), KINDS)
def test_what_is_found_scales_with_the_unit_of_the_inputs(kind, norm):
    x, y = linear_data(16)
    far, _ = kind(2.0, norm).nearest(Linear(), x, y, clip_values=(0, 1))
    scaled, _ = kind(510.0, norm).nearest(Linear(span=255), 255 * x, y, clip_values=(0, 255))
    torch.testing.assert_close(scaled, 255 * far, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (FMN, {"eps": 0.0}, "eps must be a number above 0"),
        (DDN, {"eps": math.nan}, "eps must be"),
        (FMN, {"eps": 1.0, "norm": "L1"}, "norm must be one of"),
        (DDN, {"eps": 1.0, "norm": "Linf"}, r"norm must be one of \('L2',\)"),
        (DDN, {"eps": 1.0, "nb_steps": 0}, "nb_steps must be"),
        (FMN, {"eps": 1.0, "nb_restarts": -1}, "nb_restarts must be a count"),
        (FMN, {"eps": 1.0, "nb_restarts": 0.5}, "nb_restarts must be a count"),
    ],
)
def test_arguments_out_of_range_are_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)
