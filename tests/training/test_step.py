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
    MARTLoss,
    Method,
    OATClassifier,
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
from tests.networks import LAMBDAS, WIDTHS, MobileSqueezeExcite, Residual, images, labels
from tests.training.trained import ATTACK, X, Y, classifier_of, is_same, state

SOFT = np.random.default_rng(0).dirichlet(np.ones(5), 20).astype(np.float32)


def fit(x, y, *, classifier=None, criterion=None, **arguments) -> dict[str, torch.Tensor]:
    """Train, and return the state after it."""
    classifier = classifier or make_classifier()
    classifier._loss = criterion or classifier.loss
    trainer = OATTrainer(classifier, attack=arguments.pop("attack", ATTACK), **arguments)
    source = (x,) if isinstance(x, DataLoader | NumpyDataGenerator) else (x, y)
    trainer.fit(*source, batch_size=10, nb_epochs=2, verbose=False)
    return state(classifier)


def test_the_loss_takes_soft_labels_as_they_are_and_the_attack_the_most_likely_class(classifier):
    in_loss, in_attack = [], []

    def loss(logits, logits_adv, y, lam, criterion=None):
        in_loss.append((y, lam))
        return hybrid_loss(logits, logits_adv, y, lam, criterion)

    def attack(network, x, y, *, clip_values=None, generator=None):
        in_attack.append(y)
        return x

    fit(X, SOFT, classifier=classifier, loss=loss, attack=attack)
    for (y, lam), classes in zip(in_loss, in_attack, strict=True):
        assert torch.equal(y[lam > 0].argmax(dim=1), classes)
    seen = torch.cat([y for y, _ in in_loss[:2]])  # an epoch
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, torch.from_numpy(SOFT).tolist()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_one_hot_labels_train_exactly_as_indices_do(dtype):
    criterion = nn.CrossEntropyLoss(torch.arange(5.0) + 1, label_smoothing=0.1)
    one_hot = np.eye(5)[Y].astype(dtype)
    assert is_same(fit(X, one_hot, criterion=criterion), fit(X, Y, criterion=criterion))


def test_smoothed_labels_train_as_label_smoothing_does():
    smoothed = 0.7 * np.eye(5)[Y] + 0.3 / 5
    actual, expected = fit(X, smoothed), fit(X, Y, criterion=nn.CrossEntropyLoss(label_smoothing=0.3))
    # the same numbers in another order of summation
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert not is_same(expected, fit(X, Y))


def test_soft_labels_train_alike_from_arrays_a_loader_and_a_generator():
    states = []
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(SOFT))
    for source in (X, DataLoader(dataset, batch_size=20), NumpyDataGenerator(X, SOFT, 20)):
        torch.manual_seed(0)
        model = to_conditional(Residual(), (1.0,))  # one lam, so that the order within the batch does not matter
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))
        attack = PGD(eps=0.1, nb_steps=2, has_random_start=False)
        trainer = OATTrainer(classifier, attack=attack)
        trainer.fit(source, *([SOFT] if source is X else []), batch_size=20, nb_epochs=2, verbose=False)
        states.append(state(classifier))
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


def double(*, lambdas=LAMBDAS, make=Residual, learning_rate: float = 0.0, **conversion) -> OATClassifier:
    """In float64; at a learning rate of 0 the gradient of the last step stays the only trace in the weights."""
    torch.manual_seed(0)
    model = to_conditional(make().double(), lambdas, **conversion)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return classifier_of(model, learning_rate)


def one_step(classifier: OATClassifier, y=Y, *, criterion=None, nb_epochs: int = 1, **arguments) -> OATTrainer:
    classifier._loss = criterion or classifier.loss
    trainer = OATTrainer(classifier, attack=arguments.pop("attack", ATTACK), **arguments)
    trainer.fit(X, y, batch_size=20, nb_epochs=nb_epochs, verbose=False)
    return trainer


def gradients(classifier: OATClassifier) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in classifier.model.named_parameters() if weight.grad is not None}


