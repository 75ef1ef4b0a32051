import copy

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_oat import PGD, OATClassifier, OATTrainer, hybrid_loss, to_conditional
from tests.conftest import make_classifier
from tests.networks import Residual, images, labels

X, Y = images(20, torch.float32).numpy(), labels(20).numpy()
SOFT = np.random.default_rng(0).dirichlet(np.ones(5), 20).astype(np.float32)
ATTACK = PGD(eps=0.1, nb_steps=2)


def state(classifier) -> dict[str, torch.Tensor]:
    return copy.deepcopy(classifier.model.state_dict())


def is_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def fit(x, y, *, classifier=None, criterion=None, **arguments) -> dict[str, torch.Tensor]:
    """Train, and return the state after it."""
    classifier = classifier or make_classifier()
    classifier._loss = criterion or classifier.loss
    trainer = OATTrainer(classifier, arguments.pop("attack", ATTACK), **arguments)
    source = (x,) if isinstance(x, DataLoader | NumpyDataGenerator) else (x, y)
    trainer.fit(*source, batch_size=10, nb_epochs=2, verbose=False)
    return state(classifier)


def mirror(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x.flip(-1)


def mirror_some(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    is_mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(is_mirrored.view(-1, 1, 1, 1), x.flip(-1), x)


def test_augmentation_comes_before_the_attack_and_the_loss():
    assert is_same(fit(X, Y, augmentation=mirror), fit(X[..., ::-1], Y))
    assert not is_same(fit(X, Y, augmentation=mirror), fit(X, Y))


def test_augmentation_is_drawn_from_the_seed_alone():
    states = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        classifier = make_classifier()
        torch.manual_seed(noise)
        states.append(fit(X, Y, classifier=classifier, augmentation=mirror_some, seed=seed))
    assert is_same(states[0], states[1])
    assert not is_same(states[0], states[2])


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (lambda x, _: x[:, :, 1:], r"augmentation must return a tensor \[10, 1, 6, 6\] .*, got \[10, 1, 5, 6\]"),
        (lambda x, _: x.double(), "as it was given, got .* of torch.float64"),
        (lambda x, _: x.numpy(), "got ndarray"),
        (lambda x, _: x / 0, "the result of augmentation must be finite"),
        (lambda x, _: x + 1, "the result of augmentation must lie within clip_values"),
    ],
)
def test_a_faulty_augmentation_is_refused_before_anything_is_touched(classifier, augmentation, message):
    before = state(classifier)
    with pytest.raises(ValueError, match=message):
        fit(X, Y, classifier=classifier, augmentation=augmentation)
    assert is_same(state(classifier), before)


class WithExtras(Residual):
    """Answers by more than scores while it is trained."""

    def __init__(self, extend) -> None:
        super().__init__()
        self.extend = extend

    def forward(self, x):
        scores = super().forward(x)
        return self.extend(scores) if self.training else scores


@pytest.mark.parametrize(
    ("extend", "got"),
    [
        (lambda scores: (scores, scores), "got a tuple"),
        (lambda scores: {"scores": scores}, "got a dict"),
        (lambda scores: scores[:, :3], r"got shape \[10, 3\]"),
    ],
)
def test_a_network_that_answers_by_more_than_scores_in_training_is_refused_and_left_as_it_was(extend, got):
    model = to_conditional(WithExtras(extend))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))
    before = state(classifier)
    with pytest.raises(TypeError, match=rf"scores \[N, 5\] also in training mode, {got}.*wrap it"):
        fit(X, Y, classifier=classifier)
    assert is_same(state(classifier), before)


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
        trainer = OATTrainer(classifier, attack)
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
