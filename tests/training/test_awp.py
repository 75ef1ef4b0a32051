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
from tests.networks import LAMBDAS, WIDTHS, MobileSqueezeExcite, Residual, changed, images, labels, shaken, state
from tests.training.trained import classifier_of, is_same

GAMMA = 0.1
SMOOTHING = 0.1
ATTACK = PGD(eps=0.1, nb_steps=2)
X, Y = images(20), labels(20)
SINGLE_X = images(20, torch.float32).numpy()


def assert_near(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)  # float64, a few thousand sums


def trained_network() -> nn.Module:
    """With dropout, batch norm, biases; in training mode, every part with a value of its own."""
    torch.manual_seed(0)
    return MobileSqueezeExcite().double().train()


def losses(network: nn.Module, nb_losses: int = 1, scale: float = 1.0) -> Iterator[Tensor]:
    """Cross-entropies of different inputs, each computed when it is asked for."""
    for seed in range(nb_losses):
        yield scale * F.cross_entropy(network(images(seed=seed)), labels())


def gradients(network: nn.Module, nb_losses: int) -> dict[str, Tensor]:
    """Of the summed losses, by plain autograd on a copy; torch's generators and the network do not change."""
    network = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.stack(list(losses(network, nb_losses))).sum().backward()
    return {name: weight.grad for name, weight in network.named_parameters()}


# what is perturbed


@pytest.mark.parametrize("is_partial", [False, True])
@pytest.mark.parametrize(
    ("gamma", "nb_losses", "scale", "form"),
    [
        (0.01, 1, 1.0, iter),
        (0.5, 3, 1.0, iter),
        (0.1, 1, 1e-12, next),  # a scalar
        (0.1, 3, 1e12, list),
        (0.1, 3, 1.0, lambda found: torch.stack(list(found)).sum()),
    ],
)
def test_weights_move_along_the_gradient_of_the_summed_losses_in_proportion_to_their_size(
    gamma, nb_losses, scale, form, is_partial
):
    """Whatever the scale of the loss is, and whether its parts come as a scalar, a list or one by one."""
    network = trained_network()
    before, gradient = state(network), gradients(network, nb_losses)
    with WeightPerturbation(gamma)(network, lambda: form(losses(network, nb_losses, scale)), is_partial=is_partial):
        for name, weight in network.named_parameters():
            w, v = before[name], gradient[name]
            used = w[v != 0] if is_partial else w
            expected = w + gamma * used.pow(2).sum().sqrt() * v / v.pow(2).sum().sqrt() if w.dim() > 1 else w
            assert_near(weight.detach(), expected)
            assert torch.equal(weight, w) == (w.dim() == 1)


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


def test_frozen_weights_and_those_that_no_loss_depends_on_stay():
    network = trained_network()
    network.spare = nn.Linear(3, 4).double()
    network.head.weight.requires_grad_(False)
    before = state(network)
    with torch.no_grad(), WeightPerturbation(GAMMA)(network, lambda: losses(network)):  # which need not be on outside
        moved = changed(network, before)
    assert moved == {f"{name}.weight" for name in ("expand.0", "depthwise.0", "squeeze.1", "squeeze.3")}


def test_weights_of_zeros_and_weights_without_gradient_stay():
    network = nn.Sequential(*(nn.Linear(3, 3, bias=False).double() for _ in range(3)))
    nn.init.zeros_(network[1].weight)  # hence no gradient reaches the first, and nothing the third
    before = state(network)
    with WeightPerturbation(GAMMA)(network, lambda: F.cross_entropy(network(images()[:, 0, 0, :3]), labels() % 3)):
        assert not changed(network, before)


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
    before = state(network)
    with WeightPerturbation(GAMMA)(network, lambda: losses(network)):
        assert not changed(network, before)


# what comes back


class StopError(Exception):
    """Ends a block."""


