from dataclasses import replace
from functools import wraps

import pytest
import torch
from torch import nn

from art_oat import PGD
from art_oat.data import Dataset, Split
from art_oat.data.augmentation import RandomCropFlip
from art_oat.training import CatastrophicOverfittingWarning, Validation
from art_oat.training.guard import Guard
from benchmarks.configs import DIGITS_RECIPE
from benchmarks.neighbors.one_step import (
    NEIGHBORS,
    BatchPrior,
    ClassPrior,
    ImagePrior,
    PriorFGSM,
)
from benchmarks.neighbors.recognition import Memory, Recognition, keys

SHAPE = (1, 3, 3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(*shape, seed=0):
    return 2 * torch.rand(shape, dtype=torch.float64, generator=generator(seed)) - 1


class Linear(nn.Module):
    """Two classes; the gradient of the loss of class 1 has the sign of ``-w`` everywhere."""

    def __init__(self):
        super().__init__()
        self.w = uniform(9, seed=5)

    def forward(self, x):
        score = x.flatten(1) @ self.w
        return torch.stack([-score, score], dim=1)


class At:
    """A prior that starts somewhere, and takes down what it is told."""

    def __init__(self, where):
        self.where, self.learned = where, []

    def start(self, x, y, otherwise):
        return self.where

    def learn(self, x, y, found, gradient):
        self.learned.append(found)


@pytest.mark.parametrize("step", [1.0, 0.25])
def test_the_step_goes_along_the_sign_from_the_start_and_ends_in_the_ball_and_the_range(step):
    network, own = Linear(), generator()
    x, start, y = 0.5 + 0.5 * uniform(4, *SHAPE), uniform(4, *SHAPE, seed=1), torch.tensor([0, 1, 1, 0])
    prior = At(start)
    x_adv = PriorFGSM(0.3, prior, own, step)(network, x, y, clip_values=(0, 1), generator=own)
    sign = (network.w.sign() * torch.tensor([[1], [-1], [-1], [1]])).view(4, *SHAPE)
    begun = (x + 0.3 * start).clamp(0, 1)
    expected = (x + (begun + 0.3 * step * sign - x).clamp(-0.3, 0.3)).clamp(0, 1)
    torch.testing.assert_close(x_adv, expected)
    torch.testing.assert_close(prior.learned, [(expected - x) / 0.3])


def test_attacks_that_measure_teach_nothing_and_a_smaller_radius_starts_at_the_same_share():
    own, prior, x, y = generator(), At(uniform(2, *SHAPE)), 0.5 + 0 * uniform(2, *SHAPE), torch.tensor([0, 1])
    attack = PriorFGSM(0.2, prior, own)
    attack(Linear(), x, y, generator=generator())
    attack(Linear(), x, y)
    assert prior.learned == []
    whole, half = (it(Linear(), x, y, generator=own) - x for it in (attack, attack.scaled(0.5)))
    torch.testing.assert_close(half, whole / 2)


def test_a_class_remembers_the_sign_of_the_momentum_of_its_mean_gradient():
    corners, y = uniform(3, *SHAPE), torch.tensor([2, 0, 2, 2])
    prior, momentum, values = ClassPrior(corners), torch.zeros(3, *SHAPE).double(), 1.25 * corners.sign()
    for seed in range(4):
        gradient = uniform(4, *SHAPE, seed=seed)
        prior.learn(gradient, y, gradient, gradient)
        total = gradient.abs().sum()
        for label, rows in ((0, [1]), (2, [0, 2, 3])):
            mean = sum(gradient[row] / total for row in rows) / len(rows)
            momentum[label] = mean + 0.3 * momentum[label]
            values[label] = (values[label] + 1.25 * momentum[label].sign()).clamp(-1.25, 1.25)
    torch.testing.assert_close(prior.start(gradient, y, gradient), values[y].clamp(-1, 1))


def test_a_batch_starts_where_the_one_before_ended_row_by_row_and_rows_beyond_it_from_noise():
    prior, found, other, y = BatchPrior(), uniform(3, *SHAPE), uniform(5, *SHAPE, seed=1), torch.zeros(5).long()
    assert torch.equal(prior.start(other, y, other), other)
    prior.learn(other[:3], y[:3], found, found)
    assert torch.equal(prior.start(other[:2], y[:2], other[:2]), found[:2])
    assert torch.equal(prior.start(other, y, other), torch.cat([found, other[3:]]))


@pytest.mark.parametrize("has_momentum", [False, True])
def test_an_image_starts_where_it_ended_or_where_its_momentum_points(has_momentum):
    x, first = uniform(5, *SHAPE), uniform(5, *SHAPE, seed=1)
    recognition = Recognition(None, {key: number for number, key in enumerate(keys(x))})
    momentum = Memory(recognition, torch.zeros_like(x)) if has_momentum else None
    prior, expected, momenta = ImagePrior(Memory(recognition, first.clone()), momentum), first.clone(), 0 * x
    for seed, order in enumerate(([0, 3, 2], [3, 1], [2, 3])):
        batch, found = x[order], uniform(len(order), *SHAPE, seed=2 + seed)
        gradient = uniform(len(order), *SHAPE, seed=9 + seed)
        recognition(batch, generator())
        torch.testing.assert_close(prior.start(batch, order, 0 * batch), expected[order])
        prior.learn(batch, order, found, gradient)
        for row, number in enumerate(order):
            momenta[number] = gradient[row] / gradient.abs().sum() + 0.3 * momenta[number]
            moved = (expected[number] + momenta[number].sign()).clamp(-1, 1)
            expected[number] = moved if has_momentum else found[row]
    torch.testing.assert_close(prior.memory.values, expected)


PRIORS = [name for name, part in NEIGHBORS.items() if PriorFGSM in part.code]


@pytest.fixture(scope="module")
def data():
    """Three classes of images with a bar each, of which some are held out."""
    x = torch.rand(60, 1, 8, 8, generator=generator()) * 0.2
    y = torch.arange(60) % 3
    for label in range(3):
        x[y == label, :, :, 2 * label : 2 * label + 3] += 0.7
    return Dataset(*(Split(x[part].numpy(), y[part].numpy()) for part in (slice(0, 36), slice(36, 60), slice(36, 60))))


def trained(name, data, *, nb_epochs=2, **parts):
    """Train a tiny network by a part; return its trainer, and all its weights."""
    neighbor = NEIGHBORS[name]
    recipe = neighbor.changed(
        DIGITS_RECIPE.changed(network="small-4", batch_size=16, lambdas=(0.0, 1.0)), seed=1, nb_epochs=nb_epochs
    )
    trainer = neighbor.trainer(recipe, data)
    trainer.method = replace(trainer.method, **parts)
    samples = neighbor.prepare(trainer, data, recipe)
    options = {"validation_data": Validation(*samples.validation, interval=nb_epochs), "verbose": False}
    trainer.fit(*samples.train, batch_size=recipe.batch_size, nb_epochs=nb_epochs, **options)
    return trainer, torch.cat([it.detach().flatten() for it in trainer.classifier.model.parameters()])


@pytest.mark.parametrize("name", PRIORS)
def test_the_same_training_twice_in_a_row_gives_the_same_weights(name, data):
    (_, first), (_, second) = (trained(name, data, augmentation=RandomCropFlip(1), nb_epochs=1) for _ in range(2))
    assert torch.equal(first, second)


def test_in_a_training_every_attacked_image_is_recognized_also_in_parts_of_a_batch(data, monkeypatch):
    written = []
    unchanged = Memory.write

    def write(self, x, values):
        written.append((len(x), *self.recognition.of(x)[1].tolist()))
        unchanged(self, x, values)

    monkeypatch.setattr(Memory, "write", write)
    trained("image prior", data, augmentation=RandomCropFlip(1), accumulation_steps=2, nb_epochs=1)
    numbers = [number for _, *part in written for number in part]
    assert len(written) > 3 + 1  # batches
    assert len(numbers) == len({*numbers}) == sum(length for length, *_ in written)


@pytest.mark.parametrize("name", PRIORS)
def test_where_robustness_collapses_the_fallback_takes_over_from_every_prior(name, data, monkeypatch):
    asked = []
    unchanged = PriorFGSM.__call__

    @wraps(unchanged)
    def attack(self, *given, **options):
        asked.append(options["generator"] is self.trains)
        return unchanged(self, *given, **options)

    def collapses(guard):
        nb_before = sum(asked)
        guard.robust_correct(guard.weak, 1.0)
        assert sum(asked) == nb_before  # a look teaches nothing
        guard.has_tripped = True
        return True

    monkeypatch.setattr(PriorFGSM, "__call__", attack)
    monkeypatch.setattr(Guard, "has_collapsed", collapses)
    with pytest.warns(CatastrophicOverfittingWarning):
        trainer, _ = trained(name, data)
    assert isinstance(trainer.method.fallback, PGD)
    assert sum(asked) == 3  # the batches of the epoch that is undone
    assert [record.is_undone for record in trainer.history] == [True, False, False]