ALL_WIDTHS = {"widths": WIDTHS, "heads": "per-width"}
CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64)
STEPS = {
    "plain": ({}, {}),
    "all widths": (ALL_WIDTHS, {"width_sampling": "all"}),
    "one width": ({"widths": WIDTHS}, {"width_sampling": "random"}),
    "distilled": (ALL_WIDTHS, {"width_sampling": "all", "distills": True}),
    "class weights": ({}, {"criterion": nn.CrossEntropyLoss(CLASS_WEIGHTS)}),
    "label smoothing": ({}, {"criterion": nn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.2)}),
    "soft labels": ({}, {"y": SOFT, "criterion": nn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.2)}),
    "soft labels, distilled": (ALL_WIDTHS, {"y": SOFT, "width_sampling": "all", "distills": True}),
    "clean alone": ({"lambdas": (0.0,)}, {}),
    "attacked alone": ({"lambdas": (1.0,)}, {}),
    "without 0": ({"lambdas": (0.2, 1.0)}, {}),
    "perturbed weights": ({}, {"weight_perturbation": WeightPerturbation(0.1)}),
    "perturbed weights of all widths": (
        ALL_WIDTHS,
        {"width_sampling": "all", "weight_perturbation": WeightPerturbation(0.1)},
    ),
    "dropout": ({"make": MobileSqueezeExcite}, {}),
    "published film": ({"film": "published"}, {}),
    "shared statistics": ({"statistics": "shared"}, {}),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_gradient_of_a_loss_taken_term_by_term_is_that_of_their_sum(name):
    conversion, method = STEPS[name]
    found = []
    for loss in (hybrid_loss, Watched()):
        classifier = double(**conversion)
        trainer = one_step(classifier, loss=loss, **method)
        found.append((gradients(classifier), dict(classifier.model.named_buffers()), trainer.history[0].loss))
    (by_term, statistics, loss), (of_sum, plain_statistics, plain_loss) = found
    # the same terms, summed in another order
    torch.testing.assert_close(by_term, of_sum, rtol=1e-10, atol=1e-10)
    assert sum(gradient.abs().sum() for gradient in by_term.values()) > 0
    torch.testing.assert_close(statistics, plain_statistics, rtol=0, atol=0)
    assert loss == plain_loss


class Watched:
    """The hybrid loss, which notes through which scores gradient may flow."""

    def __init__(self, **claims: object) -> None:
        self.carriers: list[tuple[bool, bool]] = []
        self.sizes: list[tuple[int, int]] = []
        vars(self).update(claims)

    def __call__(self, logits, logits_adv, y, lam, criterion=None):
        self.carriers.append((logits.requires_grad, logits_adv.requires_grad))
        self.sizes.append((len(logits), len(logits_adv)))
        return hybrid_loss(logits, logits_adv, y, lam, criterion)


@pytest.mark.parametrize("claims", [{}, {"is_separable": False}, {"is_separable": 1}, {"is_separable": True}])
def test_only_a_loss_that_claims_to_be_separable_is_taken_in_turn(claims):
    loss = Watched(**claims)
    one_step(double(), loss=loss)
    in_turn = [(True, False), (False, True)]
    assert loss.carriers == (in_turn if claims.get("is_separable") is True else [(True, True)])
    assert len(set(loss.sizes)) == 1  # every call sees all samples: a loss may check that they fit


def test_a_loss_that_claims_to_be_separable_trains_as_it_would_without_the_claim():
    found = []
    for loss in (Watched(is_separable=True), Watched(), hybrid_loss):
        classifier = double()
        one_step(classifier, loss=loss)
        found.append(gradients(classifier))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=0)


class Kept:
    """What autograd keeps for a backward pass; knows how much is kept at once."""

    alive = most = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        Kept.alive += 1
        Kept.most = max(Kept.most, Kept.alive)

    def __del__(self) -> None:
        Kept.alive -= 1


def most_kept(**arguments) -> int:
    """The largest number of tensors that the graphs of a step hold at once; the attack makes none."""
    Kept.alive = Kept.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        one_step(double(), attack=lambda network, x, y: x, **arguments)
    return Kept.most


def test_a_separable_loss_keeps_the_graph_of_one_pass_at_a_time():
    in_turn, at_once = most_kept(), most_kept(loss=Watched())
    # half of it would be kept of two equal passes; that on clean inputs also sorts samples by the sides of the norms
    assert at_once / 2 <= in_turn < 0.6 * at_once


