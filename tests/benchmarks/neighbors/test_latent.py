import pytest
import torch
from torch import nn

from art_oat.attacks import PGD
from benchmarks.neighbors.latent import Components, DualPGD, dual
from tests.benchmarks.neighbors.trainers import RECIPE, few_digits, trainer
from tests.networks import images

Y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
GIVEN = {"clip_values": (0, 1)}


def attacked(attack, network):
    return attack(network, images(8), Y, generator=torch.Generator().manual_seed(0), **GIVEN)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def test_latents_of_the_images_have_variance_one_and_all_components_decode_every_difference():
    x = images(50)
    decoder = Components.of(x, 36)
    differences = (x - x.mean(dim=0)).flatten(1)
    z = differences @ torch.linalg.pinv(decoder.rows)
    torch.testing.assert_close(z.T @ z / 49, torch.eye(36, dtype=torch.float64))
    torch.testing.assert_close(decoder.decoded(z, x), differences.view_as(x))


def test_the_gradient_by_latents_is_that_of_autograd():
    decoder, net, x = Components.of(images(50), 5), network(), images(8)
    z = torch.zeros(8, 5, dtype=torch.float64, requires_grad=True)
    moved = (x + decoder.decoded(z, x)).detach().requires_grad_()
    by_latents = torch.autograd.grad(net(x + decoder.decoded(z, x)).square().sum(), z)[0]
    torch.testing.assert_close(decoder.gradient(torch.autograd.grad(net(moved).square().sum(), moved)[0]), by_latents)


def test_without_a_share_of_latents_it_is_pgd():
    pgd, net = PGD(0.2, 0.05, 5), network()
    found = attacked(DualPGD(pgd, Components.of(images(50), 5), 0.5, 0.0), net)
    torch.testing.assert_close(found, attacked(pgd, net), rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_latents_stay_within_their_radius_and_climb_to_its_corner_where_the_loss_is_linear(factor):
    rows = 0.01 * torch.eye(5, 36, dtype=torch.float64)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    nn.init.zeros_(linear[1].weight)
    linear[1].weight.data[0, :5] = torch.tensor([1.0, -1, 1, -1, 1])
    attack = DualPGD(PGD(0.2, 0.05, 12), Components(rows), 0.5, 1.0).scaled(factor)
    x, y = 0.5 + 0 * images(8), torch.zeros(8, dtype=torch.int64)
    found = attack(linear, x, y, generator=torch.Generator().manual_seed(0), **GIVEN)
    moved = (found - x).flatten(1)
    expected = 0.005 * factor * torch.tensor([-1.0, 1, -1, 1, -1], dtype=torch.float64)
    torch.testing.assert_close(moved[:, :5], expected.expand(8, 5))
    assert not moved[:, 5:].any()


@pytest.mark.parametrize("dials", ["weight", "eps"])
def test_it_trains_at_every_lam_with_perturbed_weights(dials):
    data = few_digits(32)
    own = trainer(data, weight_perturbation=0.01, dials=dials)
    own.fit(*dual(4, 0.5, 0.5)(own, data, RECIPE).train, batch_size=32, nb_epochs=1, verbose=False)
    assert isinstance(own.method.attack, DualPGD)
    with pytest.raises(ValueError, match="in Linf"):
        dual(4, 0.5, 0.5)(trainer(data, norm="L2", eps=0.5, eps_step=0.1), data, RECIPE)
