import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence

from art_oat import NFGSM, PGD
from art_oat.attacks import distance
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
    live = model.live_network()
    live.set_lam(lam)
    mixed = attack(live, x, y)
    for index in range(8):
        one = slice(index, index + 1)
        pinned = model.pinned(type(model.default_point)(float(lam[index])))
        torch.testing.assert_close(mixed[one], attack(pinned, x[one], y[one]))


ATTACKS = pytest.mark.parametrize("attack", [PGD(eps=0.2), PGD(eps=0.2, objective="kl"), NFGSM(eps=0.2)])


@ATTACKS
def test_the_attack_touches_no_parameter_gradient_and_no_statistic(model, attack):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attack(model.train().pinned(), images(), labels())
    attack(model.eval(), images(), labels())
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


@ATTACKS
def test_the_same_generator_state_gives_the_same_attack(model, attack):
    attacked = [
        attack(model.pinned(), images(), labels(), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert torch.equal(attacked[0], attacked[1])
    assert not torch.equal(attacked[0], attacked[2])


@pytest.mark.parametrize("attack", [PGD(0.1), PGD(0.1, has_random_start=False), PGD(0.1, objective="kl"), NFGSM(0.1)])
def test_the_result_carries_no_graph(model, attack):
    assert not attack(model.pinned(), images().requires_grad_(), labels()).requires_grad


@pytest.mark.parametrize("attack", [PGD(eps=0.4), PGD(eps=0.4, objective="kl"), NFGSM(eps=0.4)])
def test_bounds_may_differ_from_feature_to_feature(model, attack):
    low, high = torch.zeros(1, 6, 6), torch.ones(1, 6, 6)
    high[:, :3] = 0.5
    x_adv = attack(model.pinned(), images() / 2, labels(), clip_values=(low.numpy(), high.numpy()))
    assert (x_adv >= low).all()
    assert (x_adv <= high).all()
    assert x_adv[:, :, 3:].max() > 0.5


def test_the_default_is_the_published_training_attack():
    assert PGD().nb_steps == 7
    assert PGD().step * 255 == pytest.approx(1.43, abs=0.005)  # arXiv:2010.11828 prints two digits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PGD(eps=0, eps_step=-1, nb_steps=0, norm="L7", objective="margin"),
            r"eps must.*norm must be one of \('Linf', 'L2'\), got 'L7'.*eps_step must.*nb_steps must.*"
            r"objective must be one of \('cross-entropy', 'kl'\), got 'margin'",
        ),
        (
            lambda: PGD(objective="kl", has_random_start=False),
            "has_random_start must be True for objective 'kl', whose gradient is 0 at",
        ),
        (
            lambda: NFGSM(eps=-1, eps_step=0, noise=0),
            r"eps must be a number above 0, got -1\..*eps_step must.*noise must.*got 0\.",
        ),
        *(
            (lambda it=it: NFGSM(noise=it), "noise must be a number above 0, got ")
            for it in (-0.5, math.inf, True, "2")
        ),
    ],
)
def test_every_faulty_argument_is_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


