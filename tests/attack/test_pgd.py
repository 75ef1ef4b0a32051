import math

import pytest
import torch
from torch import nn

from art_oat import PGD
from art_oat.attack import distance
from tests.networks import images, labels

NORMS = ("Linf", "L2")


class Linear(nn.Module):
    """Two classes with scores ``0`` and ``w . x``: the gradient of the loss points along -w for class 1."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        score = (x * self.weight).flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("has_random_start", [True, False])
def test_the_attack_stays_in_the_ball_and_in_the_range(model, norm, has_random_start):
    x, y = images(32), labels(32)
    attack = PGD(eps=0.3, eps_step=0.2, nb_steps=5, norm=norm, has_random_start=has_random_start)
    x_adv = attack(model.pinned(), x, y, clip_values=(0.1, 0.8))
    x_clipped = x.clamp(0.1, 0.8)
    assert distance(x, x_adv, norm).max() <= 0.3 + 1e-9 + distance(x, x_clipped, norm).max()
    assert x_adv.min() >= 0.1
    assert x_adv.max() <= 0.8
    assert distance(x, attack(model.pinned(), x, y), norm).max() <= 0.3 + 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_the_attack_raises_the_loss_of_every_sample(model, norm):
    x, y, network = images(32), labels(32), model.pinned()
    loss = nn.CrossEntropyLoss(reduction="none")
    x_adv = PGD(eps=0.05, nb_steps=10, norm=norm, has_random_start=False)(network, x, y, clip_values=(0, 1))
    assert (loss(network(x_adv), y) > loss(network(x), y)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_network_the_attack_reaches_the_exact_worst_case(norm):
    weight = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    x, y = images(6)[:, :, :4, :4], torch.ones(6, dtype=torch.long)
    direction = weight.sign() if norm == "Linf" else weight / weight.norm()
    x_adv = PGD(eps=0.3, eps_step=0.1, nb_steps=60, norm=norm)(Linear(weight), x, y)
    torch.testing.assert_close(x_adv, x - 0.3 * direction.expand_as(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_random_start_is_uniform_in_the_ball(norm):
    x, attack = torch.zeros(20_000, 3), PGD(eps=0.5, norm=norm)
    start = attack._random_start(x, torch.Generator().manual_seed(0))
    share_within_half = (distance(x, start, norm) <= 0.25).double().mean().item()
    # a ball of half the radius holds 1/8 of the volume in 3 dimensions; 4 standard errors of 20,000 draws
    assert share_within_half == pytest.approx(1 / 8, abs=4 * math.sqrt(1 / 8 * 7 / 8 / 20_000))
    assert start.mean(dim=0).abs().max() < 4 * 0.5 / math.sqrt(20_000)


def test_a_batch_that_mixes_lams_is_attacked_as_the_batches_of_each_lam(model):
    x, y, attack = images(), labels(), PGD(eps=0.2, nb_steps=4, has_random_start=False)
    lam = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 1.0, 0.15, 0.8], dtype=torch.float64)
    replica = model.replica()
    replica.aim(lam)
    mixed = attack(replica, x, y)
    for index in range(8):
        one = slice(index, index + 1)
        pinned = model.pinned(type(model.default_point)(float(lam[index])))
        torch.testing.assert_close(mixed[one], attack(pinned, x[one], y[one]))


def test_the_attack_touches_no_parameter_gradient_and_no_statistic(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    PGD(eps=0.2)(model.train().pinned(), images(), labels())
    PGD(eps=0.2)(model.eval(), images(), labels())
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_the_same_generator_state_gives_the_same_attack(model):
    attacked = [
        PGD(eps=0.2)(model.pinned(), images(), labels(), generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(attacked[0], attacked[1])
    assert not torch.equal(attacked[0], attacked[2])


def test_the_result_carries_no_graph(model):
    x = images().requires_grad_()
    assert not any(
        PGD(0.1, has_random_start=start)(model.pinned(), x, labels()).requires_grad for start in (True, False)
    )


def test_bounds_may_differ_from_feature_to_feature(model):
    low, high = torch.zeros(1, 6, 6), torch.ones(1, 6, 6)
    high[:, :3] = 0.5
    x_adv = PGD(eps=0.4)(model.pinned(), images() / 2, labels(), clip_values=(low.numpy(), high.numpy()))
    assert (x_adv <= high).all()
    assert x_adv[:, :, 3:].max() > 0.5


def test_the_default_is_the_published_training_attack():
    assert PGD().nb_steps == 7
    assert PGD().step * 255 == pytest.approx(1.43, abs=0.005)  # arXiv:2010.11828 prints two digits


def test_every_faulty_argument_is_named():
    with pytest.raises(
        ValueError, match=r"eps must.*eps_step must.*nb_steps must.*norm must be 'Linf' or 'L2', got 'L7'"
    ):
        PGD(eps=0, eps_step=-1, nb_steps=0, norm="L7")
