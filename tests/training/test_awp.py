import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_oat import (
    NFGSM,
    PGD,
    MARTLoss,
    OATClassifier,
    OATTrainer,
    StratifiedSampling,
    TRADESLoss,
    WeightPerturbation,
    fold,
    to_conditional,
)
from art_oat.training import hybrid_loss
from art_oat.training.awp import adversarial_part, uses_clean_scores
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS, MobileSqueezeExcite, Residual, images, labels, shaken

GAMMA = 0.1
SMOOTHING = 0.1
ATTACK = PGD(eps=0.1, nb_steps=2)
X, Y = images(20), labels(20)
SINGLE_X = images(20, torch.float32).numpy()


def values(module: nn.Module) -> dict[str, Tensor]:
    """Copies of parameters and buffers, each under one name."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def is_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def assert_near(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)  # float64, a few thousand sums


def trained_network() -> nn.Module:
    """With dropout, batch norm, biases; in training mode, every part with a value of its own."""
    torch.manual_seed(0)
    return MobileSqueezeExcite().double().train()


def losses(network: nn.Module, nb_losses: int = 1) -> Iterator[Tensor]:
    """Cross-entropies of different inputs, each computed when it is asked for."""
    for seed in range(nb_losses):
        yield F.cross_entropy(network(images(seed=seed)), labels())


def gradients(network: nn.Module, nb_losses: int = 1) -> dict[str, Tensor]:
    """Of the summed losses, by plain autograd on a copy; torch's generators and the network stay as they are."""
    network = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.stack(list(losses(network, nb_losses))).sum().backward()
    return {name: weight.grad for name, weight in network.named_parameters()}


# what is perturbed


@pytest.mark.parametrize("gamma", [0.01, 0.5])
@pytest.mark.parametrize("nb_losses", [1, 3])
@pytest.mark.parametrize("is_partial", [False, True])
def test_weights_move_along_the_gradient_of_the_summed_losses_in_proportion_to_their_size(gamma, nb_losses, is_partial):
    network = trained_network()
    before, gradient = values(network), gradients(network, nb_losses)
    with WeightPerturbation(gamma)(network, lambda: losses(network, nb_losses), is_partial=is_partial):
        for name, weight in network.named_parameters():
            w, v = before[name], gradient[name]
            used = w[v != 0] if is_partial else w
            expected = w + gamma * used.pow(2).sum().sqrt() * v / v.pow(2).sum().sqrt() if w.dim() > 1 else w
            assert_near(weight.detach(), expected)
            assert torch.equal(weight, w) == (w.dim() == 1)


def test_the_loss_rises_as_fast_as_the_lengths_of_weights_and_gradients_say():
    """Along ``||w|| v / ||v||`` the loss has the slope ``sum ||w|| ||v||``, the steepest of steps of these sizes."""
    gamma, network = 1e-6, trained_network().eval()  # without dropout

    def loss() -> Tensor:
        return next(losses(network))

    gradient = gradients(network)
    slope = sum(w.norm() * gradient[name].norm() for name, w in network.named_parameters() if w.dim() > 1)
    before = loss()
    with WeightPerturbation(gamma)(network, lambda: losses(network)):
        after = loss()
    # what is left out is of the second order, gamma times curvature
    assert ((after - before) / gamma / slope).item() == pytest.approx(1, abs=1e-3)


def test_the_perturbation_does_not_depend_on_the_scale_of_the_loss():
    def scaled(scale: float, network: nn.Module) -> Tensor:
        return scale * next(losses(network))

    found = []
    for scale in (1.0, 1e-12, 1e12):
        network = trained_network()
        with WeightPerturbation(GAMMA)(network, functools.partial(scaled, scale, network)):
            found.append(values(network))
    for other in found[1:]:
        assert_near(other, found[0])


@pytest.mark.parametrize(("width", "shape"), [(0.5, (4, 3)), (0.75, (6, 5)), (1.0, (8, 6))])
def test_a_narrow_width_is_perturbed_by_the_size_of_its_own_part_of_a_weight(width, shape):
    model, (after_it, before_it) = to_conditional(Residual().double(), LAMBDAS, widths=WIDTHS).train(), shape
    weight = model.network.body[3].weight  # normalized before and after: no channel is dead for all of the batch
    before = weight.detach().clone()
    with WeightPerturbation(GAMMA)(
        model, lambda: F.cross_entropy(model(images(), 0.3, width), labels()), is_partial=True
    ):
        moved = (weight - before).detach()
    assert moved.norm().item() == pytest.approx(GAMMA * before[:after_it, :before_it].norm().item(), rel=1e-10)
    assert moved[after_it:].count_nonzero() == moved[:, before_it:].count_nonzero() == 0