@pytest.mark.parametrize("is_separable", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3, 4])  # clean and attacked pass of the first step, and of the second
def test_scores_that_are_not_finite_in_either_pass_are_told_of_and_undone(number, is_separable):
    classifier, passes = double(learning_rate=0.1), []

    def spoil(part, inputs, scores):
        if part.training:
            passes.append(state(classifier))
            return scores * (float("nan") if len(passes) == number else 1.0)
        return None

    classifier.model.network.head.register_forward_hook(spoil)
    before = state(classifier)
    with pytest.raises(RuntimeError, match=f"got a loss of nan in epoch {(number + 1) // 2}"):
        one_step(classifier, nb_epochs=2, loss=Watched(is_separable=is_separable))
    names = dict(classifier.model.named_parameters())
    good = {name: before[name] for name in names}  # the first step is not known to be good until the second has a loss
    assert is_same(good, state(classifier))
    assert all(weight.grad is None for weight in names.values())
    if number <= 2:
        assert is_same(before, state(classifier))


def attacked_term(logits, logits_adv, y, lam, criterion=None):
    """A loss of attacked scores alone, which is a sum of two terms too."""
    return F.cross_entropy(logits_adv, y[lam > 0])


def test_a_separable_loss_may_have_no_clean_term():
    found = []
    for claim in (True, False):
        loss, classifier = functools.partial(attacked_term), double()
        loss.is_separable = claim
        one_step(classifier, loss=loss)
        found.append(gradients(classifier))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


def test_a_loss_that_carries_no_gradient_is_refused():
    with pytest.raises(RuntimeError, match="grad"):
        one_step(double(), loss=lambda *arguments: hybrid_loss(*arguments).detach())


@pytest.mark.parametrize("loss", [hybrid_loss, TRADESLoss(), MARTLoss()])
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


def test_clean_epochs_attack_nothing_and_the_others_do():
    trainer = OATTrainer(make_classifier(), attack=ATTACK, clean_share=0.5)
    for nb_epochs in (4, 2):
        trainer.fit(X, Y, nb_epochs=nb_epochs, batch_size=10, verbose=False)
    is_clean = [math.isnan(record.robust) for record in trainer.history]
    assert is_clean == [True, True, False, False, False, False]  # those of the first call alone


def test_one_epoch_is_left_for_the_attack_however_large_the_clean_share():
    trainer = OATTrainer(make_classifier(), attack=ATTACK, clean_share=0.99)
    trainer.fit(X, Y, nb_epochs=2, batch_size=10, verbose=False)
    assert [math.isnan(record.robust) for record in trainer.history] == [True, False]


def test_weights_are_not_perturbed_in_clean_epochs():
    states = []
    for perturbation in (None, WeightPerturbation(0.5)):
        classifier = make_classifier()
        trainer = OATTrainer(classifier, attack=ATTACK, weight_perturbation=perturbation, clean_share=0.5)
        trainer.fit(X, Y, nb_epochs=2, verbose=False, callbacks=[lambda _, kept=classifier: states.append(state(kept))])
    assert is_same(states[0], states[2])
    assert not is_same(states[1], states[3])


def test_a_scheduler_that_waits_for_a_plateau_is_refused_with_clean_epochs():
    classifier = make_classifier()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(classifier.optimizer)
    with pytest.raises(ValueError, match="scheduler must be no ReduceLROnPlateau with clean_share"):
        OATTrainer(classifier, attack=ATTACK, clean_share=0.5).fit(X, Y, nb_epochs=2, scheduler=plateau, verbose=False)