@pytest.mark.parametrize("error", [None, StopError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("memory_format", "scale"),
    [(torch.contiguous_format, 1.0), (torch.channels_last, 1.0), (torch.contiguous_format, math.nan)],
)
def test_weights_come_back_to_the_bit_however_the_block_ends(error, memory_format, scale):
    network = trained_network().float().to(memory_format=memory_format)
    before, x = state(network), images(dtype=torch.float32)

    def run() -> None:
        with WeightPerturbation(GAMMA)(network, lambda: scale * F.cross_entropy(network(x), labels())):
            assert "expand.0.weight" in changed(network, before)
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(error):
            run()
    assert not changed(network, before)
    assert network.head.weight.requires_grad


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
def test_where_a_loss_fails_nothing_has_changed(error):
    network, random_state = trained_network(), torch.get_rng_state()
    before = state(network)

    def failing() -> Iterator[Tensor]:
        yield from losses(network)
        network(images())  # draws, and moves statistics
        raise error

    with pytest.raises(error), WeightPerturbation(GAMMA)(network, failing):
        pytest.fail("the block must not run")
    assert not changed(network, before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_step_after_it_draws_and_counts_as_if_there_had_been_no_pass():
    """The pass in the block meets the dropout and the statistics that it would have met anyway, and moves them."""
    found = []
    for nb_losses in (3, 0):
        network, drawn = trained_network(), []
        network.dropout.register_forward_hook(lambda part, inputs, output, drawn=drawn: drawn.append(output == 0))
        torch.manual_seed(5)
        perturbed = WeightPerturbation(1e-300)(network, lambda network=network, n=nb_losses: losses(network, n))
        with perturbed:  # adds less than a rounding
            network(images(seed=7))
        found.append({**state(network), "drawn": drawn[-1], "generator": torch.get_rng_state()})
        assert len(drawn) == nb_losses + 1
    assert is_same(*found)
    assert found[0]["drawn"].double().mean() > 0.2  # there is something to draw
    assert found[0]["expand.1.num_batches_tracked"] == 1


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
        ({"warmup_epochs": -1}, "warmup_epochs must be a whole number, at least 0, got -1"),
        ({"warmup_epochs": 1.0}, "warmup_epochs must be .*, got 1.0"),
        ({"warmup_epochs": True}, "warmup_epochs must be .*, got True"),
        ({"gamma": 0, "warmup_epochs": None}, "gamma must .*warmup_epochs must .*, got None"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_all_at_once(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        WeightPerturbation(**arguments)


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
    ("loss", "at_one", "weight"),
    [
        *((*case, weight) for weight in (None, [1.0, 2.0, 0.5, 3.0], [1.0, 0.0, 0.5, 0.0]) for case in (
            (hybrid_loss, -of_label(CHANCES_ADV).log()),
            (TRADESLoss(), trades_at_one(6)),
            (TRADESLoss(beta=1.5), trades_at_one(1.5)),
            (MARTLoss(), mart_at_one(5)),
        )),
        (own_loss, ATTACKED.square().sum(dim=1) + CLEAN.square().sum(dim=1), None),
    ],
)  # fmt: skip
def test_the_adversarial_part_is_the_weighted_mean_of_lam_times_the_loss_at_lam_1(loss, at_one, weight):
    """Of the last weights, all samples of lam 0.4 have weight 0."""
    criterion = None if weight is None else nn.CrossEntropyLoss(torch.tensor(weight, dtype=torch.float64))
    w = torch.ones(5, dtype=torch.float64) if criterion is None else criterion.weight[CLASSES]
    actual = adversarial_part(loss, CLEAN, ATTACKED, CLASSES, LAM, criterion)
    assert_near(actual, (w * LAM * at_one).sum() / w.sum())


def test_label_smoothing_and_probabilities_as_labels_count_in_the_adversarial_part():
    soft = scores(2).softmax(dim=1)
    smoothed = 0.8 * soft + 0.2 / 4
    actual = adversarial_part(hybrid_loss, CLEAN, ATTACKED, soft, LAM, nn.CrossEntropyLoss(label_smoothing=0.2))
    assert_near(actual, -(LAM * (smoothed * CHANCES_ADV.log()).sum(dim=1)).mean())


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
    classifier = classifier_of(model, 0.05)
    classifier.set_params(loss=nn.CrossEntropyLoss(label_smoothing=SMOOTHING))
    return classifier


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


def values(module: nn.Module) -> dict[str, Tensor]:
    """Copies of parameters and buffers, each under one name."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in named.items()}


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


@pytest.mark.parametrize(
    ("kind", "widths", "options", "seed"),
    [
        *((kind, *case, 3) for kind in ("oat", "trades", "mart") for case in (
            ((1.0,), {"width_sampling": "all"}),
            (WIDTHS, {"width_sampling": "all"}),
            (WIDTHS, {"width_sampling": "all", "distills": True}),
        )),
        *(("oat", WIDTHS, {"width_sampling": "random"}, seed) for seed in (0, 1, 5)),  # draw 0.75, 1 and 0.5
    ],
)  # fmt: skip
def test_one_step_equals_the_method_written_out(kind, widths, options, seed):
    """So all widths share one perturbation."""
    loss = {"oat": hybrid_loss, "trades": TRADESLoss(), "mart": MARTLoss()}[kind]
    classifier = exact_classifier(widths=widths)
    trainer = OATTrainer(classifier, attack=attack_of(kind), loss=loss, seed=seed, weight_perturbation=GAMMA, **options)
    trainer.fit(X.numpy(), Y.numpy(), batch_size=20, nb_epochs=1, verbose=False)
    drawn = None if options["width_sampling"] == "random" else widths[::-1]
    distills = options.get("distills", False)
    expected, unperturbed = (
        one_step_written_out(exact_classifier(widths=widths), kind, drawn, gamma=gamma, distills=distills, seed=seed)
        for gamma in (GAMMA, 0.0)
    )
    actual = values(classifier.model)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)  # float64, some ten thousand sums
    assert not torch.allclose(actual["network.head.weight"], unperturbed["network.head.weight"], atol=1e-5)


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
            step_of_at_awp(plain.train(), optimizer, x_adv, y)
    torch.testing.assert_close(
        state(fold(model, 1.0)), state(plain), rtol=1e-8, atol=1e-8
    )  # float64; a difference of weights, of which the proxy's step is one, loses some digits


def step_of_at_awp(network: nn.Module, optimizer: torch.optim.Optimizer, x_adv: Tensor, y: Tensor) -> None:
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
    classifier = classifier_of(model)
    classifier.set_params(optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    return classifier


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


@pytest.mark.slow(seconds=1)
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
        found.append((state(classifier.model), momenta, trainer._generator.get_state()))
    without, vanishing, large = found
    torch.testing.assert_close(vanishing, without, rtol=0, atol=0)
    assert not is_same(large[0], without[0])
    assert all(tensor.isfinite().all() for tensor in large[0].values())


def test_the_epochs_of_the_warmup_are_those_of_a_training_without():
    states = {}
    for nb_same, perturbation in ((3, None), (1, WeightPerturbation(GAMMA, 1)), (2, WeightPerturbation(GAMMA, 2))):
        classifier, kept = single(), []
        trainer = OATTrainer(classifier, attack=ATTACK, weight_perturbation=perturbation)
        note = lambda _, classifier=classifier, kept=kept: kept.append(state(classifier.model))  # noqa: E731
        trainer.fit(SINGLE_X, Y.numpy(), batch_size=10, nb_epochs=3, verbose=False, callbacks=[note])
        same = [is_same(mine, other) for mine, other in zip(kept, states.setdefault("none", kept), strict=True)]
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
        states.append(state(classifier.model))
    assert is_same(states[0], states[1])


@pytest.mark.parametrize(("lambdas", "nb_samples"), [((0.0,), 20), (LAMBDAS, 1)])  # a single sample has lam 0
def test_where_no_sample_is_attacked_nothing_is_perturbed(lambdas, nb_samples):
    states = []
    for perturbation in (None, WeightPerturbation(GAMMA)):
        classifier = single(Residual, lambdas=lambdas)
        trainer = OATTrainer(classifier, attack=ATTACK, weight_perturbation=perturbation)
        trainer.fit(SINGLE_X[:nb_samples], Y.numpy()[:nb_samples], batch_size=10, nb_epochs=2, verbose=False)
        states.append(state(classifier.model))
    assert is_same(states[0], states[1])


class Recording(torch.optim.SGD):
    """Notes the state of a model before and after every step."""

    model: nn.Module

    def __init__(self, parameters: object, **options: object) -> None:
        super().__init__(parameters, **options)
        self.before: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []

    def step(self, closure: None = None) -> None:
        self.before.append(state(self.model))
        super().step(closure)
        self.after.append(state(self.model))


def stop(loss: Tensor) -> Tensor:
    raise KeyboardInterrupt


@pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
@pytest.mark.parametrize("where", ["in what is perturbed by", "in the first width of the step", "in the last"])
@pytest.mark.parametrize("spoil", [lambda loss: loss * math.nan, stop], ids=["diverging", "cut"])
def test_a_perturbed_step_that_fails_leaves_the_last_good_state(widths, where, spoil):
    per_step = len(widths) * (len(LAMBDAS) - 1 + 1)  # a loss per width and lam above 0, and one for the step
    within = {"in what is perturbed by": 1, "in the first width of the step": per_step - len(widths) + 1}
    classifier, numbers = make_classifier(widths=widths), iter(range(1, 1000))
    optimizer = Recording(classifier.model.parameters(), lr=0.05, momentum=0.9)
    optimizer.model = classifier.model
    classifier.set_params(optimizer=optimizer)

    def loss(*arguments: object) -> Tensor:
        is_spoiled = next(numbers) == 2 * per_step + within.get(where, per_step)  # in the third step
        return spoil(hybrid_loss(*arguments)) if is_spoiled else hybrid_loss(*arguments)

    trainer = OATTrainer(classifier, attack=ATTACK, loss=loss, width_sampling="all", weight_perturbation=GAMMA)
    error, message = (KeyboardInterrupt, "") if spoil is stop else (RuntimeError, "got a loss of nan in epoch 3")
    with pytest.raises(error, match=message or None):
        trainer.fit(SINGLE_X, Y.numpy(), batch_size=20, nb_epochs=3, verbose=False)
    assert len(optimizer.before) == 2
    after = state(classifier.model)
    if spoil is stop:
        weights = [name for name, _ in classifier.model.named_parameters()]
        assert all(torch.equal(after[name], optimizer.after[-1][name]) for name in weights)
    else:
        assert is_same(after, optimizer.before[-1])  # finite loss and gradient
        assert all(tensor.isfinite().all() for tensor in after.values())
        assert all(parameter.grad is None for parameter in classifier.model.parameters())


def test_a_faulty_network_is_named_and_left_alone_when_it_is_first_asked_in_the_perturbing_pass():
    class WithExtras(Residual):
        def forward(self, x: Tensor) -> object:
            result = super().forward(x)
            return (result, result) if self.training else result

    classifier = single(WithExtras)
    before = state(classifier.model)
    with pytest.raises(TypeError, match=r"scores \[N, 5\] also in training mode, got a tuple"):
        fit(classifier)
    assert is_same(state(classifier.model), before)