class Recorder(nn.Module):
    """Notes what a network is asked, and the gradient that is taken there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.inputs, self.gradients = network, [], []

    def forward(self, x):
        self.inputs.append(x.detach().clone())
        if x.requires_grad:
            x.register_hook(self.gradients.append)
        return self.network(x)


def random(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(network: nn.Module, x: torch.Tensor, x_adv: torch.Tensor) -> torch.Tensor:
    """How far the scores are from those of ``x``, ``[N]``."""
    return kl_divergence(Categorical(logits=network(x)), Categorical(logits=network(x_adv)))


@pytest.mark.parametrize("norm", NORMS)
def test_the_divergence_of_every_sample_ends_far_above_where_it_started_and_where_chance_takes_it(model, norm):
    x, network = images(32), Recorder(model.pinned())
    x_adv = PGD(eps=0.1, nb_steps=10, norm=norm, objective="kl")(network, x, labels(32), generator=random())
    start = network.inputs[1]
    noise = torch.randn(x.shape, dtype=x.dtype, generator=random(1))
    unit = noise.sign() if norm == "Linf" else noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert (moved(network, x, x_adv) > 100 * moved(network, x, start)).all()
    assert (moved(network, x, x_adv) > moved(network, x, x + 0.1 * unit)).all()
    assert distance(x, x_adv, norm).max() <= 0.1 + 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_network_the_divergence_ends_at_the_side_of_the_ball_where_it_started(norm):
    weight = torch.randn(1, 4, 4, generator=random(0)).double()
    x, network = images(20)[:, :, :4, :4], Recorder(Linear(weight))
    x_adv = PGD(eps=0.3, eps_step=0.1, nb_steps=60, norm=norm, objective="kl")(
        network, x, torch.ones(20, dtype=torch.long), generator=random()
    )
    # of one score the divergence is convex with its least value at x, so that the way up leads away from x
    side = ((network.inputs[1] - x) * weight).flatten(1).sum(dim=1).sign().view(-1, 1, 1, 1)
    assert side.unique().tolist() == [-1, 1]
    direction = weight.sign() if norm == "Linf" else weight / weight.norm()
    # across w, what is left of the start shrinks by 0.3 / 0.4 or more per step at the edge of the L2 ball
    torch.testing.assert_close(x_adv, x + 0.3 * side * direction, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_between_two_equally_likely_classes_the_divergence_reaches_its_largest_value_in_the_ball(norm):
    weight = torch.randn(1, 4, 4, generator=random(0)).double()
    x, network = images(20)[:, :, :4, :4], Linear(weight)
    x = x - network(x)[:, 1].view(-1, 1, 1, 1).detach() * weight / weight.square().sum()
    x_adv = PGD(eps=0.3, eps_step=0.1, nb_steps=60, norm=norm, objective="kl")(
        network, x, torch.zeros(20, dtype=torch.long), generator=random()
    )
    score = 0.3 * float(weight.abs().sum() if norm == "Linf" else weight.norm())  # the furthest from 0 in the ball
    largest = math.log(math.cosh(score / 2))  # KL((1/2, 1/2) || softmax(0, score))
    torch.testing.assert_close(moved(network, x, x_adv), torch.full((20,), largest).double(), rtol=1e-6, atol=0)


def test_the_divergence_starts_from_normal_noise_of_standard_deviation_0_001():
    network, x = Recorder(Linear(torch.ones(40).double())), torch.rand(1000, 40, generator=random()).double()
    PGD(eps=0.1, nb_steps=1, objective="kl")(network, x, torch.zeros(1000).long(), generator=random())
    clean, start = network.inputs
    assert torch.equal(clean, x)
    noise = (start - x).flatten() / 0.001
    nb_draws = noise.numel()
    # 4 standard errors each; the variance of a normal square is 2
    assert noise.mean().item() == pytest.approx(0, abs=4 / math.sqrt(nb_draws))
    assert noise.square().mean().item() == pytest.approx(1, abs=4 * math.sqrt(2 / nb_draws))
    for size in (0.5, 1.0, 2.0, 3.0):
        share = math.erf(size / math.sqrt(2))
        error = math.sqrt(share * (1 - share) / nb_draws)
        assert (noise.abs() <= size).double().mean().item() == pytest.approx(share, abs=4 * error)


@pytest.mark.parametrize("norm", NORMS)
def test_the_start_of_the_divergence_stays_in_a_ball_smaller_than_its_noise_and_in_the_range(norm):
    x = torch.rand(50, 6, generator=random()).double().clamp(0.3, 0.6)  # many values lie at the edge of the range
    network, attack = Recorder(Linear(torch.ones(6).double())), PGD(eps=0.0004, norm=norm, objective="kl")
    x_adv = attack(network, x, torch.zeros(50).long(), clip_values=(0.3, 0.6), generator=random())
    for point in (*network.inputs[1:], x_adv):
        assert distance(x, point, norm).max() <= 0.0004 + 1e-12
        assert point.min() >= 0.3
        assert point.max() <= 0.6


def test_the_divergence_does_not_look_at_labels(model):
    attack, x = PGD(eps=0.1, objective="kl"), images()
    wrong = (labels(), labels() + 1, torch.full((8,), -1))
    first, *others = (attack(model.pinned(), x, y, generator=random()) for y in wrong)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("norm", NORMS)
def test_the_gradient_at_every_step_is_that_of_the_divergence_written_out(model, norm):
    network, x = Recorder(model.pinned()), images()
    PGD(eps=0.1, nb_steps=4, norm=norm, objective="kl")(network, x, labels(), generator=random())
    p = model.pinned()(x).softmax(dim=1).detach()
    assert len(network.gradients) == 4
    for point, gradient in zip(network.inputs[1:], network.gradients, strict=True):
        point.requires_grad_()
        q = model.pinned()(point).softmax(dim=1)
        divergence = (p * (p.log() - q.log())).sum()
        (expected,) = torch.autograd.grad(divergence, point)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)  # rounding, of values near 1e-3 to 1


@pytest.mark.parametrize("norm", NORMS)
def test_the_divergence_is_attacked_as_by_a_slow_reference(model, norm):
    x, network, eps, step = images(), model.pinned(), 0.05, 0.02
    noise = torch.randn(x.shape, dtype=x.dtype, generator=random())
    expected = []
    for one, start in zip(x.split(1), (x + 0.001 * noise).clamp(0.1, 0.9).split(1), strict=True):
        point = start
        for _ in range(5):
            point = point.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(moved(network, one.detach(), point).sum(), point)
            if norm == "Linf":
                delta = (point + step * gradient.sign() - one).clamp(-eps, eps)
            else:
                delta = point + step * gradient / gradient.norm() - one
                delta = delta * min(1, eps / delta.norm().item())
            point = (one + delta).clamp(0.1, 0.9)
        expected.append(point.detach())
    attack = PGD(eps=eps, eps_step=step, nb_steps=5, norm=norm, objective="kl")
    actual = attack(network, x, labels(), clip_values=(0.1, 0.9), generator=random())
    torch.testing.assert_close(actual, torch.cat(expected), rtol=0, atol=1e-10)  # rounding grows along five gradients


def test_one_step_from_noise_equals_a_slow_reference(model):
    x, y, network = images(), labels(), model.pinned()
    eps, eps_step, noise = 0.1, 0.07, 1.5
    shares = torch.rand(x.shape, dtype=x.dtype, generator=random())  # in [0, 1)
    expected = []
    for one, label, share in zip(x, y.tolist(), shares, strict=True):
        noisy = (one - noise * eps + 2 * noise * eps * share).clamp(0, 1).requires_grad_()
        log_p = network(noisy[None])[0].log_softmax(dim=0)[label]
        (gradient,) = torch.autograd.grad(-log_p, noisy)
        expected.append((noisy + eps_step * gradient.sign()).clamp(0, 1).detach())
    actual = NFGSM(eps, eps_step, noise)(network, x, y, clip_values=(0, 1), generator=random())
    torch.testing.assert_close(actual, torch.stack(expected), rtol=0, atol=1e-14)  # rounding of additions


def test_one_step_from_noise_takes_one_gradient(model):
    network = Recorder(model.pinned())
    NFGSM(eps=0.1)(network, images(), labels())
    assert len(network.inputs) == len(network.gradients) == 1


@pytest.mark.parametrize(("eps", "noise"), [(0.1, 2.0), (0.2, 0.5)])
def test_the_noise_of_one_step_is_uniform_of_its_half_width(eps, noise):
    network, x = Recorder(Linear(torch.ones(40).double())), torch.rand(1000, 40, generator=random()).double()
    NFGSM(eps=eps, noise=noise)(network, x, torch.zeros(1000).long(), generator=random())
    shares = (network.inputs[0] - x).flatten() / (noise * eps)
    assert 1 - 1e-3 < shares.abs().max() <= 1 + 1e-12  # of 40,000 the largest is below 1 - 1e-3 with chance e^-40
    for share in (-0.9, -0.5, 0.0, 0.3, 0.8):
        below = (1 + share) / 2
        error = math.sqrt(below * (1 - below) / shares.numel())
        assert (shares <= share).double().mean().item() == pytest.approx(below, abs=4 * error)


def test_the_perturbation_of_one_step_is_not_clipped_to_the_ball():
    eps, eps_step, noise = 0.1, 0.15, 2.0
    network, x = Linear(torch.ones(40).double()), torch.rand(1000, 40, generator=random()).double()
    x_adv = NFGSM(eps, eps_step, noise)(network, x, torch.zeros(1000).long(), generator=random())
    delta = x_adv - x  # class 0 loses along +w: uniform noise moved up by the step
    largest, smallest = noise * eps + eps_step, eps_step - noise * eps
    assert largest - 1e-3 < delta.max() <= largest + 1e-12
    assert smallest - 1e-12 <= delta.min() < smallest + 1e-3
    # what of the noise's range lands outside the ball; 4 standard errors
    share = (largest - eps) / (2 * noise * eps)
    outside = (delta > eps).double().mean().item()
    assert outside == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / delta.numel()))


def test_the_image_of_one_step_is_clipped_before_its_gradient_and_after(model):
    network, x = Recorder(model.pinned()), images(32)
    x_adv = NFGSM(eps=0.3)(network, x, labels(32), clip_values=(0.2, 0.7))
    for point in (network.inputs[0], x_adv):
        assert point.min() == 0.2
        assert point.max() == 0.7


def test_the_step_from_noise_is_eps_unless_given_and_the_noise_twice_that(model):
    x, y = images(), labels()
    default, named, other = (
        attack(model.pinned(), x, y, generator=random())
        for attack in (NFGSM(0.1), NFGSM(0.1, 0.1, 2.0), NFGSM(0.1, 0.05, 2.0))
    )
    assert torch.equal(default, named)
    assert not torch.equal(default, other)


# radii that grow


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    "attack", [PGD(0.2, 0.09, 3), PGD(0.2), PGD(0.2, norm="L2"), NFGSM(0.2), NFGSM(0.2, eps_step=0.1, noise=0.5)]
)
def test_on_a_linear_network_a_scaled_attack_goes_that_share_of_the_way(attack, factor):
    """Its gradient is the same everywhere but for its length, and the start is drawn in units of the radius."""
    network, x, y = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double(), images(8), labels(8) % 2
    moves = [one(network, x, y, generator=random()) - x for one in (attack, attack.scaled(factor))]
    torch.testing.assert_close(moves[1], factor * moves[0], rtol=1e-10, atol=1e-12)
