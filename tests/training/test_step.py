import copy
import functools
import math

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool, ProjectedGradientDescentPyTorch
from art.data_generators import NumpyDataGenerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from art_oat import (
    PGD,
    MARTLoss,
    OATClassifier,
    OATTrainer,
    RandomCropFlip,
    StratifiedSampling,
    TRADESLoss,
    WeightPerturbation,
    to_conditional,
)
from art_oat.attacks import bind, distance
from art_oat.data import digits
from art_oat.experiment.build import train
from art_oat.experiment.recipe import Recipe
from art_oat.layers.channel_affine import ChannelAffine
from art_oat.models import ResNet, WideResNet
from art_oat.training import Method, hybrid_loss
from art_oat.training.step import Step, layout_faults
from tests.conftest import make_classifier
from tests.networks import LAMBDAS, WIDTHS, ChannelsLast, MobileSqueezeExcite, Residual, images, labels
from tests.pairs import parametrize_in_pairs

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
    trainer = OATTrainer(classifier, attack=arguments.pop("attack", ATTACK), **arguments)
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


def colored(*, channels_first, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    model = to_conditional(network if channels_first else ChannelsLast(network), LAMBDAS)
    model.to(memory_format=memory_format)
    shape, optimizer = (3, 6, 6) if channels_first else (6, 6, 3), torch.optim.SGD(model.parameters(), 0.1)
    return OATClassifier(
        model, nn.CrossEntropyLoss(), shape, 5, optimizer, clip_values=(0, 1), channels_first=channels_first
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_with_channels_last_are_augmented_and_trained_on_as_those_with_channels_first(memory_format):
    x = np.random.default_rng(0).random((20, 3, 6, 6), dtype=np.float32)
    options = {"attack": PGD(0.1, nb_steps=2, has_random_start=False), "augmentation": RandomCropFlip(1)}
    expected = fit(x, Y, classifier=colored(channels_first=True), **options)
    actual = fit(
        x.transpose(0, 2, 3, 1), Y, classifier=colored(channels_first=False, memory_format=memory_format), **options
    )
    # float32 sums in another order; a gradient that is almost zero may turn, which moves a pixel of one image
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name.replace("network.", "network.network.", 1)], tensor, rtol=0, atol=1e-3)


def test_images_with_channels_last_reach_convolutions_in_the_layout_of_their_weights():
    classifier, seen = colored(channels_first=False, memory_format=torch.channels_last), []
    classifier.model.network.network[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    fit(np.random.default_rng(0).random((20, 6, 6, 3), dtype=np.float32), Y, classifier=classifier)
    assert seen
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


@pytest.mark.parametrize("shape", [(5,), (7, 2), (2, 3, 4, 5)])
@pytest.mark.parametrize("channels_first", [True, False])
def test_an_augmentation_gets_any_inputs_with_channels_first_and_they_are_taken_back(shape, channels_first):
    classifier, given = make_classifier(channels_first=channels_first), []
    method = Method(augmentation=lambda x, _: given.append(x) or 1 - x)
    x = torch.rand(4, *shape)
    result = Step(classifier, method, bind(ATTACK, classifier), torch.Generator())._augmented(x)
    is_moved = not channels_first and len(shape) > 1
    assert torch.equal(given[0], x.movedim(-1, 1) if is_moved else x)
    assert torch.equal(result, 1 - x)


def test_an_augmentation_may_leave_the_range_by_rounding():
    x = np.concatenate([X, np.ones_like(X)])
    fit(x, np.concatenate([Y, Y]), augmentation=lambda x, _: x * (1 + 2e-7))


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

    trainer = OATTrainer(classifier, attack=attack, loss=note, precision="bf16")
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
        trainer = OATTrainer(make_classifier(widths=widths), attack=Noting(), width_sampling="all", precision=precision)
        trainer.fit(X, Y, batch_size=20, nb_epochs=1, verbose=False)
        losses[precision] = trainer.history[0].loss
    # a loss of about 2, from scores that a handful of layers rounded by 2^-9 of their size each
    assert losses["bf16"] == pytest.approx(losses["float32"], abs=2 * 5 * 2**-9)
    assert losses["bf16"] != losses["float32"]


@pytest.mark.parametrize("make", [ProjectedGradientDescentPyTorch, DeepFool])
def test_attacks_of_art_run_in_bf16(classifier, make):
    options = {"eps": 0.1, "num_random_init": 1} if make is ProjectedGradientDescentPyTorch else {"epsilon": 1e-3}
    attack = make(classifier, max_iter=2, verbose=False, **options)
    OATTrainer(classifier, attack=attack, precision="bf16").fit(X, Y, nb_epochs=1, verbose=False)
    assert np.isfinite(classifier.predict(X)).all()


def test_digits_are_learned_in_bf16_as_in_float32():
    data, accuracies = digits(), []
    for precision in ("float32", "bf16"):
        method = Method(attack="pgd-1", precision=precision)
        recipe = Recipe(
            data="digits", network="small-8-16", nb_epochs=4, batch_size=32, lambdas=(0.0, 1.0), method=method
        )
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
    model = to_conditional(ResNet((1, 1), in_channels=3, nb_classes=5, channels=16)).to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return OATClassifier(model, nn.CrossEntropyLoss(), (3, 8, 8), 5, optimizer, clip_values=(0, 1))


def test_a_network_with_channels_last_is_trained_on_such_batches_and_to_the_same_weights():
    x, results = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)).numpy(), []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        classifier, attack = of_three_channels(memory_format), Noting()
        trainer = OATTrainer(classifier, attack=attack, augmentation=RandomCropFlip(1), ema=0.9)
        trainer.fit(x, Y, batch_size=10, nb_epochs=2, verbose=False)
        results.append(state(classifier))
        assert set(attack.is_channels_last) == {memory_format == torch.channels_last}
    assert results[1]["network.stem.0.weight"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)  # float32, summed in another order


