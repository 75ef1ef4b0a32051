import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import nn
from torch.nn import functional as F

from benchmarks.neighbors.coresets import Coresets, Subsets, head_gradients, matched, resampled
from tests.benchmarks.neighbors.trainers import RECIPE, few_digits, trainer


def test_the_gradient_of_the_last_layer_is_that_of_autograd():
    torch.manual_seed(0)
    head = nn.Linear(4, 3)
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), head).double()
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    found = head_gradients(network, head, x, y).view(5, 3, 5)
    for row, image, label in zip(found, x, y, strict=True):
        weight, bias = torch.autograd.grad(F.cross_entropy(network(image), label), head.parameters())
        torch.testing.assert_close(row, torch.cat([weight, bias[:, None]], dim=1))
    assert not head._forward_pre_hooks


def test_weights_are_the_fit_to_the_sum_of_all_rows_and_few_rows_that_make_it_up_are_found():
    generator = np.random.default_rng(0)
    basis = np.eye(3, 8)
    rows = np.concatenate([basis, 0.01 * generator.normal(size=(9, 8))])
    weights = matched(rows, 3, ridge=0.0)
    assert np.flatnonzero(weights).tolist() == [0, 1, 2]
    np.testing.assert_allclose(weights[:3], nnls(rows[:3].T, rows.sum(axis=0))[0])


def test_matching_leaves_less_than_most_choices_of_as_many_rows():
    rows = np.random.default_rng(0).normal(size=(9, 5)) + 1

    def left(weights):
        return np.linalg.norm(weights @ rows - rows.sum(axis=0))

    others = [nnls(rows[[*it]].T, rows.sum(axis=0))[1] for it in itertools.combinations(range(9), 3)]
    found = matched(rows, 3, ridge=0.0)
    assert (found >= 0).all()
    assert left(found) < np.median(others)


def test_images_are_drawn_their_share_of_times_rounded_up_or_down():
    weights = np.array([0.0, 1.0, 2.5, 0.5, 0.0, 4.0])
    for seed in range(20):
        drawn = resampled(weights, 20, torch.Generator().manual_seed(seed))
        counts = np.bincount(drawn.numpy(), minlength=6)
        assert len(drawn) == counts.sum() == 20
        assert (np.abs(counts - 20 * weights / 8) < 1).all()


def test_images_come_in_turns_before_the_first_choice_and_are_chosen_anew_every_few_epochs():
    chosen = iter([np.eye(10)[3], np.eye(10)[7]])
    coresets = Coresets(lambda: next(chosen), 2, 2, 10, 5, 5, 0)
    seen = []
    for number in range(6):
        coresets.set_epoch(number)
        seen.append(coresets.epoch().tolist())
    assert sorted(seen[0] + seen[1]) == list(range(10))
    assert seen[2:] == [[3] * 5] * 2 + [[7] * 5] * 2


@pytest.mark.parametrize("is_matched", [False, True])
def test_half_of_the_images_train_after_the_first_epochs(is_matched):
    data = few_digits(120)
    own = trainer(data, weight_perturbation=0.01)
    recipe = RECIPE.changed(nb_epochs=2, batch_size=30)
    batches = Subsets(0.5, 0.5, 1, is_matched=is_matched)(own, data, recipe)
    own.fit(batches, nb_epochs=2, verbose=False)
    weights = batches.sampler.weights
    assert len(batches) == 2
    assert weights.shape == (120,)
    assert 0 < (weights > 0).sum() <= 60