FOUR = (0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("widths", "options", "trained"),
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
def test_one_step_equals_the_method_written_out(widths, heads, options, trained):
    """The sum over widths of the loss at an attack of their own; which widths are drawn follows from the seed."""
    classifier, reference = (make_classifier(widths=widths, heads=heads) for _ in range(2))
    OATTrainer(classifier, attack=ATTACK, seed=3, **options).fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
    model, generator = reference.model, torch.Generator().manual_seed(3)
    torch.randint(2**31, (), generator=generator)  # the seed of dropout
    order = torch.randperm(20, generator=generator)
    order = order[torch.randperm(20, generator=generator)]
    x, y = torch.from_numpy(X)[order], torch.from_numpy(Y)[order]
    lam = StratifiedSampling().draw(LAMBDAS, 20, generator)
    if trained != widths[::-1]:
        torch.randint(2, (), generator=generator)  # the width that is drawn
    attacked, losses, target = lam > 0, [], torch.eye(5)[y]
    for width in trained:
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


class Spy:
    """An attack that notes what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[nn.Module, torch.Tensor]] = []

    def __call__(self, network, x, y, *, clip_values=None, generator=None):
        self.calls.append((network, x))
        return x


def test_every_width_is_attacked_on_its_own_network_on_the_same_samples_at_the_same_lams():
    classifier, spy, losses = make_classifier(widths=WIDTHS), Spy(), []

    def note(logits, logits_adv, y, lam, criterion=None):
        losses.append((y, lam, hybrid_loss(logits, logits_adv, y, lam, criterion)))
        return losses[-1][-1]

    trainer = OATTrainer(classifier, attack=spy, loss=note, width_sampling="all")
    trainer.fit(X, Y, batch_size=10, nb_epochs=1, verbose=False)
    nb_channels = [network.network.network.body[0].out_channels for network, _ in spy.calls]
    assert nb_channels == [6, 5, 3, 6, 5, 3]  # two steps
    for step in (slice(0, 3), slice(3, 6)):
        assert len({tuple(x.flatten().tolist()) for _, x in spy.calls[step]}) == 1
        assert len({tuple(y.tolist()) for y, _, _ in losses[step]}) == 1
        assert len({tuple(lam.tolist()) for _, lam, _ in losses[step]}) == 1
    assert not any(part.training for network, _ in spy.calls for part in network.modules())
    assert trainer.history[0].loss == pytest.approx(np.mean([loss.item() for _, _, loss in losses]))


def test_three_widths_train_alike_as_a_sandwich_and_all_of_them():
    states = []
    for kind in ("all", "sandwich"):
        classifier = make_classifier(widths=WIDTHS)
        OATTrainer(classifier, attack=ATTACK, width_sampling=kind).fit(X, Y, batch_size=10, nb_epochs=1, verbose=False)
        states.append(state(classifier))
    assert is_same(*states)


@pytest.mark.parametrize("heads", ["shared", "per-width"])
def test_a_step_at_one_random_width_leaves_norms_statistics_and_heads_of_the_others_alone(heads):
    trained = set()
    for seed in range(6):
        classifier = make_classifier(widths=WIDTHS, heads=heads)
        before = state(classifier)
        trainer = OATTrainer(classifier, attack=ATTACK, width_sampling="random", seed=seed)
        trainer.fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
        after = state(classifier)
        moved = {name for name in after if not torch.equal(after[name], before[name]) and ".film." not in name}
        (index,) = {name.split(".by_width.")[1][0] for name in moved if ".by_width." in name}
        trained.add(int(index))
        own = {name for name in after if f".by_width.{index}." in name and ".film." not in name}
        assert own <= moved
        assert "network.body.0.weight" in moved
    assert trained == {0, 1, 2}


def test_smaller_widths_that_learn_from_the_largest_are_attacked_away_from_the_labels():
    classifier, attacked, targets = make_classifier(widths=WIDTHS), [], []

    def attack(network, x, y, *, clip_values=None, generator=None):
        attacked.append(y)
        return x

    def note(logits, logits_adv, y, lam, criterion=None):
        targets.append(y)
        return hybrid_loss(logits, logits_adv, y, lam, criterion)

    OATTrainer(classifier, attack=attack, loss=note, width_sampling="all", distills=True).fit(
        X, Y, batch_size=20, nb_epochs=1, verbose=False
    )
    assert len({tuple(y.tolist()) for y in attacked}) == 1
    assert attacked[0].dtype == torch.int64
    assert targets[0].shape == (20,)
    assert targets[1] is targets[2]
    torch.testing.assert_close(targets[1].sum(dim=1), torch.ones(20))
    assert not targets[1].requires_grad


def test_samples_with_lam_0_are_not_attacked_and_the_network_is_in_evaluation_mode(classifier):
    spy = Spy()
    OATTrainer(classifier, attack=spy).fit(X, Y, batch_size=12, nb_epochs=1, verbose=False)
    assert [len(x) for _, x in spy.calls] == [10, 6]  # batches of 12 and 8, less ceil(B / 6) zeros
    assert not any(part.training for network, _ in spy.calls for part in network.modules())


def test_a_lam_of_0_alone_is_ordinary_training():
    torch.manual_seed(0)
    model = to_conditional(Residual(), (0.0,))
    classifier = classifier_of(model)
    spy = Spy()
    OATTrainer(classifier, attack=spy).fit(X, Y, nb_epochs=1, verbose=False)
    assert spy.calls == []


def test_the_attack_sees_inputs_before_preprocessing():
    classifier, spy = make_classifier(preprocessing=(0.5, 0.25)), Spy()
    OATTrainer(classifier, attack=spy).fit(X, Y, nb_epochs=1, verbose=False)
    network, x = spy.calls[0]
    assert x.min() >= 0
    assert len(network.operations) == 1