def test_a_scalar_is_as_good_as_scalars_that_sum_to_it():
    found = []
    for perturb_by in (
        lambda network: torch.stack(list(losses(network, 3))).sum(),
        lambda network: losses(network, 3),
        lambda network: list(losses(network, 3)),
    ):
        network = trained_network().eval()
        with WeightPerturbation(GAMMA)(network, functools.partial(perturb_by, network)):
            found.append(values(network))
    assert_near(found[1], found[0])
    assert_near(found[2], found[0])


def test_frozen_weights_and_those_that_no_loss_depends_on_stay():
    network = trained_network()
    network.spare = nn.Linear(3, 4).double()
    network.head.weight.requires_grad_(False)
    before = values(network)
    with WeightPerturbation(GAMMA)(network, lambda: losses(network)):
        assert torch.equal(network.spare.weight, before["spare.weight"])
        assert torch.equal(network.head.weight, before["head.weight"])
        assert not torch.equal(network.expand[0].weight, before["expand.0.weight"])


def test_weights_of_zeros_and_weights_without_gradient_stay():
    first, second, third = (nn.Linear(3, 3, bias=False).double() for _ in range(3))
    network = nn.Sequential(first, second, third)
    nn.init.zeros_(second.weight)  # hence no gradient reaches the first, and nothing the third
    before = values(network)
    with WeightPerturbation(GAMMA)(network, lambda: F.cross_entropy(network(images()[:, 0, 0, :3]), labels() % 3)):
        assert second.weight.isfinite().all()
        assert is_same(values(network), before)


def test_a_weight_that_is_used_twice_moves_once_along_its_whole_gradient():
    encoder, decoder = nn.Linear(6, 6, bias=False).double(), nn.Linear(6, 6, bias=False).double()
    decoder.weight = encoder.weight
    network, x = nn.Sequential(encoder, nn.Tanh(), decoder), images()[:, 0, 0]
    w = encoder.weight.detach().clone().requires_grad_()
    (v,) = torch.autograd.grad((x @ w.T).tanh().matmul(w.T).square().mean(), w)
    with WeightPerturbation(GAMMA)(network, lambda: network(x).square().mean()):
        assert_near(encoder.weight.detach(), (w + GAMMA * w.norm() * v / v.norm()).detach())
        assert decoder.weight is encoder.weight


def test_a_network_without_weights_of_several_dimensions_is_not_looked_at():
    network = nn.BatchNorm2d(1).double()
    before = values(network)
    with WeightPerturbation(GAMMA)(network, lambda: losses(network)):
        assert is_same(values(network), before)


def test_losses_may_be_computed_where_gradients_are_off():
    network, before = trained_network(), values(trained_network())
    with torch.no_grad(), WeightPerturbation(GAMMA)(network, lambda: losses(network)):
        assert not is_same(values(network), before)


# what comes back


class StopError(Exception):
    """Ends a block."""


@pytest.mark.parametrize("error", [None, StopError, KeyboardInterrupt])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_weights_come_back_to_the_bit_however_the_block_ends(error, memory_format):
    network = trained_network().float().to(memory_format=memory_format)
    before = values(network)

    def run() -> None:
        x = images(dtype=torch.float32)
        with WeightPerturbation(GAMMA)(network, lambda: F.cross_entropy(network(x), labels())):
            assert not torch.equal(network.expand[0].weight, before["expand.0.weight"])
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(error):
            run()
    assert is_same(values(network), before)
    assert network.head.weight.requires_grad


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
def test_where_a_loss_fails_nothing_has_changed(error):
    network, random_state = trained_network(), torch.get_rng_state()
    before = values(network)

    def failing() -> Iterator[Tensor]:
        yield from losses(network)
        network(images())  # draws, and moves statistics
        raise error

    with pytest.raises(error), WeightPerturbation(GAMMA)(network, failing):
        pytest.fail("the block must not run")
    assert is_same(values(network), before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_losses_without_a_finite_gradient_do_no_harm_beyond_the_block():
    network = trained_network()
    before = values(network)
    with WeightPerturbation(GAMMA)(network, lambda: (loss * math.nan for loss in losses(network))):
        pass
    assert is_same(values(network), before)


def test_the_step_after_it_draws_and_counts_as_if_there_had_been_no_pass():
    """The pass in the block meets the dropout and the statistics that it would have met anyway."""
    found = []
    for perturbs in (True, False):
        network, drawn = trained_network(), []
        network.dropout.register_forward_hook(lambda part, inputs, output, drawn=drawn: drawn.append(output == 0))
        passes = functools.partial(losses, network, 3 if perturbs else 0)
        torch.manual_seed(5)
        with WeightPerturbation(1e-300)(network, passes):  # adds less than a rounding
            network(images(seed=7))
        found.append((drawn[-1], values(network), torch.get_rng_state()))
        assert len(drawn) == (4 if perturbs else 1)
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][0].double().mean() > 0.2  # there is something to draw
    assert is_same(found[0][1], found[1][1])
    assert torch.equal(found[0][2], found[1][2])


