import copy
import dataclasses

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool, ProjectedGradientDescentPyTorch
from art.data_generators import NumpyDataGenerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_oat import PGD, OATClassifier, OATTrainer, RandomCropFlip, hybrid_loss, to_conditional
from art_oat.data.loader import digits
from art_oat.layers.norm import ChannelAffine
from art_oat.models import ResNet
from art_oat.recipe import Recipe, train
from tests.conftest import make_classifier
from tests.networks import WIDTHS, Residual, images, labels

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


class Noting:
    """An attack that leaves inputs alone, and notes what it is given and what the network is made of."""

    def __init__(self) -> None:
        self.scores: list[torch.dtype] = []
        self.coefficients: set[torch.dtype] = set()
        self.is_channels_last: list[bool] = []

    def __call__(self, network, x, y, *, clip_values=None, generator=None):
        self.scores.append(network(x).dtype)
        affines = [part for part in network.modules() if isinstance(part, ChannelAffine)]
        self.coefficients |= {value.dtype for affine in affines for value in affine.coefficients}
        self.is_channels_last.append(x.is_contiguous(memory_format=torch.channels_last))
        return x


def test_in_bf16_passes_are_lower_and_affines_scores_weights_and_measurements_are_not(classifier):
    attack, scores = Noting(), []

    def note(logits, logits_adv, y, lam, criterion=None):
        scores.extend((logits.dtype, logits_adv.dtype))
        return hybrid_loss(logits, logits_adv, y, lam, criterion)

    trainer = OATTrainer(classifier, attack, loss=note, precision="bf16")
    trainer.fit(X, Y, (X, Y), batch_size=10, nb_epochs=1, verbose=False)
    nb_points = len(classifier.model.lambdas)
    assert attack.scores == 2 * [torch.bfloat16] + nb_points * [torch.float32]  # two steps, then the validation
    assert attack.coefficients == {torch.float32}
    assert set(scores) == {torch.float32}
    for tensor in classifier.model.state_dict().values():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert tensor.isfinite().all()
    gradients = [parameter.grad for parameter in classifier.model.parameters() if parameter.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
def test_a_step_in_bf16_has_the_loss_of_one_in_float32_to_rounding(widths):
    losses = {}
    for precision in ("float32", "bf16"):
        trainer = OATTrainer(make_classifier(widths=widths), Noting(), width_sampling="all", precision=precision)
        trainer.fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
        losses[precision] = trainer.history[0].loss
    # a loss of about 2, from scores that a handful of layers rounded by 2^-9 of their size each
    assert losses["bf16"] == pytest.approx(losses["float32"], abs=2 * 5 * 2**-9)
    assert losses["bf16"] != losses["float32"]


@pytest.mark.parametrize("make", [ProjectedGradientDescentPyTorch, DeepFool])
def test_attacks_of_art_run_in_bf16(classifier, make):
    options = {"eps": 0.1, "num_random_init": 1} if make is ProjectedGradientDescentPyTorch else {"epsilon": 1e-3}
    attack = make(classifier, max_iter=2, verbose=False, **options)
    OATTrainer(classifier, attack, precision="bf16").fit(X, Y, nb_epochs=1, verbose=False)
    assert np.isfinite(classifier.predict(X)).all()


def test_digits_are_learned_in_bf16_as_in_float32():
    data, accuracies = digits(), []
    for precision in ("float32", "bf16"):
        recipe = Recipe(network="small-8-16", nb_epochs=4, batch_size=32, lambdas=(0.0, 1.0), attack="pgd-1")
        recipe = dataclasses.replace(recipe, precision=precision)
        classifier = train(recipe, data, keeps_best=False, verbose=False)
        accuracies.append(np.mean(classifier.predict(data.test.x, lam=0.0).argmax(axis=1) == data.test.y))
    assert accuracies[0] > 0.9
    assert abs(accuracies[0] - accuracies[1]) < 2 * np.sqrt(2 * 0.95 * 0.05 / 450)  # two standard errors


def test_a_precision_that_is_unknown_or_does_not_suit_the_weights_is_refused(classifier):
    with pytest.raises(ValueError, match=r"precision must be one of \('float32', 'bf16'\), got 'fp8'"):
        OATTrainer(classifier, precision="fp8")
    model = to_conditional(Residual().double())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    double = OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))
    with pytest.raises(ValueError, match=r"precision bf16 needs weights in float32, got torch\.float64"):
        OATTrainer(double, precision="bf16")


def of_three_channels(memory_format: torch.memory_format) -> OATClassifier:
    torch.manual_seed(0)
    model = to_conditional(ResNet((1, 1), in_channels=3, nb_classes=5, channels=4)).to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return OATClassifier(model, nn.CrossEntropyLoss(), (3, 8, 8), 5, optimizer, clip_values=(0, 1))


def test_a_network_with_channels_last_is_trained_on_such_batches_and_to_the_same_weights():
    x, results = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)).numpy(), []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        classifier, attack = of_three_channels(memory_format), Noting()
        trainer = OATTrainer(classifier, attack, augmentation=RandomCropFlip(1), ema=0.9)
        trainer.fit(x, Y, batch_size=10, nb_epochs=2, verbose=False)
        results.append(state(classifier))
        assert set(attack.is_channels_last) == {memory_format == torch.channels_last}
    assert results[1]["network.stem.0.weight"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)  # float32, summed in another order
