import pytest
import torch
from torch import nn

from art_oat.attacks import distance, is_correct, robust_correct, within_ball
from tests.evaluation.subjects import Linear, linear_data


class FirstPixel(nn.Module):
    """Answers with the class that the first pixel names."""

    def forward(self, x):
        return nn.functional.one_hot(x.flatten(1)[:, 0].long(), 2).double()


def test_what_withstands_was_right_before_and_after():
    x = torch.zeros(8, 1, 2, 2)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])  # the last four are wrong before the attack

    def flip_odd(network, x, y, *, clip_values=None, generator=None):
        return x + (torch.arange(len(x)) % 2)[:, None, None, None]

    clean, robust = robust_correct(FirstPixel(), x, y, flip_odd, batch_size=4)
    assert clean.tolist() == is_correct(FirstPixel(), x, y).tolist() == [True] * 4 + [False] * 4
    assert robust.tolist() == [True, False] * 2 + [False] * 4


def test_distance_is_the_norm_of_what_was_added():
    x, delta = torch.zeros(2, 1, 2, 2), torch.tensor([[3.0, -4.0, 0.0, 0.0], [1.0, 1.0, 1.0, -1.0]]).view(2, 1, 2, 2)
    assert distance(x, x + delta, "Linf").tolist() == [4.0, 1.0]
    assert distance(x, x + delta, "L2").tolist() == [5.0, 2.0]
    assert distance(x, x + delta, "L1").tolist() == [7.0, 4.0]


@pytest.mark.parametrize(("norm", "nb_moved"), [("Linf", 1), ("L2", 25), ("L1", 2)])
def test_an_attack_that_leaves_its_ball_is_no_measurement(norm, nb_moved):
    """Moving m pixels by 0.1 is 0.1 (Linf), sqrt(m) 0.1 (L2) and m 0.1 (L1) far."""

    def jump(network, x, y, *, clip_values=None, generator=None):
        x_adv = x.clone()
        x_adv.flatten(1)[:, :nb_moved] += 0.1
        return x_adv

    (x, y), far = linear_data(4), {"Linf": 0.1, "L2": 0.5, "L1": 0.2}[norm]
    with pytest.raises(RuntimeError, match=rf"must stay within eps = {0.9 * far:g} \({norm}\), but went 1.11"):
        within_ball(jump, 0.9 * far, norm)(Linear(), x, y)
    assert torch.equal(within_ball(jump, far, norm)(Linear(), x, y), jump(None, x, y))


def test_an_attack_that_gives_no_numbers_is_no_measurement():
    def lose(network, x, y, *, clip_values=None, generator=None):
        return torch.full_like(x, torch.nan)

    with pytest.raises(RuntimeError, match="went nan times as far"):
        within_ball(lose, 0.1, "Linf")(Linear(), *linear_data(4))