def test_statistics_that_the_block_itself_moves_are_kept():
    network = trained_network()
    with WeightPerturbation(GAMMA)(network, lambda: losses(network)):
        network(images())
        within = values(network)
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, within[name])
    assert network.expand[1].num_batches_tracked == 1


def test_the_gradients_that_parameters_hold_are_left_alone():
    network = trained_network()
    network.head.weight.grad = torch.full_like(network.head.weight, 3.0)
    with WeightPerturbation(GAMMA)(network, lambda: losses(network)):
        pass
    assert (network.head.weight.grad == 3).all()
    assert all(weight.grad is None for weight in network.parameters() if weight is not network.head.weight)


def test_plain_networks_follow_the_weights_into_the_block_and_out_of_it(model):
    pinned, x = model.pinned(0.3), images()
    before = pinned(x)
    with WeightPerturbation(GAMMA)(model, lambda: F.cross_entropy(model(x, 0.3), labels())):
        assert_near(pinned(x), model(x, 0.3).detach())
        assert not torch.allclose(pinned(x), before, atol=1e-3)
    assert torch.equal(pinned(x), before)


# what it is in numbers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0}, "gamma must be a number above 0, got 0"),
        ({"gamma": -0.01}, "gamma must be .*, got -0.01"),
        ({"gamma": math.nan}, "gamma must be .*, got nan"),
        ({"gamma": math.inf}, "gamma must be .*, got inf"),
        ({"gamma": True}, "gamma must be .*, got True"),
        ({"gamma": "0.01"}, "gamma must be .*, got '0.01'"),
        ({"warmup_epochs": -1}, "warmup_epochs must be a whole number of at least 0, got -1"),
        ({"warmup_epochs": 1.0}, "warmup_epochs must be .*, got 1.0"),
        ({"warmup_epochs": True}, "warmup_epochs must be .*, got True"),
        ({"gamma": 0, "warmup_epochs": None}, "gamma must .*warmup_epochs must .*, got None"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_all_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightPerturbation(**arguments)


def test_the_trainer_refuses_what_is_no_weight_perturbation(classifier):
    for wrong in ("0.01", WeightPerturbation):
        with pytest.raises(TypeError, match="weight_perturbation must be a WeightPerturbation, its gamma or None, got"):
            OATTrainer(classifier, weight_perturbation=wrong)


def test_the_first_epoch_after_the_warmup_is_perturbed():
    assert [WeightPerturbation(warmup_epochs=2).is_due(epoch) for epoch in (1, 2, 3, 4)] == [False, False, True, True]
    assert WeightPerturbation().is_due(1)


# the adversarial part of a loss

LAM = torch.tensor([0.1, 0.1, 0.4, 1.0, 1.0], dtype=torch.float64)
CLASSES = torch.tensor([0, 3, 1, 2, 3])


def scores(seed: int) -> Tensor:
    return torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CLEAN, ATTACKED = scores(0), scores(1)
CHANCES, CHANCES_ADV = CLEAN.softmax(dim=1), ATTACKED.softmax(dim=1)
DIVERGENCE = (CHANCES * (CHANCES / CHANCES_ADV).log()).sum(dim=1)


def of_label(chances: Tensor) -> Tensor:
    return chances[range(5), CLASSES]


def trades_at_one(beta: float) -> Tensor:
    return -of_label(CHANCES).log() + beta * DIVERGENCE


def mart_at_one(beta: float) -> Tensor:
    wrong = CHANCES_ADV.clone()
    wrong[range(5), CLASSES] = 0
    boosted = -of_label(CHANCES_ADV).log() - (1 - wrong.max(dim=1).values).log()
    return boosted + beta * DIVERGENCE * (1 - of_label(CHANCES))


def own_loss(logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: object = None) -> Tensor:
    """Squares of scores; in lam of the third degree."""
    return (lam**3 * logits_adv.square().sum(dim=1) + (2 - lam) * logits.square().sum(dim=1)).mean()


@pytest.mark.parametrize(
    ("loss", "at_one"),
    [
        (hybrid_loss, -of_label(CHANCES_ADV).log()),
        (TRADESLoss(), trades_at_one(6)),
        (TRADESLoss(beta=1.5), trades_at_one(1.5)),
        (MARTLoss(), mart_at_one(5)),
        (own_loss, ATTACKED.square().sum(dim=1) + CLEAN.square().sum(dim=1)),
    ],
)
def test_the_adversarial_part_is_the_mean_of_lam_times_the_loss_at_lam_1(loss, at_one):
    assert_near(adversarial_part(loss, CLEAN, ATTACKED, CLASSES, LAM), (LAM * at_one).mean())


def test_label_smoothing_and_probabilities_as_labels_count_in_the_adversarial_part():
    soft = scores(2).softmax(dim=1)
    smoothed = 0.8 * soft + 0.2 / 4
    actual = adversarial_part(hybrid_loss, CLEAN, ATTACKED, soft, LAM, nn.CrossEntropyLoss(label_smoothing=0.2))
    assert_near(actual, -(LAM * (smoothed * CHANCES_ADV.log()).sum(dim=1)).mean())


@pytest.mark.parametrize(
    ("loss", "at_one"), [(hybrid_loss, -of_label(CHANCES_ADV).log()), (TRADESLoss(), trades_at_one(6))]
)
@pytest.mark.parametrize("weight", [[1.0, 2.0, 0.5, 3.0], [1.0, 0.0, 0.5, 0.0]])  # at lam 0.4 there is class 1 alone
def test_with_class_weights_the_adversarial_part_is_the_weighted_mean(loss, at_one, weight):
    criterion = nn.CrossEntropyLoss(torch.tensor(weight, dtype=torch.float64))
    w = criterion.weight[CLASSES]
    actual = adversarial_part(loss, CLEAN, ATTACKED, CLASSES, LAM, criterion)
    assert_near(actual, (w * LAM * at_one).sum() / w.sum())


def test_a_loss_that_is_a_mean_with_lam_as_a_factor_is_its_own_adversarial_part():
    def linear(logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: object = None) -> Tensor:
        return (lam * logits_adv.exp().sum(dim=1)).mean()

    assert_near(adversarial_part(linear, CLEAN, ATTACKED, CLASSES, LAM), linear(CLEAN, ATTACKED, CLASSES, LAM))


@pytest.mark.parametrize(
    ("loss", "uses"),
    [
        (hybrid_loss, False),
        (TRADESLoss(), True),
        (MARTLoss(), True),
        (own_loss, True),
        (functools.partial(hybrid_loss), True),  # of what is not ours, nothing is known
    ],
)
def test_clean_scores_are_needed_wherever_they_may_enter_the_loss_at_lam_1(loss, uses):
    clean = CLEAN.clone().requires_grad_()
    part = adversarial_part(loss, clean, ATTACKED.clone().requires_grad_(), CLASSES, LAM)
    (gradient,) = torch.autograd.grad(part, clean, allow_unused=True)
    has_gradient = gradient is not None and bool((gradient != 0).any())
    assert uses_clean_scores(loss) == uses
    assert uses or not has_gradient


# in the trainer


def exact_classifier(**conversion: object) -> OATClassifier:
    """In float64, so that what differs by rounding alone is equal to 1e-10."""
    torch.manual_seed(0)
    model = shaken(Residual(), **conversion)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    return OATClassifier(model, criterion, (1, 6, 6), 5, optimizer, clip_values=(0, 1))


def fit(classifier: OATClassifier, **options: object) -> OATTrainer:
    """Two epochs of two steps."""
    arguments = {"attack": ATTACK, "weight_perturbation": WeightPerturbation(GAMMA), "seed": 3, **options}
    trainer = OATTrainer(classifier, **arguments)
    dtype = np.float64 if classifier.model.encoding.table.dtype == torch.float64 else np.float32
    trainer.fit(X.numpy().astype(dtype), Y.numpy(), batch_size=10, nb_epochs=2, verbose=False)
    return trainer


def per_sample(kind: str, clean: Tensor, attacked: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of an objective, one that lam weighs down and one that it weighs up, of attacked samples."""
    cross_entropy = -(target * clean.log_softmax(dim=1)).sum(dim=1)
    adversarial = -(target * attacked.log_softmax(dim=1)).sum(dim=1)
    p, q = clean.softmax(dim=1), attacked.softmax(dim=1)
    divergence = (p * (p / q).log()).sum(dim=1)
    if kind == "oat":
        return cross_entropy, adversarial
    if kind == "trades":
        return cross_entropy, cross_entropy + 6 * divergence
    label = F.one_hot(target.argmax(dim=1), 5).bool()
    rest = (1 - q.masked_fill(label, 0).max(dim=1).values).log()
    return cross_entropy, adversarial - rest + 5 * divergence * (1 - p[label])


def attack_of(kind: str) -> PGD:
    return PGD(eps=0.1, nb_steps=2, objective="kl" if kind == "trades" else "cross-entropy")


def one_step_written_out(
    classifier: OATClassifier,
    kind: str,
    widths: tuple[float, ...] | None,
    *,
    gamma: float,
    distills: bool = False,
    seed: int = 3,
) -> dict[str, Tensor]:
    """One perturbation by the gradient of the lam-weighted sum over widths, then one step of plain gradient descent.

    Without widths, one is drawn.
    """
    model, generator = classifier.model, torch.Generator().manual_seed(seed)
    torch.randint(2**31, (), generator=generator)  # the seed of dropout
    order = torch.randperm(20, generator=generator)
    order = order[torch.randperm(20, generator=generator)]
    x, target = X[order], (1 - SMOOTHING) * F.one_hot(Y[order], 5).double() + SMOOTHING / 5
    lam = StratifiedSampling().draw(LAMBDAS, 20, generator)
    widths = widths or (WIDTHS[int(torch.randint(3, (), generator=generator))],)
    is_attacked = lam > 0
    lam_adv, weights = lam[is_attacked], [weight for weight in model.parameters() if weight.dim() > 1]

    def scores_at(width: float) -> tuple[Tensor, Tensor]:
        return model(x, lam, width), model(attacked[width], lam_adv, width)

    model.eval()
    attacked = {}
    for width in widths:
        attacked[width] = attack_of(kind)(
            lambda x, width=width: model(x, lam_adv, width),
            x[is_attacked], target.argmax(dim=1)[is_attacked], clip_values=(0, 1), generator=generator,
        )  # fmt: skip
    before, buffers = values(model), [buffer.clone() for buffer in model.buffers()]
    model.train()
    total = torch.zeros((), dtype=torch.float64)
    for width in widths:
        # without the samples of lam 0, which see the other side of every norm
        clean, adversarial = model(x[is_attacked], lam_adv, width), model(attacked[width], lam_adv, width)
        total = total + (lam_adv * per_sample(kind, clean, adversarial, target[is_attacked])[1]).mean()
    with torch.no_grad():
        for weight, v in zip(weights, torch.autograd.grad(total, weights, allow_unused=True), strict=True):
            if v is not None and v.norm() > 0:
                used = weight if 1.0 in widths else weight * (v != 0)
                weight.add_(gamma * used.norm() * v / v.norm())
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)
    losses = []
    taught = target
    for width in widths:
        clean, adversarial = scores_at(width)
        down, up = per_sample(kind, clean[is_attacked], adversarial, taught[is_attacked])
        natural = -(taught[~is_attacked] * clean[~is_attacked].log_softmax(dim=1)).sum(dim=1)
        losses.append((((1 - lam_adv) * down + lam_adv * up).sum() + natural.sum()) / 20)
        if distills and width == 1:
            taught = clean.softmax(dim=1).detach()
    parameters = dict(model.named_parameters())
    gradient = dict(zip(parameters, torch.autograd.grad(sum(losses), parameters.values(), allow_unused=True),
                        strict=True))  # fmt: skip
    after = values(model)
    for name, step in gradient.items():
        after[name] = before[name] if step is None else before[name] - 0.05 * step
    return after


@pytest.mark.parametrize("kind", ["oat", "trades", "mart"])
@pytest.mark.parametrize(
    ("widths", "options"),
    [
        ((1.0,), {}),
        (WIDTHS, {"width_sampling": "all"}),
        (WIDTHS, {"width_sampling": "all", "distills": True}),
    ],
)
def test_one_step_equals_the_method_written_out(kind, widths, options):
    loss = {"oat": hybrid_loss, "trades": TRADESLoss(), "mart": MARTLoss()}[kind]
    classifier = exact_classifier(widths=widths)
    trainer = OATTrainer(
        classifier, attack=attack_of(kind), loss=loss, seed=3, weight_perturbation=WeightPerturbation(GAMMA), **options
    )
    trainer.fit(X.numpy(), Y.numpy(), batch_size=20, nb_epochs=1, verbose=False)
    distills = options.get("distills", False)
    expected, unperturbed = (
        one_step_written_out(exact_classifier(widths=widths), kind, widths[::-1], gamma=gamma, distills=distills)
        for gamma in (GAMMA, 0.0)
    )
    actual = values(classifier.model)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)  # float64, some ten thousand sums
    assert not torch.allclose(actual["network.head.weight"], unperturbed["network.head.weight"], atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 5])  # draw 0.75, 1 and 0.5
def test_one_step_at_a_random_width_equals_the_method_written_out(seed):
    classifier = exact_classifier(widths=WIDTHS)
    options = {"width_sampling": "random", "weight_perturbation": WeightPerturbation(GAMMA), "seed": seed}
    OATTrainer(classifier, attack=ATTACK, **options).fit(
        X.numpy(), Y.numpy(), batch_size=20, nb_epochs=1, verbose=False
    )
    expected = one_step_written_out(exact_classifier(widths=WIDTHS), "oat", None, gamma=GAMMA, seed=seed)
    torch.testing.assert_close(values(classifier.model), expected, rtol=1e-9, atol=1e-9)  # as above


def test_a_single_perturbation_is_shared_by_all_widths():
    """Weights that several widths share stand at one place while the step takes its gradient."""
    classifier, seen = exact_classifier(widths=WIDTHS), []
    stem = classifier.model.network.body[0].weight

    def note(logits: Tensor, logits_adv: Tensor, y: Tensor, lam: Tensor, criterion: object = None) -> Tensor:
        seen.append((len(y), stem.detach().clone()))
        return hybrid_loss(logits, logits_adv, y, lam)

    before = stem.detach().clone()
    trainer = OATTrainer(
        classifier, attack=ATTACK, loss=note, width_sampling="all", weight_perturbation=WeightPerturbation(GAMMA)
    )
    trainer.fit(X.numpy(), Y.numpy(), batch_size=20, nb_epochs=1, verbose=False)
    in_block = [weight for count, weight in seen if count == 20]
    assert len(in_block) == 3
    assert all(torch.equal(weight, in_block[0]) for weight in in_block)
    assert all(torch.equal(weight, before) for count, weight in seen if count < 20)
    assert (in_block[0] - before).norm() == pytest.approx(GAMMA * before.norm().item(), rel=1e-10)


def test_at_lam_1_alone_it_is_at_awp_as_published():
    """Against the published form: a copy of the network takes a step of SGD up the loss, in training mode.

    The difference that it makes, at the length of the weights times gamma, is added to them for the step. The weights
    called ``weight`` of a plain network that has more than one dimension are all there are.
    """
    plain = Residual().double().train()
    model = to_conditional(plain, (1.0,), film_on=())
    classifier = OATClassifier(
        model, nn.CrossEntropyLoss(), (1, 6, 6), 5, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        clip_values=(0, 1),
    )  # fmt: skip
    fit(classifier)
    optimizer, generator = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9), torch.Generator().manual_seed(3)
    torch.randint(2**31, (), generator=generator)  # the seed of dropout
    for _ in range(2):
        for batch in torch.randperm(20, generator=generator).split(10):
            order = batch[torch.randperm(10, generator=generator)]
            StratifiedSampling().draw((1.0,), 10, generator)
            x, y = X[order], Y[order]
            x_adv = ATTACK(plain.eval(), x, y, clip_values=(0, 1), generator=generator)
            step_of_at_awp(plain.train(), optimizer, x, x_adv, y)
    torch.testing.assert_close(
        values(fold(model, 1.0)), values(plain), rtol=1e-8, atol=1e-8
    )  # float64; a difference of weights, of which the proxy's step is one, loses some digits


def step_of_at_awp(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, x_adv: Tensor, y: Tensor) -> None:
    proxy = copy.deepcopy(network)
    ascent = torch.optim.SGD(proxy.parameters(), lr=1.0)
    ascent.zero_grad()
    (-F.cross_entropy(proxy(x_adv), y)).backward()
    ascent.step()
    moved = dict(proxy.named_parameters())
    shifts = {}
    for name, weight in network.named_parameters():
        if weight.dim() > 1 and "weight" in name:
            difference = (moved[name] - weight).detach()
            shifts[name] = GAMMA * weight.detach().norm() / (difference.norm() + 1e-20) * difference
    weights = dict(network.named_parameters())
    with torch.no_grad():
        for name, shift in shifts.items():
            weights[name] += shift
    network(x)  # the pass on clean inputs has weight 0, but the norms see it
    optimizer.zero_grad()
    F.cross_entropy(network(x_adv), y).backward()
    with torch.no_grad():
        for name, shift in shifts.items():
            weights[name] -= shift
    optimizer.step()


def single(make: Callable[[], nn.Module] = MobileSqueezeExcite, **conversion: object) -> OATClassifier:
    """With dropout, in float32."""
    torch.manual_seed(0)
    model = to_conditional(make(), **{"lambdas": LAMBDAS, **conversion})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))


COMBINATIONS = {
    "plain": ({}, {}),
    "bf16": ({"precision": "bf16"}, {}),
    "average": ({"ema": 0.9}, {}),
    "trades": ({"loss": TRADESLoss(), "attack": "pgd-7"}, {}),
    "mart": ({"loss": MARTLoss()}, {}),
    "one step": ({"attack": NFGSM(eps=0.1)}, {}),
    "attack from outside": ({"attack": lambda network, x, y: x * torch.rand_like(x)}, {}),
    "all widths": ({"width_sampling": "all"}, {"widths": WIDTHS}),
    "a random width": ({"width_sampling": "random"}, {"widths": WIDTHS}),
    "distilled": ({"width_sampling": "all", "distills": True}, {"widths": WIDTHS, "heads": "per-width"}),
    "all of it": (
        {
            "precision": "bf16", "ema": 0.9, "loss": MARTLoss(), "attack": NFGSM(eps=0.1),
            "width_sampling": "all", "distills": True,
        },
        {"widths": WIDTHS},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMBINATIONS)
def test_with_any_method_a_vanishing_perturbation_changes_no_bit_and_a_large_one_does(name):
    """A weight plus 1e-30 is that weight in float32: draws, statistics and gradients must be what they are without."""
    method, conversion = COMBINATIONS[name]
    found = []
    for perturbation in (None, WeightPerturbation(1e-30), WeightPerturbation(0.3)):
        classifier = single(**conversion)
        torch.manual_seed(len(found))  # the global generator has no say
        random_state = torch.get_rng_state()
        trainer = fit(classifier, weight_perturbation=perturbation, **method)
        assert torch.equal(torch.get_rng_state(), random_state)
        momenta = [part["momentum_buffer"] for part in classifier.optimizer.state.values()]
        found.append((values(classifier.model), momenta, trainer._generator.get_state()))
    without, vanishing, large = found
    torch.testing.assert_close(vanishing, without, rtol=0, atol=0)
    assert not is_same(large[0], without[0])
    assert all(tensor.isfinite().all() for tensor in large[0].values())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_all_passes_of_a_perturbed_step_run_in_the_precision_asked_for(precision):
    classifier, seen = single(Residual), []

    def note(part: nn.Module, inputs: object, result: Tensor) -> None:
        if part.training:  # plain networks, which have the hook as well, never are
            seen.append(result.dtype)

    classifier.model.network.head.register_forward_hook(note)
    fit(classifier, precision=precision, attack=lambda network, x, y: x)
    nb_passes = 2 * 2 * (1 + 2)  # two epochs of two steps, each on attacked inputs, then on clean and attacked ones
    assert seen == nb_passes * [{"float32": torch.float32, "bf16": torch.bfloat16}[precision]]


def test_the_epochs_of_the_warmup_are_those_of_a_training_without():
    states = {}
    for name, perturbation in {
        "none": None,
        "after one": WeightPerturbation(GAMMA, warmup_epochs=1),
        "after two": WeightPerturbation(GAMMA, warmup_epochs=2),
    }.items():
        states[name] = []
        classifier = single()
        trainer = OATTrainer(classifier, attack=ATTACK, weight_perturbation=perturbation)
        trainer.fit(
            SINGLE_X, Y.numpy(), batch_size=10, nb_epochs=3, verbose=False,
            callbacks=[lambda _, name=name, kept=classifier: states[name].append(values(kept.model))],
        )  # fmt: skip
    for name, nb_same in {"after one": 1, "after two": 2}.items():
        same = [is_same(mine, other) for mine, other in zip(states[name], states["none"], strict=True)]
        assert same == [epoch < nb_same for epoch in range(3)]


def test_the_warmup_is_over_for_a_second_call_of_fit():
    states = []
    for warmup in (0, 1):
        classifier = single()
        trainer = OATTrainer(classifier, attack=ATTACK)  # the first call is not perturbed, whatever the warmup
        trainer.fit(SINGLE_X, Y.numpy(), nb_epochs=1, verbose=False)
        perturbation = WeightPerturbation(GAMMA, warmup_epochs=warmup)
        trainer.method = replace(trainer.method, weight_perturbation=perturbation)
        trainer.fit(SINGLE_X, Y.numpy(), nb_epochs=1, verbose=False)
        states.append(values(classifier.model))
    assert is_same(states[0], states[1])


@pytest.mark.parametrize("case", ["lam 0 alone", "a batch of one sample, whose lam is 0"])
def test_where_no_sample_is_attacked_nothing_is_perturbed(case):
    lambdas, nb_samples = ((0.0,), 20) if case == "lam 0 alone" else (LAMBDAS, 1)
    states = []
    for perturbation in (None, WeightPerturbation(GAMMA)):
        classifier = single(Residual, lambdas=lambdas)
        trainer = OATTrainer(classifier, attack=ATTACK, weight_perturbation=perturbation)
        trainer.fit(SINGLE_X[:nb_samples], Y.numpy()[:nb_samples], batch_size=10, nb_epochs=2, verbose=False)
        states.append(values(classifier.model))
    assert is_same(states[0], states[1])


class Recording(torch.optim.SGD):
    """Notes the state of a model before and after every step."""

    model: nn.Module

    def __init__(self, parameters: object, **options: object) -> None:
        super().__init__(parameters, **options)
        self.before: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []

    def step(self, closure: None = None) -> None:
        self.before.append(values(self.model))
        super().step(closure)
        self.after.append(values(self.model))


def recorded(widths: tuple[float, ...]) -> OATClassifier:
    classifier = make_classifier(widths=widths)
    optimizer = Recording(classifier.model.parameters(), lr=0.05, momentum=0.9)
    optimizer.model = classifier.model
    classifier.set_params(optimizer=optimizer)
    return classifier


def spoiled_at(call: int, spoil: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The usual loss, but spoiled in the call of this number, counted from 1."""
    numbers = iter(range(1, 1000))

    def loss(*arguments: object) -> Tensor:
        result = hybrid_loss(*arguments)
        return spoil(result) if next(numbers) == call else result

    return loss


def calls_of_one_step(widths: tuple[float, ...]) -> int:
    """Per width one per lam above 0, which a batch of 20 all has, and one for the step."""
    return len(widths) * (len(LAMBDAS) - 1 + 1)


@pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
@pytest.mark.parametrize("where", ["in what is perturbed by", "in the first width of the step", "in the last"])
def test_a_training_that_diverges_while_perturbed_leaves_the_last_good_state(widths, where):
    per_step = calls_of_one_step(widths)
    within = {"in what is perturbed by": 1, "in the first width of the step": per_step - len(widths) + 1}
    call = 2 * per_step + within.get(where, per_step)  # in the third step
    classifier = recorded(widths)
    trainer = OATTrainer(
        classifier, attack=ATTACK, loss=spoiled_at(call, lambda loss: loss * math.nan), width_sampling="all",
        weight_perturbation=WeightPerturbation(GAMMA),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="training must stay finite, got a loss of nan in epoch 3"):
        trainer.fit(SINGLE_X, Y.numpy(), batch_size=20, nb_epochs=3, verbose=False)
    assert len(classifier.optimizer.before) == 2
    after = values(classifier.model)
    assert is_same(after, classifier.optimizer.before[-1])  # finite loss and gradient
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert all(parameter.grad is None for parameter in classifier.model.parameters())


@pytest.mark.parametrize("call_within", ["first", "last"])
def test_a_cut_in_a_perturbed_step_leaves_the_weights_of_the_step_before(call_within):
    def interrupt(loss: Tensor) -> Tensor:
        raise KeyboardInterrupt

    per_step = calls_of_one_step((1.0,))
    call = 2 * per_step + (1 if call_within == "first" else per_step)
    classifier = recorded((1.0,))
    trainer = OATTrainer(
        classifier, attack=ATTACK, loss=spoiled_at(call, interrupt), weight_perturbation=WeightPerturbation(GAMMA)
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(SINGLE_X, Y.numpy(), batch_size=20, nb_epochs=3, verbose=False)
    for name, weight in classifier.model.named_parameters():
        assert torch.equal(weight, classifier.optimizer.after[-1][name])


def test_a_faulty_network_is_named_and_left_alone_when_it_is_first_asked_in_the_perturbing_pass():
    class WithExtras(Residual):
        def forward(self, x: Tensor) -> object:
            result = super().forward(x)
            return (result, result) if self.training else result

    classifier = single(WithExtras)
    before = values(classifier.model)
    with pytest.raises(TypeError, match=r"scores \[N, 5\] also in training mode, got a tuple"):
        fit(classifier)
    assert is_same(values(classifier.model), before)
