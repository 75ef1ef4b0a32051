import torch
from torch import nn

from art_oat.attacks import distance, is_correct, robust_correct


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