def double(*, lambdas=LAMBDAS, make=Residual, learning_rate: float = 0.0, **conversion) -> OATClassifier:
    """In float64; at a learning rate of 0 the gradient of the last step stays the only trace in the weights."""
    torch.manual_seed(0)
    model = to_conditional(make().double(), lambdas, **conversion)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    return OATClassifier(model, nn.CrossEntropyLoss(), (1, 6, 6), 5, optimizer, clip_values=(0, 1))


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


DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@parametrize_in_pairs(precision=DTYPES, attack_precision=[None, *DTYPES], perturbation=[None, WeightPerturbation(0.1)])
def test_attack_and_passes_of_training_each_compute_in_the_precision_asked_for(
    precision, attack_precision, perturbation
):
    classifier, attack, seen = make_classifier(), Noting(), set()

    def note(part, inputs, result):
        if part.training:  # plain networks, which have the hook as well, never are
            seen.add(result.dtype)

    for part in (classifier.model.network.body[0], classifier.model.network.head):
        part.register_forward_hook(note)
    options = {"precision": precision, "attack_precision": attack_precision, "weight_perturbation": perturbation}
    OATTrainer(classifier, attack=attack, **options).fit(X, Y, (X, Y), batch_size=10, nb_epochs=1, verbose=False)
    nb_points = len(classifier.model.lambdas)
    assert attack.scores == 2 * [DTYPES[attack_precision or precision]] + nb_points * [torch.float32]  # validation
    assert seen == {DTYPES[precision]}


def test_the_precision_of_the_attack_changes_nothing_but_what_the_attack_finds():
    def unmoved(network, x, y):
        network(x)
        return x

    assert is_same(fit(X, Y, attack=unmoved, attack_precision="bf16"), fit(X, Y, attack=unmoved))
    assert not is_same(fit(X, Y, attack_precision="bf16"), fit(X, Y))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_an_attack_in_bf16_gives_images_in_float32_within_its_radius(norm):
    attack, found = PGD(eps=0.1, nb_steps=3, norm=norm), []

    def noting(network, x, y, *, clip_values=None, generator=None):
        found.append((x, attack(network, x, y, clip_values=clip_values, generator=generator)))
        return found[-1][1]

    fit(X, Y, attack=noting, attack_precision="bf16")
    for x, x_adv in found:
        assert x_adv.dtype == torch.float32
        far = distance(x, x_adv, norm)
        assert far.max() <= 0.1 + 1e-6  # roundings of float32
        assert far.min() > 0.01


