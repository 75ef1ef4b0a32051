import math

import pytest
import torch
from torch import nn

from art_oat.attacks import FMN, distance
from art_oat.evaluation import EvaluationOptions, evaluate
from tests.evaluation.subjects import Linear, affine_classifier, exact_radii, linear_data, telling_eps
from tests.networks import images

NORMS = ("Linf", "L2")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Has curved boundaries, near to its inputs."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 5)).eval()
    network[1].weight.data.mul_(3)
    network[3].bias.data -= network(images(24, torch.float32)).mean(dim=0).detach()
    return network


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("nb_classes", [2, 4])
def test_on_a_linear_network_with_a_run_to_each_class_the_nearest_error_is_at_the_exact_distance(norm, nb_classes):
    network = Linear(nb_classes)
    x, _ = linear_data(32)
    y = network(x).argmax(dim=1)
    exact = exact_radii(network, x, y, norm)
    far, _ = FMN(10.0, norm, nb_restarts=nb_classes - 1).nearest(network, x, y)  # as many as there are other classes
    # nothing is nearer than the exact distance but by rounding; the radius last changed by 0.1% a step
    assert (far >= exact * (1 - 1e-4)).all()
    assert (far <= exact * 1.01).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("nb_restarts", [0, 2])
def test_what_is_reported_is_how_far_an_input_in_range_lies_that_is_answered_wrongly(network, norm, nb_restarts):
    x = images(24, torch.float32)
    y = network(x).argmax(dim=1)
    y[::4] = (y[::4] + 1) % 5
    attack = FMN(3.0, norm, nb_steps=20, nb_restarts=nb_restarts)
    far, x_adv = attack.nearest(network, x, y, clip_values=(0, 1), generator=seeded())
    is_found = far.isfinite()
    assert is_found.float().mean() > 0.5
    torch.testing.assert_close(far[is_found], distance(x, x_adv, norm)[is_found], rtol=0, atol=0)
    assert torch.equal(network(x_adv).argmax(dim=1) != y, is_found)
    assert torch.equal(far == 0, network(x).argmax(dim=1) != y)
    assert torch.equal(x_adv[~is_found], x[~is_found])
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_nothing_farther_than_eps_is_reported_and_all_that_is_nearer_on_a_linear_network_is():
    network, (x, y) = Linear(), linear_data(32)
    exact = exact_radii(network, x, y, "Linf")
    eps = telling_eps(exact)
    far, x_adv = FMN(eps, nb_restarts=3).nearest(network, x, y, clip_values=(0, 1))
    assert torch.equal(far.isfinite(), exact < eps)
    assert distance(x, x_adv, "Linf").max() <= eps * (1 + 1e-6)


def test_a_range_that_lies_between_makes_the_nearest_error_farther():
    # class 1 needs the sum of both pixels above 1; the first may not grow, so that the second has to go all the way
    network = nn.Linear(2, 2)
    network.weight.data, network.bias.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([1.0, 0.0])
    x, y = torch.tensor([[0.3, 0.3]]), torch.tensor([0])
    free, _ = FMN(2.0).nearest(network, x, y)
    held, _ = FMN(2.0).nearest(network, x, y, clip_values=(torch.tensor([0.0, 0.0]), torch.tensor([0.3, 1.0])))
    assert free.item() == pytest.approx(0.2, rel=0.01)
    assert held.item() == pytest.approx(0.4, rel=0.01)


def test_restarts_find_nothing_farther_and_a_seed_means_one_result(network):
    x = images(24, torch.float32)
    y = network(x).argmax(dim=1)
    once, _ = FMN(1.0, nb_steps=5).nearest(network, x, y)
    attack = FMN(1.0, nb_steps=5, nb_restarts=5)
    far, x_adv = attack.nearest(network, x, y, generator=seeded())
    assert (far <= once).all()
    assert (far < once).any()
    assert torch.equal(x_adv, attack(network, x, y, generator=seeded()))
    assert not torch.equal(x_adv, attack(network, x, y, generator=seeded(1)))


def test_what_is_found_scales_with_the_unit_of_the_inputs():
    x, y = linear_data(16)
    far, _ = FMN(1.0).nearest(Linear(), x, y, clip_values=(0, 1))
    scaled, _ = FMN(255.0).nearest(Linear(span=255), 255 * x, y, clip_values=(0, 255))
    torch.testing.assert_close(scaled, 255 * far, rtol=1e-3, atol=0)


def test_by_name_it_evaluates_a_view_behind_its_preprocessing_exactly():
    classifier, (x, _) = affine_classifier(), linear_data(12)
    classifier = type(classifier)(
        classifier.model, nn.CrossEntropyLoss(), (1, 6, 6), 4, clip_values=(0, 1), preprocessing=(0.5, 0.25)
    )
    network = classifier.at(0.3).as_module()
    y = network(x).argmax(dim=1)
    exact = exact_radii(network, x, y, "Linf")
    eps = telling_eps(exact)
    report = evaluate(
        classifier, x.numpy(), y.numpy(), eps=eps, attack="fmn-50x4", lam=0.3, options=EvaluationOptions(verbose=False)
    )
    assert report.is_robust.tolist() == (exact > eps).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0.0}, "eps must be a number above 0"),
        ({"eps": math.nan}, "eps must be"),
        ({"eps": 1.0, "norm": "L1"}, "norm must be one of"),
        ({"eps": 1.0, "nb_steps": 0}, "nb_steps must be"),
        ({"eps": 1.0, "nb_restarts": -1}, "nb_restarts must be a count"),
        ({"eps": 1.0, "nb_restarts": 0.5}, "nb_restarts must be a count"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FMN(**arguments)
