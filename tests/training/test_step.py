import functools
import math

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from art_oat import (
    PGD,
    ALPLoss,
    MARTLoss,
    Method,
    OATTrainer,
    StratifiedSampling,
    TRADESLoss,
    WeightPerturbation,
    to_conditional,
)
from art_oat.attacks import bind
from art_oat.training import hybrid_loss
from art_oat.training.step import Step
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS, Residual, images, labels
from tests.training.trained import (
    ALL_WIDTHS,
    ATTACK,
    PERTURBED,
    Growing,
    Spy,
    Watched,
    X,
    Y,
    classifier_of,
    double,
    fit,
    is_same,
    one_step,
    state,
    trained,
    with_criterion,
)

SOFT = np.random.default_rng(0).dirichlet(np.ones(5), 20).astype(np.float32)
FOUR = (0.25, 0.5, 0.75, 1.0)


# the step as a whole


@pytest.mark.parametrize(
    ("widths", "options", "drawn"),
    [
        ((1.0,), {}, (1.0,)),
        (WIDTHS, {"width_sampling": "all"}, (1.0, 0.75, 0.5)),
        (FOUR, {"width_sampling": "all"}, (1.0, 0.75, 0.5, 0.25)),
        (FOUR, {"width_sampling": "sandwich"}, (1.0, 0.5, 0.25)),
        (FOUR, {"width_sampling": "random"}, (0.25,)),
        (WIDTHS, {"distills": True, "width_sampling": "all"}, (1.0, 0.75, 0.5)),
        (FOUR, {"distills": True, "width_sampling": "sandwich"}, (1.0, 0.5, 0.25)),
    ],
)
@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_one_step_equals_the_method_written_out(widths, heads, options, drawn):
    """The sum over widths of the loss at an attack of their own; which widths are drawn follows from the seed."""
    classifier, reference = (make_classifier(widths=widths, heads=heads) for _ in range(2))
    fit(classifier, seed=3, batch_size=20, nb_epochs=1, **options)
    model, generator = reference.model, torch.Generator().manual_seed(3)
    torch.randint(2**31, (), generator=generator)  # the seed of dropout
    order = torch.randperm(20, generator=generator)
    order = order[torch.randperm(20, generator=generator)]
    x, y = torch.from_numpy(X)[order], torch.from_numpy(Y)[order]
    lam = StratifiedSampling().draw(LAMBDAS, 20, generator)
    if drawn != widths[::-1]:
        torch.randint(2, (), generator=generator)  # the width that is drawn
    attacked, losses, target = lam > 0, [], torch.eye(5)[y]
    for width in drawn:
        model.eval()
        x_adv = ATTACK(
            lambda x, width=width: model(x, lam[attacked], width),
            x[attacked], y[attacked], clip_values=(0, 1), generator=generator,
        )  # fmt: skip
        model.train()
        clean, adversarial = model(x, lam, width), model(x_adv, lam[attacked], width)
        terms = (1 - lam) * cross_entropy(clean, target)
        terms[attacked] += lam[attacked] * cross_entropy(adversarial, target[attacked])
        losses.append(terms.mean())
        if width == 1 and options.get("distills"):
            target = clean.softmax(dim=1).detach()
    reference.optimizer.zero_grad()
    sum(losses).backward()
    reference.optimizer.step()
    torch.testing.assert_close(classifier.model.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-5)


