import pytest
import torch

from art_oat.attacks import bind, distance
from art_oat.attacks.ball import BallAttack
from art_oat.attacks.registry import AttackSpec, kind_of
from tests.conftest import make_classifier
from tests.networks import images, labels


def far(_name, _network, x, _y, ball):
    """Half of the samples leave the ball, to its edge times three; the others reach half of it."""
    share = torch.where(torch.arange(len(x)) % 2 == 0, 3.0, 0.5).view(-1, 1, 1, 1)
    direction = torch.where(x > 0.5, -1.0, 1.0)
    size = 1 if ball.norm == "Linf" else direction[0].numel() ** (1 / {"L2": 2, "L1": 1}[ball.norm])
    return x + direction * ball.eps * share / size


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("clip_values", [(0, 1), (-1, 3)])
def test_beyond_the_ball_an_example_is_taken_back_in_evaluation_and_moved_onto_it_in_training(norm, clip_values):
    span = clip_values[1] - clip_values[0]
    x, y = images(dtype=torch.float32) * span + clip_values[0], labels()
    for is_training, edge in ((False, 0.0), (True, 1.0)):
        attack = BallAttack("it:far", far, 0.1 * span, norm, is_training=is_training)
        x_adv = attack(torch.nn.Identity(), x, y, clip_values=clip_values)
        expected = torch.tensor([edge, 0.5]).repeat(len(x) // 2) * 0.1 * span
        torch.testing.assert_close(distance(x, x_adv, norm), expected, rtol=1e-4, atol=1e-5 * span)


def stochastic(_name, network, x, _y, ball):
    network(x.clone().requires_grad_()).sum().backward()  # as libraries do that know nothing of torch.autograd.grad
    return x + ball.eps * (2 * torch.rand_like(x) - 1)


def test_it_repeats_by_the_generator_alone_and_leaves_no_gradient_in_a_network_that_trains():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 5))
    attack = BallAttack("it:noise", stochastic, 0.1)
    x, y = images(dtype=torch.float32), labels()
    state = torch.get_rng_state()
    first, again, other = (
        attack(network, x, y, clip_values=(0, 1), generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(it.grad is None and it.requires_grad for it in network.parameters())


def test_its_radius_grows_with_that_of_a_training():
    assert BallAttack("it:far", far, 0.2, eps_step=0.1).scaled(0.5) == BallAttack("it:far", far, 0.1, eps_step=0.05)


def test_inputs_without_a_range_are_refused():
    classifier = make_classifier(clip_values=None)
    with pytest.raises(ValueError, match="needs the classifier's clip_values"):
        kind_of("secmltorch:PGD").evaluate(AttackSpec("secmltorch:PGD", 0.1), classifier)


@pytest.mark.parametrize("library", ["advlib", "secmltorch"])
@pytest.mark.parametrize("clip_values", [(0, 1), (0, 255)])
def test_within_a_lam_per_sample_a_bound_attack_stays_in_the_ball_in_units_of_the_inputs(library, clip_values):
    classifier = make_classifier(clip_values=clip_values)
    x, y = images(dtype=torch.float32) * clip_values[1], labels()
    attack = BallAttack(f"{library}:it", far, 0.05 * clip_values[1], is_training=True)
    lam = torch.tensor([1.0, 0.1, 0.3, 0.1, 1.0, 0.3, 0.1, 0.4])
    x_adv = bind(attack, classifier)(x, y, lam)
    assert distance(x, x_adv, "Linf").max() <= 0.05 * clip_values[1] * (1 + 1e-4)
