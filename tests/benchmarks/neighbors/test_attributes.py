import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat.evaluation.corruptions import CORRUPTIONS
from benchmarks.neighbors.attributes import Attributes, by_attributes
from tests.benchmarks.neighbors.trainers import RECIPE, few_digits, trainer
from tests.networks import images

Y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def at(**places):
    order = ("turn", "right", "down", "contrast", "brightness")
    return torch.tensor([[places.get(name, 0.0) for name in order]] * 8, dtype=torch.float64)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def losses(net, x):
    return F.cross_entropy(net(x), Y, reduction="none").detach()


def attacked(attack, net=None):
    return attack(net or network(), images(8), Y, clip_values=(0, 1), generator=torch.Generator().manual_seed(0))


def test_the_middle_of_all_ranges_is_the_image_itself():
    torch.testing.assert_close(Attributes().changed(images(8), at()), images(8))


def test_a_quarter_turn_and_a_shift_by_pixels_move_pixels_where_they_belong():
    x = images(8)
    turned = Attributes(degrees=90).changed(x, at(turn=-1.0))
    torch.testing.assert_close(turned, x.rot90(-1, (2, 3)))
    shifted = Attributes(shift=1 / 6).changed(x, at(right=1.0, down=-1.0))
    torch.testing.assert_close(shifted[..., 1:, :-1], x[..., :-1, 1:])
    assert not shifted[..., 0, :].any()
    assert not shifted[..., -1].any()


def test_contrast_is_that_of_the_corruptions_and_brightness_is_added():
    x = images(8)
    found = Attributes(contrast=0.7, brightness=0.2).changed(x, at(contrast=-1.0, brightness=0.5))
    spoil, _ = CORRUPTIONS["contrast"]
    torch.testing.assert_close(found, spoil(x, 0.3, torch.Generator()) + 0.1)


def test_more_draws_and_steps_find_no_less_and_none_is_better_than_the_image_itself():
    net = network()
    found = [losses(net, images(8))]
    for attack in (Attributes(nb_draws=1), Attributes(nb_draws=10), Attributes(nb_draws=10, nb_steps=5)):
        found.append(losses(net, attacked(attack, net)))
        assert bool((found[-1] >= found[-2]).all())
    assert found[-1].sum() > found[-2].sum() > found[0].sum()


def test_steps_climb_to_the_end_of_a_range_in_which_the_loss_grows():
    class Bright(nn.Module):
        def forward(self, x):
            total = x.sum(dim=(1, 2, 3))
            return torch.stack([-total, total, total], dim=1) / 10

    x, y = 0.4 * images(8), torch.zeros(8, dtype=torch.int64)
    found = Attributes(0, 0, 0, 0.2, nb_draws=1, nb_steps=5)(Bright(), x, y, clip_values=(0, 1))
    torch.testing.assert_close(found, x + 0.2)


def test_all_ranges_shrink_by_a_factor_and_the_attack_vanishes_with_them():
    half = Attributes(10, 0.2, 0.4, 0.6).scaled(0.5)
    assert (half.degrees, half.shift, half.contrast, half.brightness) == (5, 0.1, 0.2, 0.3)
    torch.testing.assert_close(attacked(Attributes().scaled(1e-9)), images(8), rtol=0, atol=1e-6)


def test_the_judge_has_the_same_ranges_and_looks_longer():
    judge = Attributes(degrees=7.0, nb_draws=3).stronger()
    assert (judge.degrees, judge.nb_draws, judge.nb_steps) == (7.0, 30, 10)


@pytest.mark.parametrize("dials", ["weight", "eps"])
def test_lam_is_the_weight_of_what_is_found_or_the_share_of_the_ranges(dials):
    data = few_digits(32)
    own = trainer(data, weight_perturbation=0.01, dials=dials)
    own.fit(*by_attributes(own, data, RECIPE).train, batch_size=32, nb_epochs=1, verbose=False)
    assert isinstance(own.method.attack, Attributes)
    assert len(own.history) == 1