def test_the_same_seed_gives_the_same_training_with_an_attack_in_bf16():
    options = {"augmentation": mirror_some, "attack_precision": "bf16"}
    first, again = (fit(X, Y, seed=1, **options) for _ in range(2))
    assert is_same(first, again)
    assert not is_same(first, fit(X, Y, seed=2, **options))


@pytest.mark.parametrize("attack_precision", ["fp8", "", True, torch.bfloat16])
def test_an_unknown_precision_of_the_attack_is_refused(classifier, attack_precision):
    with pytest.raises(ValueError, match=r"attack_precision must be one of \('float32', 'bf16'\), got "):
        OATTrainer(classifier, attack_precision=attack_precision)


def test_every_fault_of_both_precisions_is_named(classifier):
    with pytest.raises(
        ValueError, match=r"precision must be one of .*, got 'fp8'.*attack_precision must .*, got 'fp4'"
    ):
        OATTrainer(classifier, precision="fp8", attack_precision="fp4")
    needs = "bf16 needs weights in float32"
    with pytest.raises(ValueError, match=f"precision {needs}, .*attack_precision {needs}, got torch.float64"):
        OATTrainer(double(), precision="bf16", attack_precision="bf16")
    with pytest.raises(ValueError, match=f"^attack_precision {needs}, got torch.float64"):
        OATTrainer(double(), attack_precision="bf16")


def laid_out(network: nn.Module, layout: torch.memory_format, **options):
    return to_conditional(network, **options).to(memory_format=layout)


@pytest.mark.parametrize(
    ("stride", "kernel", "inputs", "is_fault"),
    [(2, 1, 12, True), (2, 1, 16, False), (1, 1, 12, False), (2, 3, 12, False)],
)
def test_what_torch_cannot_train_with_channels_last_is_named(stride, kernel, inputs, is_fault):
    network = nn.Sequential(
        nn.Conv2d(3, inputs, 3), nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 24, kernel, stride), nn.BatchNorm2d(24)
    )
    faults = layout_faults(laid_out(network, torch.channels_last))
    assert bool(faults) is is_fault
    assert all("does not train 2 right" in fault for fault in faults)
    assert layout_faults(laid_out(network, torch.contiguous_format)) == []


def test_a_narrow_width_counts_where_layers_are_too_narrow_for_channels_last():
    model = laid_out(WideResNet(10, 1), torch.channels_last, widths=(0.75, 1.0), input_shape=(3, 32, 32))
    (fault,) = layout_faults(model)
    assert "stages.1.0.shortcut" in fault  # takes 16 channels, and 12 at width 0.75; that of the last stage takes 24
    assert "stages.2.0.shortcut" not in fault
    assert layout_faults(laid_out(WideResNet(10, 1), torch.channels_last)) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_the_last_step_spoiled_is_found_though_no_sample_shows_it(bad):
    """An infinite weight before a ReLU may leave every answer finite."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    model = to_conditional(network)
    unused = nn.Parameter(torch.zeros(2))
    model.network.register_parameter("unused", unused)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    classifier = OATClassifier(model, nn.CrossEntropyLoss(), (1, 4, 4), 3, optimizer, clip_values=(0, 1))
    step = Step(classifier, Method(), bind(PGD(), classifier), torch.Generator())
    step.start_epoch(1)
    step(torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    with torch.no_grad():
        unused[1] = bad
    with pytest.raises(RuntimeError, match="got a weight of"):
        step.end_epoch()
    assert torch.equal(unused, torch.zeros(2))


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


@pytest.mark.parametrize("share", [1, -0.1, math.nan, "half"])
def test_a_clean_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match=r"clean_share must lie in \[0, 1\)"):
        OATTrainer(make_classifier(), attack=ATTACK, clean_share=share)


def test_a_scheduler_that_waits_for_a_plateau_is_refused_with_clean_epochs():
    classifier = make_classifier()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(classifier.optimizer)
    with pytest.raises(ValueError, match="scheduler must be no ReduceLROnPlateau with clean_share"):
        OATTrainer(classifier, attack=ATTACK, clean_share=0.5).fit(X, Y, nb_epochs=2, scheduler=plateau, verbose=False)