def cross_entropy(logits: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    return -(probabilities * logits.log_softmax(dim=1)).sum(dim=1)


def test_every_width_is_attacked_on_its_own_network_on_the_same_samples_at_the_same_lams():
    spy, loss = Spy(), Watched()
    trainer = fit(make_classifier(widths=WIDTHS), attack=spy, loss=loss, width_sampling="all", nb_epochs=1)
    nb_channels = [network.network.network.body[0].out_channels for network in spy.networks]
    assert nb_channels == [6, 5, 3, 6, 5, 3]  # two steps
    for step in (slice(0, 3), slice(3, 6)):
        assert len({tuple(x.flatten().tolist()) for x in spy.x[step]}) == 1
        for number in (2, 3):  # y and lam
            assert len({tuple(call[number].tolist()) for call in loss.calls[step]}) == 1
    assert not any(part.training for network in spy.networks for part in network.modules())
    assert trainer.history[0].loss == pytest.approx(np.mean(loss.values))


@pytest.mark.slow(seconds=1)
def test_three_widths_train_alike_as_a_sandwich_and_all_of_them():
    assert is_same(*(trained(make_classifier(widths=WIDTHS), width_sampling=kind) for kind in ("all", "sandwich")))


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_a_step_at_one_random_width_leaves_norms_statistics_and_heads_of_the_others_alone(heads):
    drawn = set()
    for seed in range(6):
        classifier = make_classifier(widths=WIDTHS, heads=heads)
        before = state(classifier)
        after = trained(classifier, width_sampling="random", seed=seed, batch_size=20, nb_epochs=1)
        moved = {name for name in after if not torch.equal(after[name], before[name]) and ".film." not in name}
        (index,) = {name.split(".by_width.")[1][0] for name in moved if ".by_width." in name}
        drawn.add(int(index))
        own = {name for name in after if f".by_width.{index}." in name and ".film." not in name}
        assert own <= moved
        assert "network.body.0.weight" in moved
    assert drawn == {0, 1, 2}


def test_smaller_widths_that_learn_from_the_largest_are_attacked_away_from_the_labels():
    spy, loss = Spy(), Watched()
    options = {"width_sampling": "all", "distills": True, "batch_size": 20, "nb_epochs": 1}
    fit(make_classifier(widths=WIDTHS), attack=spy, loss=loss, **options)
    assert len({tuple(y.tolist()) for y in spy.y}) == 1
    assert spy.y[0].dtype == torch.int64
    targets = [y for _, _, y, _ in loss.calls]
    assert targets[0].shape == (20,)
    assert targets[1] is targets[2]
    torch.testing.assert_close(targets[1].sum(dim=1), torch.ones(20))
    assert not targets[1].requires_grad


def test_samples_with_lam_0_are_not_attacked_and_the_network_is_in_evaluation_mode(classifier):
    spy = Spy()
    fit(classifier, attack=spy, batch_size=12, nb_epochs=1)
    assert [len(x) for x in spy.x] == [10, 6]  # batches of 12 and 8, less ceil(B / 6) zeros
    assert not any(part.training for network in spy.networks for part in network.modules())


def test_a_lam_of_0_alone_is_ordinary_training():
    spy = Spy()
    fit(classifier_of(to_conditional(Residual(), (0.0,))), attack=spy)
    assert spy.x == []


def test_the_attack_sees_inputs_before_preprocessing():
    spy = Spy()
    fit(make_classifier(preprocessing=(0.5, 0.25)), attack=spy)
    assert spy.x[0].min() >= 0
    assert len(spy.networks[0].operations) == 1


# labels


def test_the_loss_takes_soft_labels_as_they_are_and_the_attack_the_most_likely_class(classifier):
    spy, loss = Spy(), Watched()
    fit(classifier, X, SOFT, loss=loss, attack=spy)
    for (_, _, y, lam), classes in zip(loss.calls, spy.y, strict=True):
        assert torch.equal(y[lam > 0].argmax(dim=1), classes)
    seen = torch.cat([call[2] for call in loss.calls[:2]])  # an epoch
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, torch.from_numpy(SOFT).tolist()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_one_hot_labels_train_exactly_as_indices_do(dtype):
    criterion = nn.CrossEntropyLoss(torch.arange(5.0) + 1, label_smoothing=0.1)
    one_hot = np.eye(5)[Y].astype(dtype)
    assert is_same(trained(with_criterion(criterion), X, one_hot), trained(with_criterion(criterion)))


def test_smoothed_labels_train_as_label_smoothing_does():
    expected = trained(with_criterion(nn.CrossEntropyLoss(label_smoothing=0.3)))
    # the same numbers in another order of summation
    torch.testing.assert_close(trained(None, X, 0.7 * np.eye(5)[Y] + 0.3 / 5), expected, rtol=1e-4, atol=1e-5)
    assert not is_same(expected, trained())


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_the_scale_of_class_weights_does_not_weigh_widths_against_each_other(scale):
    options = {"width_sampling": "all", "distills": True, "batch_size": 20, "nb_epochs": 1}
    weighted = with_criterion(nn.CrossEntropyLoss(torch.full((5,), scale)), make_classifier(widths=WIDTHS))
    losses = [fit(it, **options).history[0].loss for it in (weighted, make_classifier(widths=WIDTHS))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("y", [Y, SOFT])
def test_a_loader_and_a_generator_train_as_arrays_do(y):
    generator = NumpyDataGenerator(X, np.eye(5)[y] if y is Y else y, 20)
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), batch_size=20)
    states = []
    for source in ((X, y), (loader,), (generator,)):
        torch.manual_seed(0)
        classifier = classifier_of(to_conditional(Residual(), (1.0,)))  # one lam: the order in the batch is no matter
        attack = PGD(eps=0.1, nb_steps=2, has_random_start=False)
        states.append(trained(classifier, *source, attack=attack, batch_size=20))
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(states[2], states[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (SOFT * 1.1, "y must hold probabilities of sum 1 per row, got 20 of 20 rows"),
        (np.where(np.arange(20)[:, None] == 3, np.nan, SOFT), "got 1 of 20 rows"),
        (SOFT[:, :4], r"y must be indices \(N,\) or one-hot"),
        (SOFT[:7], "y must hold one label per sample, 20, got 7"),
    ],
)
def test_faulty_soft_labels_are_refused(classifier, y, message):
    with pytest.raises(ValueError, match=message):
        OATTrainer(classifier).fit(X, y, verbose=False)


# clean epochs


