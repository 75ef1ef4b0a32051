import itertools

import numpy as np
import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import nn

from art_oat.attacks import UnitImages, unit_range_faults

SHAPES = [(1, 6, 6), (36,), (13,), (1,), (2, 25), (3, 1, 40), (2, 3, 4, 5), (1, 12, 12)]


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("clip_values", [(0, 1), (-1, 1), (0.5, 3.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_those_of_the_same_inputs_in_their_own_units_and_shape(shape, clip_values, channels_first):
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3)).double()
    low, high = clip_values
    x = low + (high - low) * torch.rand(5, *shape, dtype=torch.float64)
    unit = UnitImages(network, clip_values, shape, channels_first=channels_first)
    images = unit.to_images(x)
    assert images.shape == (5, *unit.image_shape)
    assert images.min() >= 0
    assert images.max() <= 1
    torch.testing.assert_close(unit.from_images(images), x)
    torch.testing.assert_close(unit(images), network(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_entry_has_a_place_of_its_own_and_the_network_sees_nothing_else(shape):
    unit = UnitImages(nn.Flatten(), (0, 1), shape)
    images = unit.to_images(torch.ones(1, *shape))
    assert int((images == 1).sum()) == int(np.prod(shape))
    assert int((images == 0).sum()) == images.numel() - int(np.prod(shape))
    images.requires_grad_()
    unit(images).sum().backward()
    assert torch.equal(images.grad, images.detach())


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 64, 64), (2, 20, 60)])
def test_images_are_left_as_they_are(shape):
    unit = UnitImages(nn.Flatten(), (0, 1), shape)
    x = torch.rand(2, *shape)
    assert torch.equal(unit.to_images(x), x)


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((64,), (1, 8, 8)),
        ((3, 100), (3, 10, 10)),
        ((2, 4, 5, 5), (2, 10, 10)),
        ((1, 2, 50), (1, 10, 10)),  # too narrow for a square of any size
        ((1, 12, 12), (1, 13, 13)),  # too small by one for six windows of two
        ((1,), (1, 5, 5)),
        ((1, 28, 30), (1, 28, 31)),
    ],
)
def test_what_is_no_image_becomes_one_that_squares_fit_in(shape, image_shape):
    assert UnitImages(nn.Flatten(), (0, 1), shape).image_shape == image_shape


def test_channels_that_come_last_come_first_in_the_image():
    x = torch.rand(2, 5, 6, 3)
    unit = UnitImages(nn.Flatten(), (0, 1), (5, 6, 3), channels_first=False)
    assert torch.equal(unit.to_images(x), x.permute(0, 3, 1, 2))
    assert unit.to_images(x).is_contiguous()


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_the_start_of_the_square_attack_fits_in_every_image(norm):
    for height, width in itertools.product((1, 3, 5, 9, 12, 14, 18, 24, 30), repeat=2):
        unit = UnitImages(nn.Flatten(), (0, 1), (1, height, width))
        attack = SquareAttack(_undecided, norm, n_queries=0, eps=0.5, device="cpu")
        images = unit.to_images(torch.full((1, 1, height, width), 0.5))
        attack.init_hyperparam(images)
        _, started = attack.attack_single_run(images, torch.zeros(1, dtype=torch.long))
        assert not torch.equal(unit.from_images(started), unit.from_images(images))


def _undecided(images):
    return torch.tensor([1.0, 0.0]).expand(len(images), 2).clone()


def test_a_range_that_differs_between_features_or_is_missing_is_a_fault():
    assert unit_range_faults((0, 1), "it") == []
    assert "it needs the same clip_values for every feature" in unit_range_faults(([0, 0], [1, 2]), "it")[0]
    assert "it needs the classifier's clip_values, got None" in unit_range_faults(None, "it")[0]