@pytest.mark.parametrize("loss", [hybrid_loss, TRADESLoss(), MARTLoss(), ALPLoss()])
def test_a_step_of_a_clean_epoch_descends_the_cross_entropy_of_clean_inputs_each_at_its_own_lam(loss):
    classifier, reference = make_classifier(), make_classifier()
    generator, same = (torch.Generator().manual_seed(3) for _ in range(2))
    step = Step(classifier, Method(loss=loss), bind(ATTACK, classifier), generator)
    x, y = images(20, torch.float32), labels(20)
    step.start_epoch(1, is_clean=True)
    step(x, y)

    order, lam = torch.randperm(20, generator=same), StratifiedSampling().draw(LAMBDAS, 20, same).float()
    model = reference.model.train()
    F.cross_entropy(model(x[order], lam), y[order]).backward()
    reference.optimizer.step()
    torch.testing.assert_close(classifier.model.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("share", "nb_epochs", "is_clean"),
    [(0.5, (4, 2), [True, True, False, False, False, False]), (0.99, (2,), [True, False])],
)
def test_clean_epochs_are_the_first_of_the_first_call_and_leave_one_for_the_attack(share, nb_epochs, is_clean):
    trainer = OATTrainer(make_classifier(), attack=ATTACK, clean_share=share)
    for count in nb_epochs:
        trainer.fit(X, Y, nb_epochs=count, batch_size=10, verbose=False)
    assert [math.isnan(record.robust) for record in trainer.history] == is_clean


def test_weights_are_not_perturbed_in_clean_epochs():
    states = []
    for perturbation in (None, WeightPerturbation(0.5)):
        classifier = make_classifier()
        note = functools.partial(lambda kept, _: states.append(state(kept)), classifier)
        fit(classifier, weight_perturbation=perturbation, clean_share=0.5, callbacks=[note])
    assert is_same(states[0], states[2])
    assert not is_same(states[1], states[3])


# clipping of gradients


def clipped(limit: float | None, **method) -> list[torch.Tensor]:
    """The gradients that the optimizer's step is taken with."""
    classifier = double(**ALL_WIDTHS)
    one_step(classifier, clip_grad_norm=limit, width_sampling="all", **method)
    return [weight.grad for weight in classifier.model.parameters() if weight.grad is not None]


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("method", [{}, PERTURBED])
def test_the_whole_gradient_of_a_step_is_shortened_to_the_limit_and_keeps_its_direction(method):
    whole = clipped(None, **method)
    length = float(torch.cat([gradient.flatten() for gradient in whole]).norm())
    short = clipped(length / 4, **method)
    torch.testing.assert_close(short, [gradient / 4 for gradient in whole], rtol=1e-5, atol=1e-9)  # torch adds 1e-6
    torch.testing.assert_close(clipped(4 * length, **method), whole, rtol=0, atol=0)


def test_a_gradient_that_is_not_finite_is_not_hidden_by_clipping():
    with pytest.raises(RuntimeError, match="training must stay finite, got a gradient of"):
        one_step(double(), clip_grad_norm=1.0, loss=lambda logits, *_: (0 * logits).sum().sqrt())  # 0, of slope 0 / 0


# a radius that grows


@pytest.mark.parametrize(
    ("shares", "nb_epochs", "expected"),
    [
        ({"eps_warmup": 0.5}, 4, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]),
        ({"eps_warmup": 0.75}, 2, [1 / 3, 2 / 3, 1, 1]),
        ({"eps_warmup": 0.5, "clean_share": 0.5}, 4, [1 / 2, 1, 1, 1]),
        ({}, 2, [1, 1, 1, 1]),
    ],
)
def test_the_radius_grows_on_a_straight_line_over_the_first_steps_with_attack(shares, nb_epochs, expected):
    trainer = OATTrainer(make_classifier(), attack=Growing(seen := []), **shares)
    for count in (nb_epochs, 1):  # a second call goes on at the full radius
        trainer.fit(X, Y, (X, Y), nb_epochs=count, batch_size=10, verbose=False)
    trained_at = [factor for factor, nb_samples in seen if nb_samples < len(X)]
    assert trained_at == pytest.approx([*expected, 1, 1], rel=1e-15)
    assert {factor for factor, nb_samples in seen if nb_samples == len(X)} == {1}  # of the validation


# a compiled attack


GUARDED = {"eps_warmup": 0.5, "fallback": PGD(eps=0.1, nb_steps=3), "validation_data": (X[:6], Y[:6])}


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize(("widths", "method"), [((0.5, 1.0), {}), ((1.0,), {"precision": "bf16"}), ((1.0,), GUARDED)])
def test_a_compiled_attack_trains_the_same_network_and_is_not_compiled_step_by_step(counter, widths, method):
    """The compiler keeps the arithmetic; it is asked for the first size of batch, and once or twice for others."""
    options = {"width_sampling": "all", "batch_size": 8, "nb_epochs": 3, **method}
    slow, fast = (
        trained(make_classifier(widths=widths), compile_attack=compiles, **options) for compiles in (False, True)
    )
    torch.testing.assert_close(fast, slow)
    nb_attacks = 2 if "fallback" in method else 1
    assert 2 * len(widths) <= counter.frame_count <= 3 * len(widths) * nb_attacks
